"""What the vault can carry: persons, disclosures and keys a second, per second of the vault's own CPU.

    python -P bench/vault.py [--persons 20000] [--ledger 10000000] [--quick | --only breach] [--output FILE]

The vault's routes run in a process of their own over a PostgreSQL of their own, without Kafka; this process is the
caller, with batches of 500 over two connections. Rates are items a second of the CPU time that the vault's process took
(user and system); the wall rate beside them is that of a machine that also carries caller and PostgreSQL. `SCALE=100m`
in the environment makes the ledger of the breach query a hundred million rows (25 GB under TMPDIR, run once; with
`--only breach` nothing else).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealCall, SealItem
from common.http.problems import install_problem_handlers
from common.http.server import serve
from common.http.vault import VaultClient
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.signing import Signer
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.fakes import FakePublisher
from vault import store
from vault.api import vault_routes
from vault.domain import ITEMS_PER_SECOND, Processor
from vault.gate import Gate
from vault.keyring import Keyring
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.operator_api import operator_routes
from vault.rates import Rates
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

CALLERS = ("ingestion", "moderation", "routing", "operator")
PROCESSOR = Processor("smtp.default", "email", frozenset({"address", "name"}), approved=True, country="DE", purpose="x")
BATCH = 500
ROAD_BATCH = 250
CONNECTIONS = 2
ACCOUNTS = 20
SINGLES = 10_000
SINGLES_AT_ONCE = 16
BUDGET_US = 90
LEDGER_DAYS = 30
LEDGER_PROVIDERS = 3
GENERATED_AT_ONCE = 1_000_000
GENERATED_PEOPLE = 3_000_000


def vault_app(settings: dict[str, Any]) -> FastAPI:
    """Return the vault's routes over a database, without Kafka."""
    private = {n: Ed25519PrivateKey.from_private_bytes(base64.b64decode(key)) for n, key in settings["keys"].items()}
    verifier = TokenVerifier("vault", {name: key.public_key() for name, key in private.items()})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = await connect_pool(settings["dsn"])
        await store.replace_processors(pool, [PROCESSOR])
        keyring = Keyring(KeyFolder(Path(settings["folder"]), RootKey(bytes(32))), 10_000)
        await keyring.start(pool)
        gate = Gate(verifier, pool, Rates(dict.fromkeys(ITEMS_PER_SECOND, 1e12)))
        app.include_router(vault_routes(gate, pool, keyring, FakePublisher(), FakePublisher()))
        app.include_router(operator_routes(gate, pool, keyring, Signer("vault", private["operator"])))
        yield
        await pool.close()

    app = FastAPI(lifespan=lifespan)
    install_problem_handlers(app)
    return app


class Meter:
    """Takes the CPU time of the vault's process and the wall time around a piece of work."""

    def __init__(self, vault_process: int) -> None:
        self._vault = psutil.Process(vault_process)
        self.measures: list[dict[str, Any]] = []

    def cpu_seconds(self) -> float:
        """CPU seconds that the vault's process has taken."""
        times = self._vault.cpu_times()
        return float(times.user + times.system)

    async def measure(
        self, name: str, items: int, work: Iterable[Callable[[], Awaitable[None]]], goal: float | None = None
    ) -> float:
        """Do the work, a few calls at a time; note and return CPU seconds an item."""
        pending = iter(work)

        async def worker() -> None:
            for call in pending:
                await call()

        cpu, wall = self.cpu_seconds(), time.monotonic()
        await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
        cpu, wall = max(self.cpu_seconds() - cpu, 0.01), time.monotonic() - wall
        note = f"{cpu / items * 1e6:.1f} us of CPU each; {items / wall:,.0f}/s by the wall"
        self.note(name, items / cpu, "per core second", goal, ">=", note=note)
        return cpu / items

    def note(
        self, name: str, value: float, unit: str, goal: float | None = None, comparison: str = "<=", *, note: str = ""
    ) -> None:
        """Add one measure."""
        digits = 1 if value < 1000 else 0
        self.measures.append(
            {
                "name": name,
                "value": round(value, 4 if value < 1 else digits),
                "unit": unit,
                "goal": goal,
                "comparison": comparison,
                "note": note,
            }
        )


class Load:
    """The calls as the services make them, and what they answered."""

    def __init__(self, url: str, keys: dict[str, Ed25519PrivateKey]) -> None:
        self.url = url
        self.issuer_of = {name: TokenIssuer(name, key) for name, key in keys.items()}
        self.clients = {name: VaultClient(url, issuer) for name, issuer in self.issuer_of.items()}
        self.operator = httpx.AsyncClient(base_url=url, timeout=300, trust_env=False)
        self.issuer = self.issuer_of["operator"]

    async def close(self) -> None:
        """Close the connections."""
        await self.operator.aclose()
        for client in self.clients.values():
            await client.close()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask as an operator."""
        answer = await self.operator.post(path, json=body, headers=self.issuer.headers("vault"))
        answer.raise_for_status()
        return answer.json()


def people(label: str, count: int, *, fields: bool) -> list[SealItem]:
    """Return persons that nobody knows yet, with an address and, on demand, four more fields."""
    run = uuid.uuid4().hex[:6]
    more = {"postal_address": "Ring 1, 1010 Wien", "language": "de-AT"}
    return [
        SealItem(
            f"account-{number % ACCOUNTS}",
            str(uuid.uuid4()),
            f"{label}-{run}-{number}@example.org",
            {"name": "Anna Beispiel", "phone": f"+4930{number:09d}", **more} if fields else {"name": "Anna Beispiel"},
            os.urandom(32),
        )
        for number in range(count)
    ]


def parts(items: Sequence[Any], size: int = BATCH) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class Stage:
    """One population of persons going through all three calls."""

    def __init__(self, load: Load, persons: Sequence[SealItem], batch: int) -> None:
        self._load = load
        self._persons = persons
        self._batch = batch
        self.tokens: dict[str, tuple[str, bytes]] = {}

    def seals(self) -> list[Callable[[], Awaitable[None]]]:
        """The calls that seal them."""

        async def call(items: Sequence[SealItem]) -> None:
            answers = await self._load.clients["ingestion"].seal(SealCall("intake", list(items)))
            for item, answer in zip(items, answers, strict=True):
                assert answer.token, answer.problem
                assert answer.capsule
                self.tokens[item.message_id] = (answer.token, answer.capsule)

        return [lambda part=part: call(part) for part in parts(self._persons, self._batch)]

    def opens(self) -> list[Callable[[], Awaitable[None]]]:
        """The calls that open their messages."""

        async def call(items: Sequence[SealItem]) -> None:
            asked = [OpenItem(item.account_id, item.message_id, *self.tokens[item.message_id]) for item in items]
            answers = await self._load.clients["moderation"].open(OpenCall("screening", asked))
            assert all(answer.message_key for answer in answers)

        return [lambda part=part: call(part) for part in parts(self._persons, self._batch)]

    def discloses(
        self, fields: Sequence[str] = ("address", "name"), attempt: int = 1
    ) -> list[Callable[[], Awaitable[None]]]:
        """The calls that disclose them."""

        async def call(items: Sequence[SealItem]) -> None:
            answers = await self._load.clients["routing"].disclose(self._asked(items, fields, attempt))
            assert all(answer.fields for answer in answers), answers[0].problem

        return [lambda part=part: call(part) for part in parts(self._persons, self._batch)]

    def single_requests(self, issuer: TokenIssuer, attempt: int) -> list[bytes]:
        """The requests that disclose them one by one, as they go over the wire."""
        bodies = [msgspec.json.encode(self._asked([one], ("address", "name"), attempt)) for one in self._persons]
        head = (
            f"POST /v1/disclose:batch HTTP/1.1\r\nhost: vault\r\ncontent-type: application/json\r\n"
            f"authorization: {issuer.headers('vault')['authorization']}\r\ncontent-length: "
        )
        return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]

    def _asked(self, items: Sequence[SealItem], fields: Sequence[str], attempt: int) -> DiscloseCall:
        asked = [
            DiscloseItem(
                item.account_id, item.message_id, *self.tokens[item.message_id], "d" * 64, "contract", 1, attempt
            )
            for item in items
        ]
        return DiscloseCall("delivery", PROCESSOR.name, list(fields), asked)


async def measure_calls(load: Load, meter: Meter, persons: int) -> Stage:
    """Seal, open, disclose at batches of 500, with five fields."""
    warm = Stage(load, people("warm", BATCH * 8, fields=True), BATCH)
    for calls in (warm.seals(), warm.opens(), warm.discloses()):
        for call in calls:
            await call()
    stage = Stage(load, people("bench", persons, fields=True), BATCH)
    await meter.measure("seal, new persons, five fields", persons, stage.seals(), 10_000)
    await meter.measure("seal, known persons, five fields", persons, stage.seals())
    await meter.measure("open", persons, stage.opens(), 40_000)
    await meter.measure("disclose two fields, ledger row", persons, stage.discloses(), 40_000)
    return stage


async def measure_road(load: Load, meter: Meter, persons: int) -> None:
    """What a mail costs: address and name sealed, opened once, the address disclosed; batches of 250."""
    road = Stage(load, people("road", persons, fields=False), ROAD_BATCH)
    total = 0.0
    for name, calls in (
        ("road: seal, new persons", road.seals()),
        ("road: open", None),
        ("road: disclose the address", None),
    ):
        steps = calls or (road.opens() if "open" in name else road.discloses(("address",)))
        total += await meter.measure(name, persons, steps)
    meter.note("road: CPU a mail", total * 1e6, "us", BUDGET_US, "<=", note=f"batches of {ROAD_BATCH}")


class Wire:
    """One kept connection that costs its caller next to nothing: requests are bytes, and so are answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Wire:
        """Connect to a URL's host and port."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes) -> None:
        """Send a request, wait for its whole answer, which must disclose something."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        assert head.startswith(b"HTTP/1.1 200"), body
        assert b"message_key" in body, body

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def measure_singles(load: Load, meter: Meter, stage: Stage) -> None:
    """Disclosures one by one, 16 at a time."""
    requests = iter(stage.single_requests(load.issuer_of["routing"], attempt=2)[:SINGLES])
    wires = [await Wire.open(load.url) for _ in range(SINGLES_AT_ONCE)]
    taken: list[float] = []

    async def worker(wire: Wire) -> None:
        for request in requests:
            started = time.monotonic()
            await wire.ask(request)
            taken.append(time.monotonic() - started)

    cpu, wall = meter.cpu_seconds(), time.monotonic()
    await asyncio.gather(*(worker(wire) for wire in wires))
    cpu, wall = meter.cpu_seconds() - cpu, time.monotonic() - wall
    for wire in wires:
        wire.close()
    rate = f"{len(taken) / wall:,.0f}/s by the wall, {SINGLES_AT_ONCE} at a time"
    note = f"{cpu / len(taken) * 1e6:.0f} us of CPU each; {rate}"
    meter.note("single disclose", len(taken) / cpu, "requests per core second", 1200, ">=", note=note)
    p50, p99 = (statistics.quantiles(taken, n=100)[at] * 1000 for at in (49, 98))
    meter.note("single disclose p99", p99, "ms", 20, "<=", note=f"median {p50:.1f} ms")


async def measure_duties(load: Load, meter: Meter, stage: Stage, superuser: asyncpg.Connection[Any]) -> None:
    """The end of an epoch, and erasure with its effect."""
    keys = await superuser.fetchval("SELECT count(*) FROM data_keys")
    cpu, wall = meter.cpu_seconds(), time.monotonic()
    await load.post("/v1/epochs", {})
    cpu, wall = meter.cpu_seconds() - cpu, time.monotonic() - wall
    note = f"{keys:,} keys, {keys / wall:,.0f}/s by the wall, old partition dropped and key destroyed"
    meter.note("re-wrap keys", keys / cpu, "per core second", 50_000, ">=", note=note)
    victims = list(stage.tokens.values())[: BATCH * 10]
    accounts = dict(await superuser.fetch("SELECT token, account_id FROM subjects"))
    bodies = [
        {
            "purpose": "data-protection",
            "reason": "bench",
            "items": [{"account_id": accounts[token], "token": token} for token, _ in part],
        }
        for part in parts(victims)
    ]

    async def erase(body: dict[str, Any]) -> None:
        answer = await load.post("/v1/erase:batch", body)
        assert all("tokens" in one for one in answer["items"]), answer["items"][0]

    await meter.measure("erase", len(victims), [lambda body=body: erase(body) for body in bodies], 5000)
    one = people("last", 1, fields=True)
    last = Stage(load, one, 1)
    await last.seals()[0]()
    (token, capsule), item = last.tokens[one[0].message_id], one[0]
    started = time.monotonic()
    person = {"account_id": item.account_id, "token": token}
    await load.post("/v1/erase:batch", {"purpose": "data-protection", "reason": "bench", "items": [person]})
    call = OpenCall("screening", [OpenItem(item.account_id, item.message_id, token, capsule)])
    (answer,) = await load.clients["moderation"].open(call)
    assert answer.problem is not None
    assert answer.problem["status"] == 410
    meter.note("erase, effective", time.monotonic() - started, "s", 1, "<=", note="from the ask to 410")


async def measure_sizes(meter: Meter, superuser: asyncpg.Connection[Any]) -> None:
    """Bytes on disk a person and a ledger entry, indexes included."""
    await superuser.execute("VACUUM ANALYZE")
    for name, tables, counted in (
        ("person", "relid::regclass::text ~ '^(subjects|data_keys)'", "subjects"),
        ("ledger entry", "relid::regclass::text = 'disclosures'", "disclosures"),
    ):
        size = await superuser.fetchval(
            f"SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables WHERE {tables}"  # noqa: S608
        )
        rows = await superuser.fetchval(f"SELECT count(*) FROM {counted}")  # noqa: S608
        meter.note(f"bytes a {name}", float(size) / rows, "B", note=f"{rows:,} rows, indexes included")


async def measure_growth(load: Load, meter: Meter, sizes: Sequence[int], superuser: asyncpg.Connection[Any]) -> None:
    """CPU an item as the tables grow; the persons in between are sealed like all others."""
    for size in sizes:
        missing = size - await superuser.fetchval("SELECT count(*) FROM subjects")
        if missing > 0:
            for part in parts(people(f"fill-{size}", missing, fields=False), 20_000):
                filling = Stage(load, part, 1000).seals()
                pending = iter(filling)

                async def worker(calls: Any = pending) -> None:
                    for call in calls:
                        await call()

                await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
        await superuser.execute("ANALYZE")
        stage = Stage(load, people(f"grown-{size}", 5000, fields=False), BATCH)
        for name, calls in (("seal", stage.seals()), ("open", None), ("disclose", None)):
            steps = calls or (stage.opens() if name == "open" else stage.discloses())
            await meter.measure(f"{name} at {size:,} persons", 5000, steps)


GENERATE_PEOPLE = """
CREATE UNLOGGED TABLE generated_people AS
SELECT n, 'account-' || n / 100 % 20 AS account_id,
    'rt_' || translate(encode(sha256(n::text::bytea), 'base64'), E'+/=\\n', '-_') AS token
FROM generate_series(0, $1::int - 1) AS n
"""

# Calls of a hundred each, from a number on; the people of a part of the ledger are consecutive ones, again and again.
GENERATE = """
WITH calls AS (
    INSERT INTO access_log (id, at, caller, operation, purpose, provider, outcome, items, answered)
    OVERRIDING SYSTEM VALUE
    SELECT 1000000000 + g, now() - make_interval(secs => g * $3::float8), 'routing', 'disclose', 'delivery',
        'bench.' || (g % $4::int), 'answered', 100, 100
    FROM generate_series($1::int, $1::int + $2::int - 1) AS g
)
INSERT INTO disclosures (
    call_id, ordinal, account_id, message_id, token, fields, legal_basis, instruction_digest, epoch, attempt
)
SELECT 1000000000 + $1::int + (n - $5::int) / 100, 1 + (n - $5::int) % 100, account_id,
    '01900000-0000-7000-8000-' || lpad((n::bigint + $1::bigint * 100)::text, 12, '0'), token,
    3, 'contract', repeat('d', 64), 1, 1
FROM generated_people WHERE n >= $5::int AND n < $5::int + $2::int * 100
"""


async def generate_ledger(rows: int, dsn: str) -> None:
    """Fill ledger and access log with thirty days and three providers, on two connections.

    The ledger is not logged ahead and has no index but the primary key: both cost its making only, the query whose time
    is taken reads neither.
    """
    seconds_a_call = LEDGER_DAYS * 86_400 / (rows / 100)
    at_once = min(GENERATED_AT_ONCE, rows)
    starts = iter(range(0, rows, at_once))

    async def fill(connection: asyncpg.Connection[Any]) -> None:
        await connection.execute("SET synchronous_commit = off; SET enable_seqscan = on")
        for start in starts:
            numbers = (start // 100, at_once // 100, seconds_a_call, LEDGER_PROVIDERS, start % GENERATED_PEOPLE)
            await connection.execute(GENERATE, *numbers, timeout=3600)

    connections = [await asyncpg.connect(dsn) for _ in range(CONNECTIONS)]
    first = connections[0]
    try:
        await first.execute("SET maintenance_work_mem = '1GB'")
        await first.execute("ALTER TABLE access_log DISABLE TRIGGER access_log_remember")
        await first.execute("DROP INDEX disclosures_of_message, disclosures_of_person")
        await first.execute("ALTER TABLE disclosures DROP CONSTRAINT disclosures_pkey, SET UNLOGGED")
        await first.execute(GENERATE_PEOPLE, GENERATED_PEOPLE, timeout=600)
        await first.execute("CREATE INDEX ON generated_people (n)", timeout=600)
        await asyncio.gather(*map(fill, connections))
        await first.execute("ALTER TABLE disclosures ADD PRIMARY KEY (call_id, ordinal)", timeout=7200)
        await first.execute("ALTER TABLE access_log ENABLE TRIGGER access_log_remember")
        await first.execute("ANALYZE disclosures, access_log", timeout=600)
    finally:
        for connection in connections:
            await connection.close()


async def postgres_process(dsn: str) -> psutil.Process:
    """The server's first process, whose children are all others."""
    connection = await asyncpg.connect(dsn)
    try:
        return psutil.Process(int((await connection.fetchval("SELECT pg_read_file('postmaster.pid')")).split()[0]))
    finally:
        await connection.close()


def family_seconds(process: psutil.Process) -> float:
    """CPU seconds that a process and its children, ended ones included, have taken."""
    own = process.cpu_times()
    living = [child.cpu_times() for child in process.children()]
    return float(sum(own) + sum(times.user + times.system for times in living))


async def measure_breach(load: Load, meter: Meter, rows: int, dsn: str, goal: float) -> None:
    """One provider, one day, of a generated ledger."""
    started = time.monotonic()
    await generate_ledger(rows, dsn)
    made = time.monotonic() - started
    until = datetime.now(UTC) - timedelta(days=5)
    since = until - timedelta(days=1)
    server = await postgres_process(dsn)
    taken, answer, cpu = [], {}, family_seconds(server)
    for _ in range(3):
        began = time.monotonic()
        params = {"provider": "bench.1", "since": since.isoformat(), "until": until.isoformat(), "limit": 1000}
        got = await load.operator.get("/v1/breach-scope", params=params, headers=load.issuer.headers("vault"))
        got.raise_for_status()
        answer = got.json()
        taken.append(time.monotonic() - began)
    cpu = (family_seconds(server) - cpu) / len(taken)
    each = ", ".join(f"{one:.2f}" for one in taken)
    found = f"{answer['persons']:,} persons in {answer['disclosures']:,} disclosures"
    note = f"{found}; {each} s, of it {cpu:.2f} s of PostgreSQL's CPU; ledger made in {made:.0f} s"
    meter.note(
        f"breach scope, one provider, one day of {rows:,} entries", statistics.median(taken), "s", goal, "<=", note=note
    )


async def run(
    url: str, keys: dict[str, Ed25519PrivateKey], meter: Meter, dsn: str, arguments: argparse.Namespace
) -> None:
    """All measures, one after the other."""
    load = Load(url, keys)
    superuser = await asyncpg.connect(dsn)
    try:
        if arguments.only != "breach":
            stage = await measure_calls(load, meter, arguments.persons)
            await measure_road(load, meter, arguments.persons)
            await measure_singles(load, meter, stage)
            await measure_duties(load, meter, stage, superuser)
            await measure_sizes(meter, superuser)
        if not arguments.quick:
            if arguments.only != "breach":
                await measure_growth(load, meter, (10_000, 100_000, 1_000_000), superuser)
            big = os.environ.get("SCALE", "").lower() == "100m"
            await measure_breach(load, meter, 100_000_000 if big else arguments.ledger, dsn, 5 if big else 0.5)
    finally:
        await superuser.close()
        await load.close()


async def wait_until_served(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(200):
            try:
                await http.get(url)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return
    raise SystemExit("the vault's process did not start")


def start_database(folder: Path) -> Stack:
    stack = Stack.open(folder)
    stack._prepare()  # noqa: SLF001  the database alone, without Kafka
    stack.start_postgres()
    migrations = Path(__file__).parents[1] / "services" / "vault" / "migrations"
    asyncio.run(migrate(stack.dsn("vault", "vault_owner"), migrations))
    return stack


def report(measures: Sequence[dict[str, Any]], output: Path) -> None:
    """Write the measures as JSON and as a table; say which goals are missed."""
    machine = {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "commit": git.stdout.strip(), "measures": list(measures)}
    output.write_text(json.dumps(document, indent=2) + "\n")
    table = Table("measure", "value", "unit", "goal", "note")
    missed = []
    for one in measures:
        goal, met = one["goal"], True
        if goal is not None:
            met = one["value"] >= goal if one["comparison"] == ">=" else one["value"] <= goal
        missed += [] if met else [one["name"]]
        wanted = "" if goal is None else f"{one['comparison']} {goal:,}" + ("" if met else " MISSED")
        table.add_row(one["name"], f"{one['value']:,}", one["unit"], wanted, one["note"])
    console = Console(width=180)
    console.print(table)
    console.print(f"missed: {', '.join(missed)}" if missed else "all goals met")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=20_000)
    parser.add_argument("--ledger", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="no growth and no breach query")
    parser.add_argument("--only", choices=("breach",), help="nothing but the breach query")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "vault.json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        settings = json.loads(arguments.serve)
        serve("vault", lambda: vault_app(settings), "127.0.0.1", settings["port"])
        return
    keys = {name: Ed25519PrivateKey.generate() for name in CALLERS}
    with tempfile.TemporaryDirectory(prefix="vault-bench-") as folder:
        stack = start_database(Path(folder) / "stack")
        port = stack.port("vault")
        settings = {
            "dsn": stack.dsn("vault"),
            "port": port,
            "folder": f"{folder}/keys",
            "keys": {name: base64.b64encode(key.private_bytes_raw()).decode() for name, key in keys.items()},
        }
        vault_process = subprocess.Popen([sys.executable, "-P", __file__, "--serve", json.dumps(settings)])
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(wait_until_served(url))
            meter = Meter(vault_process.pid)
            asyncio.run(run(url, keys, meter, stack.dsn("vault", "postgres"), arguments))
            report(meter.measures, arguments.output)
        finally:
            vault_process.send_signal(signal.SIGTERM)
            vault_process.wait(10)
            stack.down(wipe=True)


if __name__ == "__main__":
    main()

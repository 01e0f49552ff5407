"""CPU of the vault a message: seal, open and disclose over HTTP, on a PostgreSQL of its own.

    python bench/vault_road.py [--items 250] [--messages 10000] [--concurrency 2] [--json]

The vault's routes run in a process of their own, without Kafka; this process is the caller. Reported are the CPU
microseconds an item that the vault's process took, and the wall-clock rate. The budget for the three together is
90 us a message.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from common.contracts.vault import (
    DiscloseCall,
    DiscloseItem,
    OpenCall,
    OpenItem,
    SealCall,
    SealItem,
)
from common.http.problems import install_problem_handlers
from common.http.server import serve
from common.http.vault import VaultClient
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.tokens import TokenIssuer, TokenVerifier
from vault import store
from vault.api import Gate, vault_routes
from vault.domain import Processor
from vault.keyring import Keyring
from vault.keys.root import RootKey
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

CALLERS = ("ingestion", "moderation", "routing")
PROCESSOR = Processor("smtp.default", "email", frozenset({"address", "name"}), approved=True, country="DE", purpose="x")
BUDGET_US = 90


def vault_app(dsn: str, keys: dict[str, str]) -> FastAPI:
    """Return the vault's routes over a database, without Kafka."""
    private = {name: Ed25519PrivateKey.from_private_bytes(base64.b64decode(key)) for name, key in keys.items()}
    verifier = TokenVerifier("vault", {name: key.public_key() for name, key in private.items()})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = await connect_pool(dsn)
        await store.replace_processors(pool, [PROCESSOR])
        app.include_router(vault_routes(Gate(verifier, pool), pool, Keyring(RootKey(bytes(32)), 10_000)))
        yield
        await pool.close()

    app = FastAPI(lifespan=lifespan)
    install_problem_handlers(app)
    return app


class Meter:
    """Takes the CPU time of the vault's process and of PostgreSQL around a piece of work."""

    def __init__(self, vault_process: int, concurrency: int) -> None:
        self._vault = psutil.Process(vault_process)
        self._concurrency = concurrency
        self.rows: list[dict[str, Any]] = []

    async def measure(self, name: str, items: int, work: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Do the work, a few calls at a time."""
        pending = iter(work)

        async def worker() -> None:
            for call in pending:
                await call()

        cpu, wall = self._cpu_seconds(), time.monotonic()
        await asyncio.gather(*(worker() for _ in range(self._concurrency)))
        cpu, wall = self._cpu_seconds() - cpu, time.monotonic() - wall
        row = {"call": name, "items": items, "cpu_us": round(cpu / items * 1e6, 1), "per_second": round(items / wall)}
        self.rows.append(row)

    def _cpu_seconds(self) -> float:
        times = self._vault.cpu_times()
        return float(times.user + times.system)


class Road:
    """The three calls as the services make them."""

    def __init__(self, url: str, keys: dict[str, Ed25519PrivateKey]) -> None:
        self._clients = {name: VaultClient(url, TokenIssuer(name, key)) for name, key in keys.items()}
        self.sealed: dict[str, tuple[str, bytes]] = {}

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    async def seal(self, messages: Sequence[tuple[str, str]]) -> None:
        """Seal as ingestion."""
        items = [
            SealItem(
                account_id=f"account-{hash(address) % 20}",
                message_id=message,
                address=address,
                fields={"name": "Anna Beispiel"},
                message_key=os.urandom(32),
            )
            for message, address in messages
        ]
        answers = await self._clients["ingestion"].seal(SealCall(purpose="intake", items=items))
        for item, answer in zip(items, answers, strict=True):
            assert answer.token, answer.problem
            assert answer.capsule
            self.sealed[item.message_id] = (answer.token, answer.capsule)

    async def open(self, messages: Sequence[tuple[str, str]]) -> None:
        """Open as moderation."""
        items = [
            OpenItem(message_id=message, token=self.sealed[message][0], capsule=self.sealed[message][1])
            for message, _ in messages
        ]
        answers = await self._clients["moderation"].open(OpenCall(purpose="screening", items=items))
        assert all(answer.message_key for answer in answers)

    async def disclose(self, messages: Sequence[tuple[str, str]]) -> None:
        """Disclose as routing."""
        items = [
            DiscloseItem(
                account_id=f"account-{hash(address) % 20}",
                message_id=message,
                token=self.sealed[message][0],
                capsule=self.sealed[message][1],
                instruction_digest="d" * 64,
                legal_basis="contract",
                epoch=1,
                attempt=1,
            )
            for message, address in messages
        ]
        call = DiscloseCall(purpose="delivery", provider=PROCESSOR.name, fields=["address"], items=items)
        answers = await self._clients["routing"].disclose(call)
        assert all(answer.fields for answer in answers)


async def measure_road(
    url: str, keys: dict[str, Ed25519PrivateKey], meter: Meter, arguments: argparse.Namespace
) -> None:
    """Drive the road: warm up, new recipients, the same ones again, screening, hand-over."""
    road = Road(url, keys)
    numbers = itertools.count()

    def batches(label: str, messages: int) -> list[list[tuple[str, str]]]:
        names = [(f"{label}-message-{next(numbers)}", f"{label}-{n}@example.org") for n in range(messages)]
        return [names[start : start + arguments.items] for start in range(0, messages, arguments.items)]

    warm = batches("warm", arguments.items * 8)
    for name in ("seal", "open", "disclose"):
        for batch in warm:
            await getattr(road, name)(batch)
    fresh, again = batches("fresh", arguments.messages), batches("fresh", arguments.messages)
    steps = [
        ("seal, new recipients", road.seal, fresh),
        ("seal, known recipients", road.seal, again),
        ("open", road.open, fresh),
        ("disclose", road.disclose, fresh),
    ]
    for name, step, work in steps:
        calls = [(lambda batch=batch, step=step: step(batch)) for batch in work]
        await meter.measure(name, arguments.messages, calls)
    await road.close()


async def wait_until_served(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(100):
            try:
                await http.get(url)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return
    raise SystemExit("the vault's process did not start")


def start_database(folder: Path) -> Stack:
    stack = Stack.open(folder)
    stack.up_postgres()
    migrations = Path(__file__).parents[1] / "services" / "vault" / "migrations"
    asyncio.run(migrate(stack.dsn("vault", "vault_owner"), migrations))
    return stack


def report(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    sealed, _, opened, disclosed = (row["cpu_us"] for row in rows)
    total = round(sealed + opened + disclosed, 1)
    if as_json:
        print(json.dumps({"rows": rows, "road_cpu_us": total, "budget_us": BUDGET_US}))
        return
    print(f"{'call':<24}{'CPU us an item':>16}{'items a second':>16}")
    for row in rows:
        print(f"{row['call']:<24}{row['cpu_us']:>16}{row['per_second']:>16}")
    print(f"seal (new), open and disclose together: {total} us of CPU a message; budget {BUDGET_US} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=250, help="items in a call")
    parser.add_argument("--messages", type=int, default=10_000, help="messages to measure")
    parser.add_argument("--concurrency", type=int, default=2, help="calls at a time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        settings = json.loads(arguments.serve)
        serve("vault", lambda: vault_app(settings["dsn"], settings["keys"]), "127.0.0.1", settings["port"])
        return
    keys = {name: Ed25519PrivateKey.generate() for name in CALLERS}
    with tempfile.TemporaryDirectory(prefix="vault-road-") as folder:
        stack = start_database(Path(folder) / "stack")
        port = stack.port("vault")
        settings = {
            "dsn": stack.dsn("vault"),
            "port": port,
            "keys": {name: base64.b64encode(key.private_bytes_raw()).decode() for name, key in keys.items()},
        }
        vault_process = subprocess.Popen([sys.executable, __file__, "--serve", json.dumps(settings)])
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(wait_until_served(url))
            meter = Meter(vault_process.pid, arguments.concurrency)
            asyncio.run(measure_road(url, keys, meter, arguments))
            report(meter.rows, as_json=arguments.json)
        finally:
            vault_process.send_signal(signal.SIGTERM)
            vault_process.wait(10)
            stack.down(wipe=True)


if __name__ == "__main__":
    main()

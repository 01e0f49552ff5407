"""A door over a real PostgreSQL, with a vault and a relay that live in memory."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.contracts.vault import SealAnswer, SealCall, SealItem
from common.http.vault import VaultUnavailableError
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.times import now
from ingestion.admission import Admission, Limits
from ingestion.api import Door, public_routes
from ingestion.body import Bodies, KnownKeys
from ingestion.coalescer import Coalescer
from ingestion.domain import RulesInForce
from ingestion.openapi import described
from ingestion.operator_api import operator_routes
from ingestion.row_seal import RowSeal
from waystation.stack import Stack, checkout_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

RULES = RulesInForce("1", "a" * 64)
TABLES = (
    "accounts users grants api_keys rules_acceptances inboxes standings messages awaiting_receipt message_steps outbox "
    "unauthorised"
)


@dataclass
class FakeVault:
    """Gives each address of an account one token and remembers what it sealed."""

    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    sealed: list[SealItem] = field(default_factory=list)
    calls: int = 0
    away: bool = False
    delay_seconds: float = 0.0
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def seal(self, call: SealCall) -> list[SealAnswer]:
        msgspec.json.decode(msgspec.json.encode(call), type=SealCall)
        self.calls += 1
        await asyncio.sleep(self.delay_seconds)
        if self.away:
            raise VaultUnavailableError("/v1/seal:batch: status 503")
        return [self._answer(item) for item in call.items]

    def _answer(self, item: SealItem) -> SealAnswer:
        if item.address in self.refused:
            return SealAnswer(problem=self.refused[item.address])
        self.sealed.append(item)
        token = self.tokens.setdefault((item.account_id, item.address), f"rt_{len(self.tokens):022d}")
        return SealAnswer(token=token, capsule=b"capsule of " + item.message_id.encode())

    def key_of(self, message_id: str) -> bytes:
        return next(item.message_key for item in self.sealed if item.message_id == message_id)


@dataclass
class FakeRelay:
    records: list[Any] = field(default_factory=list)

    def committed(self, records) -> None:
        self.records += list(records)


@dataclass
class FakeCongestion:
    problem: Any = None

    def refusal(self, *, single: bool):
        return self.problem(single) if self.problem else None


@dataclass
class Harness:
    """A door with everything around it."""

    pool: Any
    vault: FakeVault
    relay: FakeRelay
    congestion: FakeCongestion
    app: FastAPI
    admission: Admission
    client: httpx.AsyncClient
    lanes: list[Coalescer]
    operator: dict[str, str]
    instructions: TrustedKeys
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.account['api_key']}"}

    async def create_account(self, name="Lindqvist Opticians", **body) -> dict[str, Any]:
        body = {"name": name, "inboxes": [{"address": "hello@lindqvist.example"}], "accept_rules": "1", **body}
        answer = await self.client.post("/v1/accounts", json=body, headers=self.operator)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def send(self, item, *, key=None, headers=None):
        content = item if isinstance(item, bytes) else orjson.dumps(item)
        return await self.client.post("/v1/messages", content=content, headers={**(key or self.key), **(headers or {})})

    async def send_batch(self, items, *, key=None):
        content = items if isinstance(items, bytes) else orjson.dumps({"items": items})
        return await self.client.post("/v1/messages:batch", content=content, headers=key or self.key)

    async def count(self, table: str) -> int:
        return await self.pool.fetchval(f"SELECT count(*) FROM {table}")


def an_item(**changes):
    item = {
        "tool": "email",
        "inbox": "hello@lindqvist.example",
        "recipient": {"address": "ines.moreau@mail.example", "name": "Ines Moreau"},
        "content": {"subject": "Your glasses are ready", "text": "They are at the counter until Friday.\n"},
        "purpose": "order-ready",
        "legal_basis": {"kind": "contract", "reference": "order-2041"},
    }
    item.update(changes)
    return {name: value for name, value in item.items() if value is not ...}


@pytest.fixture(scope="session")
def item():
    return an_item


@pytest.fixture(scope="session")
def door_database(tmp_path_factory):
    """A migrated database of the door in a PostgreSQL of its own."""
    stack = Stack.open(tmp_path_factory.mktemp("postgres") / "home")
    with stack._lock():
        stack._prepare()
    try:
        stack.start_postgres()
        migrations = checkout_folder() / "services" / "ingestion" / "migrations"
        asyncio.run(migrate(stack.dsn("ingestion", "ingestion_owner"), migrations))
        yield stack
    finally:
        stack.down(wipe=True)


@pytest.fixture(scope="session")
async def door_pool(door_database):
    pool = await connect_pool(door_database.dsn("ingestion"))
    yield pool
    await pool.close()


@pytest.fixture
async def clean_pool(door_pool, door_database):
    for table in reversed(TABLES.split()):
        if table not in ("users", "accounts", "api_keys", "inboxes", "rules_acceptances", "grants"):
            await door_pool.execute(f"DELETE FROM {table}")
    for table in ("inboxes", "rules_acceptances", "api_keys", "grants", "users", "accounts"):
        await door_pool.execute(f"DELETE FROM {table}")
    await door_pool.execute("UPDATE road_progress SET receipted_until = '-infinity'")
    return door_pool


async def make_harness(pool, limits=None, cycle_seconds=0.005) -> Harness:
    operator_key, signing_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    other_key = Ed25519PrivateKey.generate()
    verifier = TokenVerifier("ingestion", {"operator": operator_key.public_key(), "moderation": other_key.public_key()})
    vault, relay, congestion = FakeVault(), FakeRelay(), FakeCongestion()
    admission = Admission(
        pool=pool,
        sealer=vault,
        signer=Signer("instruction", signing_key),
        relay=relay,
        rules=RULES,
        limits=limits or Limits(700_000, 10_000.0, 20_000),
        row_seal=RowSeal(bytes(64)),
        now=now,
    )
    lanes = [Coalescer(admission.admit, cycle_seconds=cycle_seconds) for _ in range(2)]
    for lane in lanes:
        lane.start()
    app = described()
    app.include_router(public_routes(Door(pool, *lanes, congestion, Bodies(KnownKeys(pool, RULES)), RULES, verifier)))
    app.include_router(operator_routes(pool, RULES, verifier, vault))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")
    return Harness(
        pool,
        vault,
        relay,
        congestion,
        app,
        admission,
        client,
        lanes,
        TokenIssuer("operator", operator_key).headers("ingestion"),
        TrustedKeys("instruction", [signing_key.public_key()]),
        {"other": TokenIssuer("moderation", other_key).headers("ingestion")},
    )


async def opened(pool, limits=None) -> Harness:
    harness = await make_harness(pool, limits)
    harness.account = {**harness.account, **await harness.create_account()}
    return harness


async def closed(harness: Harness) -> None:
    for lane in harness.lanes:
        await lane.stop()
    await harness.client.aclose()


@pytest.fixture
async def door(clean_pool):
    harness = await opened(clean_pool)
    yield harness
    await closed(harness)


@pytest.fixture
async def another_door(door):
    """A second process of the same door: its own loop over the same database, with the same account."""
    harness = await make_harness(door.pool)
    harness.account = door.account
    harness.vault = door.vault
    yield harness
    await closed(harness)


@pytest.fixture
async def slow_door(clean_pool):
    """A door that lets five messages of an account in, and one more every ten seconds."""
    harness = await opened(clean_pool, Limits(700_000, 0.1, 5))
    yield harness
    await closed(harness)


@pytest.fixture
def prepared_door(door_database):
    """A door in a loop of its own, for tests that are no coroutines; one message is known under the key `known`."""
    runner = asyncio.Runner()

    async def start():
        pool = await connect_pool(door_database.dsn("ingestion"))
        harness = await make_harness(pool)
        harness.account = await harness.create_account(f"Property {os.urandom(4).hex()}")
        await harness.send(an_item(idempotency_key="known"))
        return harness

    harness = runner.run(start())
    yield harness, runner.run

    async def stop():
        await closed(harness)
        await harness.pool.close()

    runner.run(stop())
    runner.close()

"""The vault on a real PostgreSQL: keys, ledger, epochs, spent."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import random
import uuid
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import asyncpg
import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from in_process import asking
from msgspec.structs import replace

from common.contracts.basis import BasisKind
from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealAnswer, SealCall, SealItem
from common.events.envelope import decode
from common.events.routing import Receipt, SentReceipt
from common.events.vault import WithdrawalRecorded
from common.http.problems import Problem, install_problem_handlers
from common.http.vault import VaultClient, VaultRefusedError
from common.kafka.consumer import Received
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.signing import SentStatement, Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.fakes import FakePublisher
from vault import store
from vault.api import vault_routes
from vault.domain import Processor
from vault.errors import KeyFileError
from vault.gate import Gate
from vault.handlers import on_receipt_issued
from vault.keyring import Keyring
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.rates import Rates
from vault.scope import EVERY_ACCOUNT, scoped
from waystation.stack import Stack
from waystation.stack.credentials import SUPERUSER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIGRATIONS = Path(__file__).parents[2] / "services" / "vault" / "migrations"
PRINCIPALS = ("ingestion", "moderation", "routing", "enforcement", "operator")
KEYS = {name: Ed25519PrivateKey.generate() for name in PRINCIPALS}
ROOT = RootKey(os.urandom(32))
RECEIPT_KEY = Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys("receipt", [RECEIPT_KEY.public_key()])
PROCESSORS = [
    Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over"),
    Processor("smtp.named", "email", frozenset({"address", "name"}), approved=True, country="DE", purpose="hand-over"),
    Processor("sms.default", "sms", frozenset({"phone"}), approved=True, country="DE", purpose="hand-over"),
    Processor("smtp.pending", "email", frozenset({"address"}), approved=False, country="DE", purpose="hand-over"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL with the vault's database: connection strings of the owner and of the runtime role."""
    stack = Stack.open(tmp_path_factory.mktemp("vault-stack") / "stack")
    stack.up_postgres()
    try:
        asyncio.run(migrate(stack.dsn("vault", "vault_owner"), MIGRATIONS))
        yield SimpleNamespace(
            runtime=stack.dsn("vault"),
            owner=stack.dsn("vault", "vault_owner"),
            superuser=stack.dsn("vault", SUPERUSER),
            keys=stack.layout.home / "vault-keys",
        )
    finally:
        stack.down(wipe=True)


@pytest.fixture(scope="module")
async def pool(database):
    pool = await connect_pool(database.runtime)
    await store.replace_processors(pool, PROCESSORS)
    yield pool
    await pool.close()


def application(pool, keyring, publisher):
    """One copy of the vault."""
    app = FastAPI()
    install_problem_handlers(app)
    verifier = TokenVerifier("vault", {name: key.public_key() for name, key in KEYS.items()})
    app.include_router(vault_routes(Gate(verifier, pool, Rates()), pool, keyring, publisher, publisher))
    return app


class Callers:
    """The services' own client against one copy of the vault."""

    def __init__(self, pool, keyring) -> None:
        self.keyring = keyring
        self.kafka = FakePublisher()
        transport = httpx.ASGITransport(application(pool, keyring, self.kafka))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://vault")

    def client(self, principal: str) -> VaultClient:
        return VaultClient("http://vault", TokenIssuer(principal, KEYS[principal]), ask=asking(self._http))

    async def seal(self, *items):
        return await self.client("ingestion").seal(SealCall(purpose="intake", items=list(items)))

    async def open(self, *items, purpose="screening"):
        return await self.client("moderation").open(OpenCall(purpose=purpose, items=list(items)))

    async def disclose(self, *items, provider="smtp.default", fields=("address",)):
        call = DiscloseCall(purpose="delivery", provider=provider, fields=list(fields), items=list(items))
        return await self.client("routing").disclose(call)

    async def ask(self, path: str, body: dict, principal: str = "operator"):
        headers = TokenIssuer(principal, KEYS[principal]).headers("vault")
        return await self._http.post(path, json={"purpose": "data-protection", **body}, headers=headers)

    async def erase(self, *items: dict):
        answer = await self.ask("/v1/erase:batch", {"reason": "request-of-person", "items": list(items)})
        return answer.json()["items"]

    async def read(self, path: str, principal: str = "operator"):
        headers = TokenIssuer(principal, KEYS[principal]).headers("vault")
        return await self._http.get(path, headers=headers)


@pytest.fixture(scope="module")
def new_copy(pool, database):
    """Start one more copy of the vault, with nothing of accounts in memory yet."""

    async def start(root=ROOT, accounts_max=100):
        keyring = Keyring(KeyFolder(database.keys, root), accounts_max)
        await keyring.start(pool)
        return Callers(pool, keyring)

    return start


@pytest.fixture
async def vault(new_copy):
    return await new_copy()


@pytest.fixture
def rows(pool):
    """Read or change rows of all accounts, as nobody in the vault's own code may do by accident."""

    async def run(sql, *values):
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            return await connection.fetch(sql, *values)

    return run


@pytest.fixture
def account():
    return f"account-{uuid.uuid4()}"


def new_item(account: str, address: str = "Anna@example.org", **fields: str) -> SealItem:
    key = os.urandom(32)
    return SealItem(account_id=account, message_id=str(uuid.uuid4()), address=address, fields=fields, message_key=key)


def delivery(item: SealItem, answer, *, epoch: int = 1, attempt: int = 1, **changes) -> DiscloseItem:
    values = {
        "account_id": item.account_id,
        "message_id": item.message_id,
        "token": answer.token,
        "capsule": answer.capsule,
        "instruction_digest": "d" * 64,
        "legal_basis": "contract",
        "epoch": epoch,
        "attempt": attempt,
    }
    return DiscloseItem(**{**values, **changes})


def opening(item: SealItem, answer) -> OpenItem:
    return OpenItem(item.account_id, item.message_id, answer.token, answer.capsule)


async def sealed(vault: Callers, account: str, **fields: str):
    item = new_item(account, **fields)
    (answer,) = await vault.seal(item)
    return item, answer


async def ledger(vault: Callers, item: SealItem):
    return (await vault.read(f"/v1/disclosures?message_id={item.message_id}")).json()["items"]


def receipt(item: SealItem, *, state="handed_over", key=RECEIPT_KEY, offset=0, attempt=1, sequence=2):
    statement = Receipt(
        message_id=item.message_id,
        account_id=item.account_id,
        recipient_token="rt_x",
        instruction_digest="d",
        content_digest="c",
        sequence=sequence,
        state=state,
        reason="accepted",
        attempt=attempt,
        provider="smtp.default",
        reply_code=250,
        reply_digest=None,
        occurred_at="2026-01-31T09:30:00.000Z",
    ).statement()
    (signed,) = Signer("receipt", key).sign([statement])
    headers = (("ce_id", f"{item.message_id}.{sequence}".encode()),)
    record = SimpleNamespace(topic="routing.receipts", partition=0, offset=offset, headers=headers)
    return Received(SentReceipt(SentStatement.of(signed)), record)


def kind(answer) -> str | None:
    return answer.problem["type"].removeprefix("urn:waystation:problem:") if answer.problem else None


async def test_a_message_key_goes_in_and_comes_out(vault, account):
    items = [new_item(account, f"person-{n}@example.org") for n in range(1000)]
    answers = await vault.seal(*items)
    assert len({answer.token for answer in answers}) == 1000
    opened = await vault.open(*(opening(item, answer) for item, answer in zip(items, answers, strict=True)))
    assert [answer.message_key for answer in opened] == [item.message_key for item in items]


async def test_a_recipient_keeps_its_token_whatever_the_case_of_the_address(vault, account):
    _, first = await sealed(vault, account)
    (again, other) = await vault.seal(new_item(account, "aNNa@EXAMPLE.org"), new_item(account, "b@example.org"))
    assert first.token == again.token != other.token


async def test_one_person_in_two_accounts_has_two_tokens(vault):
    answers = await vault.seal(new_item(f"account-{uuid.uuid4()}"), new_item(f"account-{uuid.uuid4()}"))
    assert answers[0].token != answers[1].token


async def test_one_new_recipient_twice_in_a_batch_is_one_subject(vault, account):
    answers = await vault.seal(*(new_item(account) for _ in range(10)))
    assert len({answer.token for answer in answers}) == 1


async def test_concurrent_batches_for_the_same_new_recipients_end_with_one_subject_each(new_copy, rows, account):
    """Each copy of the vault starts with empty memory: account keys are raced for as well."""
    addresses = [f"person-{n}@example.org" for n in range(50)]
    batches = [[new_item(account, address) for address in addresses[::step]] for step in (1, -1, 1, -1, 1, -1)]
    copies = [await new_copy() for _ in batches]
    answers = await asyncio.gather(*(copy.seal(*batch) for copy, batch in zip(copies, batches, strict=True)))
    tokens = {}
    for batch, answered in zip(batches, answers, strict=True):
        for item, answer in zip(batch, answered, strict=True):
            tokens.setdefault(item.address, set()).add(answer.token)
    assert all(len(known) == 1 for known in tokens.values())
    assert len(await rows("SELECT FROM subjects WHERE account_id = $1", account)) == 50
    everything = [
        pair for batch, answered in zip(batches, answers, strict=True) for pair in zip(batch, answered, strict=True)
    ]
    opened = await copies[0].open(*(opening(item, answer) for item, answer in everything))
    assert [answer.message_key for answer in opened] == [item.message_key for item, _ in everything]


async def test_a_new_name_replaces_the_stored_one(vault, account):
    await sealed(vault, account, name="Anna")
    item, answer = await sealed(vault, account, name="Anne")
    (disclosed,) = await vault.disclose(delivery(item, answer), provider="smtp.named", fields=("address", "name"))
    assert disclosed.fields == {"address": "Anna@example.org", "name": "Anne"}


async def test_nothing_readable_is_stored(vault, rows, account):
    item, answer = await sealed(vault, account, name="Canary Canaria")
    (row,) = await rows("SELECT * FROM subjects WHERE token = $1", answer.token)
    blobs = b"".join(value for value in row.values() if isinstance(value, bytes))
    assert item.address.encode() not in blobs
    assert b"Canary" not in blobs


async def test_an_unknown_token_and_a_strange_capsule_are_problems_of_their_items(vault, account):
    item, answer = await sealed(vault, account)
    good = opening(item, answer)
    answers = await vault.open(
        good,
        replace(good, token="rt_unknown"),
        replace(good, message_id="another"),
        replace(good, capsule=b"short"),
    )
    assert [kind(one) for one in answers] == [None, "unknown-recipient", "bad-capsule", "bad-capsule"]
    assert [one.problem["status"] for one in answers[1:]] == [404, 422, 422]


async def test_rows_swapped_in_the_database_open_nothing(vault, rows, account):
    one, other = new_item(account, "a@example.org"), new_item(account, "b@example.org")
    first, second = await vault.seal(one, other)
    await rows(
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE token = $2) WHERE token = $1",
        first.token,
        second.token,
    )
    (opened,) = await vault.open(opening(one, first))
    (disclosed,) = await vault.disclose(delivery(one, first))
    (again,) = await vault.seal(one)
    assert {kind(opened), kind(disclosed), kind(again)} == {"integrity-failed"}
    assert await ledger(vault, one) == []


async def test_a_field_moved_to_another_row_is_not_disclosed(vault, rows, account):
    one, other = new_item(account, "a@example.org"), new_item(account, "b@example.org")
    first, second = await vault.seal(one, other)
    await rows(
        "UPDATE subjects SET address = (SELECT address FROM subjects WHERE token = $2) WHERE token = $1",
        first.token,
        second.token,
    )
    (disclosed,) = await vault.disclose(delivery(one, first))
    assert kind(disclosed) == "integrity-failed"


async def test_an_older_value_of_a_field_put_back_in_its_place_is_not_disclosed(vault, rows, account, caplog):
    first, answer = await sealed(vault, account, name="Anna")
    (old,) = await rows("SELECT * FROM subjects WHERE token = $1", answer.token)
    item, again = await sealed(vault, account, name="Anne")
    await rows("UPDATE subjects SET name = $2 WHERE token = $1", answer.token, old["name"])
    asked = {"provider": "smtp.named", "fields": ("address", "name")}
    (disclosed,) = await vault.disclose(delivery(item, again), **asked)
    (unchanged,) = await vault.seal(new_item(account, name="Anne"))
    assert [kind(disclosed), kind(unchanged)] == ["integrity-failed"] * 2
    assert disclosed.fields is None
    assert disclosed.message_key is None
    assert await ledger(vault, item) == []
    assert f"a field of {answer.token} does not open" in caplog.text
    opened = await vault.open(opening(first, answer), opening(item, again))
    assert [one.message_key for one in opened] == [first.message_key, item.message_key]


async def test_a_person_that_two_batches_change_at_once_keeps_both_changes(new_copy, rows, account):
    """Each writes the whole of an edition: what the other one wrote meanwhile is in it."""
    copies = [await new_copy(), await new_copy()]
    names = [f"p{number}@example.org" for number in range(20)]
    (first, *_) = await copies[0].seal(*(new_item(account, name) for name in names))
    for round_ in range(5):
        await asyncio.gather(
            copies[0].seal(*(new_item(account, name, language="de" if round_ % 2 else "fr") for name in names)),
            copies[1].seal(*(new_item(account, name, name=f"Anna {round_}") for name in reversed(names))),
        )
    found = await rows("SELECT token FROM subjects WHERE account_id = $1", account)
    assert len(found) == len(names)
    item = new_item(account, names[0])
    (answer,) = await copies[1].seal(item)
    assert answer.token == first.token
    (disclosed,) = await copies[1].disclose(delivery(item, answer), provider="smtp.named", fields=("address", "name"))
    assert disclosed.fields == {"address": names[0], "name": "Anna 4"}
    all_again = await copies[0].seal(*(new_item(account, name, name="Anna 4", language="fr") for name in names))
    assert [one.problem for one in all_again] == [None] * len(names)


async def test_a_disclosure_has_its_address_key_and_ledger_row(vault, account):
    item, answer = await sealed(vault, account, name="Anna")
    (disclosed,) = await vault.disclose(delivery(item, answer))
    assert disclosed.fields == {"address": "Anna@example.org"}
    assert disclosed.message_key == item.message_key
    (row,) = await ledger(vault, item)
    assert (row["recipient_token"], row["provider"], row["fields"]) == (answer.token, "smtp.default", ["address"])
    assert (row["epoch"], row["attempt"], row["caller"], row["purpose"]) == (1, 1, "routing", "delivery")
    assert row["acknowledged_at"] is None


async def test_a_recipient_without_a_name_discloses_what_there_is(vault, account):
    item, answer = await sealed(vault, account)
    (disclosed,) = await vault.disclose(delivery(item, answer), provider="smtp.named", fields=("address", "name"))
    assert disclosed.fields == {"address": "Anna@example.org"}
    (row,) = await ledger(vault, item)
    assert row["fields"] == ["address"]


async def test_providers_get_only_what_their_contract_names(vault, account):
    item, answer = await sealed(vault, account, name="Anna")
    for provider, fields, problem in (
        ("smtp.default", ("address", "name"), "field-not-in-contract"),
        ("smtp.pending", ("address",), "provider-not-approved"),
        ("smtp.unknown", ("address",), "provider-not-approved"),
    ):
        asked = delivery(item, answer), delivery(item, answer, message_id="another")
        answers = await vault.disclose(*asked, provider=provider, fields=fields)
        assert [kind(one) for one in answers] == [problem, problem]
    assert await ledger(vault, item) == []


async def test_refused_items_of_a_batch_do_not_hold_up_the_others(vault, account):
    good, fine = await sealed(vault, account)
    answers = await vault.disclose(
        delivery(good, fine, token="rt_unknown", message_id="m-1"),
        delivery(good, fine),
        delivery(good, fine),
        delivery(good, fine, account_id="another", message_id="m-2"),
        delivery(good, fine, message_id="m-3"),
    )
    expected = ["unknown-recipient", None, "invalid-field", "unknown-recipient", "bad-capsule"]
    assert [kind(one) for one in answers] == expected
    assert len(await ledger(vault, good)) == 1


async def test_rule_vault_epoch_an_older_epoch_than_one_served_is_refused(vault, account):
    item, answer = await sealed(vault, account)
    (newer,) = await vault.disclose(delivery(item, answer, epoch=3, attempt=2))
    (older,) = await vault.disclose(delivery(item, answer, epoch=2, attempt=1))
    assert newer.fields
    assert (kind(older), older.problem["status"], older.problem["served_epoch"]) == ("stale-epoch", 409, 3)
    assert older.fields is older.message_key is None
    assert [row["epoch"] for row in await ledger(vault, item)] == [3]


async def test_rule_vault_epoch_the_same_epoch_may_ask_again_with_a_ledger_row_each(vault, account):
    item, answer = await sealed(vault, account)
    for _ in range(2):
        (disclosed,) = await vault.disclose(delivery(item, answer, epoch=2))
        assert disclosed.fields
    assert [row["epoch"] for row in await ledger(vault, item)] == [2, 2]


async def test_rule_vault_epoch_holds_between_concurrent_asks(vault, account):
    """However the asks fall, the ledger's epochs only grow and the highest is served."""
    item, answer = await sealed(vault, account)
    epochs = [5, 1, 4, 2, 3, 5, 1]
    answers = await asyncio.gather(*(vault.disclose(delivery(item, answer, epoch=epoch)) for epoch in epochs))
    entered = [row["epoch"] for row in await ledger(vault, item)]
    assert entered == sorted(entered)
    assert sorted(epoch for epoch, (one,) in zip(epochs, answers, strict=True) if one.fields) == entered
    assert entered[-1] == 5


async def test_rule_spent_nothing_is_disclosed_after_a_hand_over(vault, pool, account):
    item, answer = await sealed(vault, account)
    await vault.disclose(delivery(item, answer, epoch=1, attempt=1))
    await vault.disclose(delivery(item, answer, epoch=2, attempt=2))
    await on_receipt_issued([receipt(item, attempt=1)], pool, TRUSTED)
    (later,) = await vault.disclose(delivery(item, answer, epoch=9, attempt=3))
    assert (kind(later), later.problem["status"]) == ("spent", 409)
    first, second = await ledger(vault, item)
    assert (later.problem["entry"], second["acknowledged_at"]) == (first["id"], None)
    assert later.problem["entry_asked_at"]
    assert first["acknowledged_at"] == "2026-01-31T09:30:00Z"


async def test_rule_spent_redelivered_receipts_change_nothing(vault, pool, rows, account):
    items = [new_item(account, f"p{n}@example.org") for n in range(20)]
    answers = await vault.seal(*items)
    await vault.disclose(*map(delivery, items, answers))
    batch = [receipt(item, offset=n) for n, item in enumerate(items)]
    batch += [receipt(item, state="delivered", sequence=3, offset=100 + n) for n, item in enumerate(items)]
    messages = [item.message_id for item in items]
    query = "SELECT * FROM instructions WHERE message_id = ANY ($1) ORDER BY message_id"
    await on_receipt_issued(batch, pool, TRUSTED)
    once = await rows(query, messages)
    assert {row["spent_state"] for row in once} == {"handed_over"}
    await on_receipt_issued(batch, pool, TRUSTED)
    await on_receipt_issued(batch[::-1], pool, TRUSTED)
    await asyncio.gather(*(on_receipt_issued(batch[::step], pool, TRUSTED) for step in (1, -1)))
    assert await rows(query, messages) == once


async def test_rule_spent_holds_for_a_receipt_that_comes_before_any_ask(vault, pool, account):
    item, answer = await sealed(vault, account)
    await on_receipt_issued([receipt(item)], pool, TRUSTED)
    (later,) = await vault.disclose(delivery(item, answer))
    assert kind(later) == "spent"
    assert "entry" not in later.problem


async def test_receipts_that_hand_nothing_over_spend_nothing(vault, pool, account):
    item, answer = await sealed(vault, account)
    await on_receipt_issued([receipt(item, state="in_doubt"), receipt(item, state="refused")], pool, TRUSTED)
    (disclosed,) = await vault.disclose(delivery(item, answer))
    assert disclosed.fields


async def test_a_forged_receipt_is_counted_once_and_spends_nothing(vault, pool, account):
    item, answer = await sealed(vault, account)
    before = (await vault.read("/v1/unauthorised")).json()["count"]
    forged = receipt(item, key=Ed25519PrivateKey.generate(), offset=int(uuid.uuid4().int % 2**60))
    for _ in range(2):
        await on_receipt_issued([forged], pool, TRUSTED)
    counted = (await vault.read("/v1/unauthorised")).json()
    assert counted["count"] == before + 1
    assert counted["by_reason"]["receipt: signed with a key that was never published"] >= 1
    (disclosed,) = await vault.disclose(delivery(item, answer))
    assert disclosed.fields


async def test_rule_ledger_first_the_row_is_committed_before_the_answer(vault, database, pool, account):
    """The ledger is locked by somebody else: no answer comes until the row can be written."""
    item, answer = await sealed(vault, account)
    owner = await asyncpg.connect(database.owner)
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("LOCK TABLE disclosures IN EXCLUSIVE MODE")
    asking = asyncio.create_task(vault.disclose(delivery(item, answer)))
    await asyncio.sleep(0.3)
    assert not asking.done()
    await transaction.rollback()
    await owner.close()
    (disclosed,) = await asking
    assert disclosed.fields
    assert len(await ledger(vault, item)) == 1


async def test_rule_ledger_first_a_ledger_that_cannot_be_written_discloses_nothing(vault, database, account):
    item, answer = await sealed(vault, account)
    owner = await asyncpg.connect(database.owner)
    await owner.execute("ALTER TABLE disclosures ADD CONSTRAINT closed CHECK (legal_basis <> 'none') NOT VALID")
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await vault.disclose(delivery(item, answer, legal_basis="none"))
    finally:
        await owner.execute("ALTER TABLE disclosures DROP CONSTRAINT closed")
        await owner.close()
    assert await ledger(vault, item) == []
    (disclosed,) = await vault.disclose(delivery(item, answer))
    assert disclosed.fields


async def test_the_runtime_role_cannot_change_ledger_or_access_log(pool):
    for table, column in (("disclosures", "token"), ("access_log", "caller")):
        for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)


async def test_every_call_leaves_a_row_in_the_access_log(vault, pool, account):
    before = await pool.fetchval("SELECT coalesce(max(id), 0) FROM access_log")
    item, answer = await sealed(vault, account)
    await vault.open(opening(item, answer), replace(opening(item, answer), token="rt_unknown"))
    await vault.disclose(delivery(item, answer))
    await vault.disclose(delivery(item, answer), provider="smtp.unknown")
    call = OpenCall(purpose="screening", items=[opening(item, answer)])
    with pytest.raises(VaultRefusedError):
        await vault.client("routing").open(call)
    await vault.read(f"/v1/disclosures?message_id={item.message_id}")
    rows = await pool.fetch(
        "SELECT caller, operation, purpose, outcome, items, answered FROM access_log WHERE id > $1 ORDER BY id", before
    )
    assert [tuple(row) for row in rows] == [
        ("ingestion", "seal", "intake", "answered", 1, 1),
        ("moderation", "open", "screening", "answered", 2, 1),
        ("routing", "disclose", "delivery", "answered", 1, 1),
        ("routing", "disclose", "delivery", "answered", 1, 0),
        ("routing", "open", None, "refused", 0, 0),
        ("operator", "read-ledger", None, "answered", 1, 1),
    ]


async def test_the_ledger_is_for_operators_only(vault):
    for principal in ("ingestion", "moderation", "routing", "enforcement"):
        assert (await vault.read("/v1/disclosures?message_id=m", principal)).status_code == 403
        assert (await vault.read("/v1/unauthorised", principal)).status_code == 403


@pytest.mark.parametrize("change", [{"message_id": "a\x00b"}, {"epoch": 2**40}, {"token": "rt_\x00"}])
async def test_a_value_that_cannot_be_stored_is_refused(vault, account, change):
    item, answer = await sealed(vault, account)
    call = DiscloseCall("delivery", "smtp.default", ["address"], [delivery(item, answer, **change)])
    body = msgspec.json.encode(call)
    headers = TokenIssuer("routing", KEYS["routing"]).headers("vault")
    refused = await vault._http.post("/v1/disclose:batch", content=body, headers=headers)
    if refused.status_code == 200:
        assert refused.json()["items"][0]["problem"]["type"].endswith("bad-capsule")
    else:
        assert refused.status_code == 422


async def test_a_processor_that_leaves_the_register_loses_its_approval(vault, pool, account):
    item, answer = await sealed(vault, account)
    try:
        await store.replace_processors(pool, PROCESSORS[1:])
        (refused,) = await vault.disclose(delivery(item, answer))
        assert kind(refused) == "provider-not-approved"
    finally:
        await store.replace_processors(pool, PROCESSORS)


async def test_another_root_key_than_before_is_noticed_at_the_start(vault, new_copy, account):
    await sealed(vault, account)
    await new_copy()
    with pytest.raises(KeyFileError, match="another one"):
        await new_copy(RootKey(os.urandom(32)))


async def test_another_folder_of_keys_than_before_is_noticed_at_the_start(vault, pool, tmp_path, account):
    await sealed(vault, account)
    with pytest.raises(KeyFileError, match="does not exist"):
        await Keyring(KeyFolder(tmp_path, ROOT), 10).start(pool)
    strange = KeyFolder(tmp_path, ROOT)
    strange.load_or_make(0)
    strange.load_or_make(1)
    with pytest.raises(KeyFileError, match="VAULT_KEYS_DIR"):
        await Keyring(strange, 10).start(pool)


async def test_account_keys_that_were_changed_hold_up_their_own_account_only(vault, new_copy, rows, account):
    other_account = f"account-{uuid.uuid4()}"
    (one, first), (two, second) = await sealed(vault, account), await sealed(vault, other_account)
    await rows("UPDATE account_keys SET wrapped = wrapped || 'x' WHERE account_id = $1", account)
    another = await new_copy()
    answers = await another.open(opening(one, first), opening(two, second))
    assert [kind(answer) for answer in answers] == ["integrity-failed", None]
    answers = await another.seal(one, two)
    assert [kind(answer) for answer in answers] == ["integrity-failed", None]


async def test_keys_of_accounts_that_left_memory_are_found_again(new_copy, pool):
    keyring, accounts = (await new_copy(accounts_max=2)).keyring, [f"account-{uuid.uuid4()}" for _ in range(5)]
    made = await keyring.find_or_create(pool, accounts)
    again = await keyring.find_or_create(pool, accounts)
    indexes = [
        {name: keys.index_of("recipient", "address", "a@b") for name, keys in found.items()} for found in (made, again)
    ]
    assert indexes[0] == indexes[1]
    assert len(keyring._accounts) == 2


async def test_a_transaction_sees_the_accounts_it_named_and_no_others(vault, pool, account):
    """Row-level security holds for the runtime role whatever a query forgets to ask."""
    other = f"account-{uuid.uuid4()}"
    await sealed(vault, account)
    await sealed(vault, other)
    for table in ("accounts", "account_keys", "subjects", "data_keys"):
        assert await pool.fetch(f"SELECT FROM {table}") == []
        async with scoped(pool, [account]) as connection:
            assert {row[0] for row in await connection.fetch(f"SELECT account_id FROM {table}")} == {account}
        async with scoped(pool, ["' OR true --", "\\"]) as connection:
            assert await connection.fetch(f"SELECT FROM {table}") == []
    assert await pool.fetch("SELECT FROM subjects") == [], "the scope ended with its transaction"


@pytest.mark.parametrize("name", ["*", "{}\x1f*", "{}\x1f", "\x1f{}", "\x00"])
async def test_an_account_id_does_not_widen_what_a_transaction_sees(vault, pool, account, name):
    _, answer = await sealed(vault, account)
    name = name.format(account)
    with pytest.raises(Problem, match="no account has this id"):
        async with scoped(pool, [name]):
            pass
    person = {"account_id": name, "token": answer.token}
    erasing = {"reason": "request-of-person", "items": [person, {"account_id": account, "token": answer.token}]}
    erased = (await vault.ask("/v1/erase:batch", erasing)).json()["items"]
    assert [one.get("problem", {}).get("status") for one in erased] == [422, None]
    stolen = await vault.ask("/v1/erase:batch", {"reason": "request-of-person", "items": [person]})
    assert (stolen.status_code, stolen.json()["field"]) == (422, "account_id")


async def test_row_level_security_holds_for_the_owner_and_for_partitions_too(vault, database, pool, account):
    await sealed(vault, account)
    owner = await asyncpg.connect(database.owner)
    try:
        for table in ("accounts", "account_keys", "subjects", "data_keys", "data_keys_1"):
            assert await owner.fetch(f"SELECT FROM {table}") == []
    finally:
        await owner.close()
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        assert await connection.fetch("SELECT FROM data_keys_1") == []


async def test_one_account_cannot_open_anothers_message(vault, account):
    item, answer = await sealed(vault, account)
    stolen = replace(opening(item, answer), account_id=f"account-{uuid.uuid4()}")
    assert kind((await vault.open(stolen))[0]) == "unknown-recipient"


async def test_a_row_copied_into_another_account_does_not_open(vault, rows, account):
    """A stolen row under another account's name: the associated data know where it belongs."""
    other = f"account-{uuid.uuid4()}"
    item, answer = await sealed(vault, account)
    await sealed(vault, other)
    for table in ("subjects", "data_keys"):
        await rows(f"UPDATE {table} SET account_id = $2 WHERE token = $1", answer.token, other)
    assert kind((await vault.open(replace(opening(item, answer), account_id=other)))[0]) == "integrity-failed"
    assert kind((await vault.disclose(delivery(item, answer, account_id=other)))[0]) == "integrity-failed"


async def test_people_of_two_kinds_with_one_address_are_two_persons(vault, account):
    item = new_item(account)
    answers = await vault.seal(item, replace(item, kind="complainant", message_key=None))
    assert answers[0].token != answers[1].token
    assert answers[1].capsule is None


async def test_malformed_values_are_problems_of_their_items(vault, account):
    items = [
        new_item(account, "nobody"),
        new_item(account, shoe_size="43"),
        new_item(account, phone="030 1"),
        replace(new_item(account), address=None),
        new_item(account, name="x" * 1001),
        new_item(account),
    ]
    answers = await vault.seal(*items)
    expected = ["invalid-address", "unknown-field", "invalid-phone", "invalid-field", "invalid-field", None]
    assert [kind(answer) for answer in answers] == expected


async def test_bad_items_of_a_batch_have_their_own_answers_and_nothing_of_them_is_stored(vault, rows, account):
    def given(**change):
        return {"account_id": account, "message_id": "m", "address": f"{uuid.uuid4()}@example.org", **change}

    items = [
        given(),
        given(shoe_size="canary"),
        given(fields={"canary": "canary"}),
        given(fields={"name": "canary" * 1000}),
        given(address="canary at example"),
        given(fields={"phone": "canary"}),
        given(account_id=f"{account}\x00canary"),
        given(kind="canary"),
        given(),
    ]
    answer = await vault.ask("/v1/seal:batch", {"purpose": "intake", "items": items}, "ingestion")
    kinds = [one.get("problem", {}).get("type", "").rpartition(":")[2] for one in answer.json()["items"]]
    assert kinds == [
        "",
        "unknown-field",
        "unknown-field",
        "invalid-field",
        "invalid-address",
        "invalid-phone",
        "invalid-field",
        "invalid-field",
        "",
    ]
    assert "canary" not in answer.text
    assert len(await rows("SELECT FROM subjects WHERE starts_with(account_id, $1)", account)) == 2


async def test_bad_asks_of_a_batch_have_their_own_answers_and_no_ledger_row(vault, account):
    item, answer = await sealed(vault, account, name="Anna")
    gone, dead = await sealed(vault, account, address="gone@example.org")
    await vault.erase({"account_id": account, "token": dead.token})
    good = msgspec.to_builtins(delivery(item, answer))
    asked = [
        {**good, "canary": 1},
        {**good, "message_id": "m1", "epoch": 0},
        {**good, "message_id": "m2", "account_id": "canary"},
        {**good, "message_id": "m3", "token": "canary"},
        {**good, "message_id": "m4", "token": "canary\x1f"},
        {**msgspec.to_builtins(delivery(gone, dead))},
        good,
        good,
    ]
    call = {"purpose": "delivery", "provider": "smtp.default", "fields": ["address"], "items": asked}
    told = await vault.ask("/v1/disclose:batch", call, "routing")
    items = told.json()["items"]
    assert [one.get("problem", {}).get("status") for one in items] == [422, 422, 404, 404, 422, 410, None, 422]
    assert items[6]["fields"] == {"address": "Anna@example.org"}
    assert "there is no such field" in items[0]["problem"]["detail"]
    assert "canary" not in str(items[1:])
    assert len(await ledger(vault, item)) == 1


async def test_a_field_that_is_asked_for_twice_is_disclosed_and_entered_once(vault, account):
    item, answer = await sealed(vault, account, name="Anna")
    (disclosed,) = await vault.disclose(
        delivery(item, answer), provider="smtp.named", fields=("address", "address", "address")
    )
    assert disclosed.fields == {"address": "Anna@example.org"}
    (row,) = await ledger(vault, item)
    assert row["fields"] == ["address"]


async def test_a_long_address_is_found_and_erased(vault, account):
    address = f"{'a' * 60}@{'.'.join(['b' * 60] * 3)}.example"
    await vault.seal(new_item(account, address))
    assert (await vault.erase({"account_id": account, "address": address}))[0]["tokens"]


async def test_a_person_may_be_known_by_phone_alone(vault, account):
    number = f"+49301{uuid.uuid4().int % 10**7:07d}"
    first, second = (
        replace(new_item(account, phone=text), address=None) for text in (number, f"{number[:3]} {number[3:]}")
    )
    answers = await vault.seal(first, second)
    assert answers[0].token == answers[1].token
    (disclosed,) = await vault.disclose(delivery(first, answers[0]), provider="sms.default", fields=("phone",))
    assert disclosed.fields == {"phone": number}


async def test_the_digest_of_a_call_covers_its_ledger_rows(vault, rows, account):
    items = [new_item(account, f"p{n}@example.org") for n in range(3)]
    answers = await vault.seal(*items)
    await vault.disclose(*map(delivery, items, answers))
    (entry,) = await rows(
        "SELECT l.* FROM access_log l WHERE id = (SELECT call_id FROM disclosures WHERE message_id = $1)",
        items[0].message_id,
    )
    told = await rows("SELECT * FROM disclosures WHERE call_id = $1 ORDER BY ordinal", entry["id"])
    lines = [json.dumps(list(row.values())[1:], ensure_ascii=False) for row in told]
    assert hashlib.sha256("\n".join(lines).encode()).digest() == entry["digest"]
    assert (entry["provider"], entry["answered"], len(entry["salt"])) == ("smtp.default", 3, 16)


async def test_small_disclosures_of_one_moment_share_a_row_of_the_log_and_nothing_else(vault, rows, account):
    items = [new_item(account, f"p{n}@example.org") for n in range(40)]
    answers = await vault.seal(*items)
    asked = [delivery(item, answer) for item, answer in zip(items, answers, strict=True)]
    asked[7] = delivery(items[7], answers[7], token="rt_unknown")
    asked[8] = delivery(items[8], answers[8], legal_basis="con\x1ftract")
    asked[9] = asked[10]
    got = await asyncio.gather(*map(vault.disclose, asked), return_exceptions=True)
    assert kind(got[7][0]) == "unknown-recipient"
    assert isinstance(got[8], Exception)
    for number in {*range(40)} - {7, 8, 9}:
        assert got[number][0].fields == {"address": items[number].address}
        assert got[number][0].message_key == items[number].message_key
    told = await rows("SELECT * FROM disclosures WHERE account_id = $1 ORDER BY call_id, ordinal", account)
    assert sorted(row["message_id"] for row in told) == sorted(
        one.message_id for number, one in enumerate(asked) if number not in {7, 8}
    )
    calls = await rows("SELECT * FROM access_log WHERE id = ANY ($1)", list({row["call_id"] for row in told}))
    assert len(calls) < len(told)
    for call in calls:
        lines = [json.dumps(list(row.values())[1:], ensure_ascii=False) for row in told if row["call_id"] == call["id"]]
        assert hashlib.sha256("\n".join(lines).encode()).digest() == call["digest"]
        assert call["answered"] == len(lines)


# Legal bases, opt-outs, restriction, objections


async def ask(vault, operation, *items, principal="operator", purpose="legal-basis"):
    answer = await vault.ask(f"/v1/{operation}:batch", {"purpose": purpose, "items": list(items)}, principal)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def told(answer):
    return answer["problem"]["type"].rpartition(":")[2] if "problem" in answer else answer["tokens"]


async def refusal(vault, item, answer, **changes):
    (disclosed,) = await vault.disclose(delivery(item, answer, **changes))
    return kind(disclosed)


async def test_a_withdrawn_consent_stops_messages_that_rest_on_it_and_no_others(vault, account):
    item, answer = await sealed(vault, account)
    person = {"account_id": account, "token": answer.token}
    given = {"person": person, "purpose": "newsletter", "kind": "consent", "given_at": "2026-01-31T09:30:00Z"}
    assert told((await ask(vault, "record-basis", {**given, "text_digest": "a" * 64}))[0]) == [answer.token]
    news = {"legal_basis": "consent:form-1", "message_purpose": "newsletter"}
    assert await refusal(vault, item, answer, **news) is None
    withdrawn = {"person": person, "purpose": "newsletter", "kind": "consent"}
    assert told((await ask(vault, "withdraw", withdrawn, principal="ingestion"))[0]) == [answer.token]
    assert await refusal(vault, item, answer, **news) == "withdrawn"
    assert await refusal(vault, item, answer, legal_basis="consent:x", message_purpose="survey") is None
    assert await refusal(vault, item, answer, legal_basis="contract", message_purpose="newsletter") is None
    (event,) = [decode(WithdrawalRecorded, one.value, one.headers) for one in vault.kafka.records]
    assert (event.key, event.kind, event.purpose, event.in_force) == (answer.token, "basis", "newsletter", True)
    await ask(vault, "record-basis", {**given, "attested": True})
    assert await refusal(vault, item, answer, **news) is None, "given anew"


async def test_an_expired_basis_stops_and_one_nobody_recorded_can_be_withdrawn(vault, account):
    item, answer = await sealed(vault, account)
    person = {"account_id": account, "address": item.address}
    times = {"given_at": "2026-01-01T00:00:00Z", "expires_at": "2026-02-01T00:00:00Z"}
    await ask(vault, "record-basis", {"person": person, "purpose": "a", "kind": "contract", **times})
    await ask(vault, "withdraw", {"person": person, "purpose": "b", "kind": "legitimate_interest"})
    assert await refusal(vault, item, answer, legal_basis="contract", message_purpose="a") == "expired-basis"
    assert await refusal(vault, item, answer, legal_basis="legitimate_interest:x", message_purpose="b") == "withdrawn"
    assert await refusal(vault, item, answer, legal_basis="contract", message_purpose="b") is None


@pytest.mark.parametrize("basis", get_args(BasisKind))
async def test_each_basis_that_a_message_can_rest_on_can_be_withdrawn(vault, account, basis):
    item, answer = await sealed(vault, account)
    rests = {"legal_basis": f"{basis}:Ref/1#a", "message_purpose": "News/weekly#1"}
    assert await refusal(vault, item, answer, **rests) is None
    person = {"account_id": account, "token": answer.token}
    withdrawal = {"person": person, "purpose": rests["message_purpose"], "kind": basis}
    assert told((await ask(vault, "withdraw", withdrawal))[0]) == [answer.token]
    assert await refusal(vault, item, answer, **rests) == "withdrawn"


async def test_an_opt_out_outlives_erasure_and_holds_for_its_tool_and_account(vault, account):
    item, answer = await sealed(vault, account, phone="+4930555000")
    optout = {"account_id": account, "tool": "email", "address": "ANNA@example.org"}
    assert told((await ask(vault, "suppress", optout))[0]) == [answer.token]
    assert await refusal(vault, item, answer) == "suppressed"
    (sms,) = await vault.disclose(delivery(item, answer), provider="sms.default", fields=("phone",))
    assert sms.fields == {"phone": "+4930555000"}
    other = await sealed(vault, f"account-{uuid.uuid4()}")
    assert await refusal(vault, *other) is None
    await vault.erase({"account_id": account, "token": answer.token})
    again = await sealed(vault, account)
    assert again[1].token != answer.token
    assert await refusal(vault, *again) == "suppressed"
    await ask(vault, "suppress", {**optout, "lift": True})
    assert await refusal(vault, *again) is None


async def test_an_opt_out_of_somebody_unknown_waits_for_them(vault, account):
    unknown = {"account_id": account, "tool": "email", "address": "later@example.org"}
    malformed = {"account_id": account, "tool": "telephony", "phone": "030 1"}
    assert [told(one) for one in await ask(vault, "suppress", unknown, malformed)] == [[], "invalid-phone"]
    item = new_item(account, "later@example.org")
    (answer,) = await vault.seal(item)
    assert await refusal(vault, item, answer) == "suppressed"


@pytest.mark.parametrize("first", ["seal", "opt-out"])
async def test_an_opt_out_at_the_moment_in_which_a_person_is_created_holds(vault, database, account, first):
    """Neither transaction sees the other's rows: both are held up before their last statement."""
    item = new_item(account, "moment@example.org")
    await vault.seal(new_item(account, "another@example.org"))
    opt_out = ask(vault, "suppress", {"account_id": account, "tool": "email", "address": item.address})
    calls = [vault.seal(item), opt_out]
    superuser = await asyncpg.connect(database.superuser)
    try:
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE access_log IN SHARE MODE")
            tasks = []
            for waiting, call in enumerate(calls if first == "seal" else reversed(calls), 1):
                tasks.append(asyncio.create_task(call))
                while await superuser.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < waiting:
                    await asyncio.sleep(0.01)
        done = await asyncio.gather(*tasks)
    finally:
        await superuser.close()
    ((answer,),) = (one for one in done if isinstance(one[0], SealAnswer))
    assert await refusal(vault, item, answer) == "suppressed"


async def test_an_opt_out_of_a_phone_waits_for_who_gets_it_later(vault, account):
    number = f"+49301{uuid.uuid4().int % 10**7:07d}"
    await vault.seal(new_item(account))
    assert await ask(vault, "suppress", {"account_id": account, "tool": "telephony", "phone": number})
    item, answer = await sealed(vault, account, phone=number)
    (sms,) = await vault.disclose(delivery(item, answer), provider="sms.default", fields=("phone",))
    assert kind(sms) == "suppressed"
    (mail,) = await vault.disclose(delivery(item, answer))
    assert kind(mail) is None


async def test_a_restricted_person_is_not_disclosed_until_it_is_lifted(vault, account):
    item, answer = await sealed(vault, account)
    person = {"person": {"account_id": account, "token": answer.token}}
    await ask(vault, "restrict", {**person, "restricted": True}, purpose="data-protection")
    assert await refusal(vault, item, answer) == "restricted"
    await ask(vault, "restrict", {**person, "restricted": False}, purpose="data-protection")
    assert await refusal(vault, item, answer) is None


@pytest.mark.parametrize("operation", ["record-basis", "withdraw", "restrict"])
async def test_nothing_is_recorded_of_another_accounts_person(vault, rows, account, operation):
    _, answer = await sealed(vault, account)
    person = {"account_id": f"account-{uuid.uuid4()}", "token": answer.token}
    more = {
        "record-basis": {"purpose": "x", "kind": "contract", "given_at": "2026-01-31T09:30:00Z"},
        "withdraw": {"purpose": "x", "kind": "contract"},
        "restrict": {"restricted": True},
    }[operation]
    purpose = "data-protection" if operation == "restrict" else "legal-basis"
    assert told((await ask(vault, operation, {"person": person, **more}, purpose=purpose))[0]) == "unknown-recipient"
    assert await rows("SELECT FROM bases WHERE token = $1", answer.token) == []
    assert (await rows("SELECT flags FROM subjects WHERE token = $1", answer.token))[0]["flags"] == 0


# What ends a right to disclose, and disclosures of the same moment

ENDS = {"erase": "erased", "withdraw": "withdrawn", "restrict": "restricted", "suppress": "suppressed"}
NOTICES = {"erase": ["erasure"], "restrict": ["restriction"]}


async def end(vault, way, item, answer):
    """End the right to disclose a person's newsletter."""
    person = {"account_id": item.account_id, "token": answer.token}
    if way == "erase":
        (done,) = await vault.erase(person)
    else:
        asked = {
            "withdraw": {"person": person, "purpose": "newsletter", "kind": "consent"},
            "restrict": {"person": person, "restricted": True},
            "suppress": {"account_id": item.account_id, "tool": "email", "address": item.address},
        }[way]
        purpose = "data-protection" if way == "restrict" else "legal-basis"
        (done,) = await ask(vault, way, asked, purpose=purpose)
    assert told(done) == [answer.token]


def newsletter(item, answer, **changes):
    return delivery(item, answer, legal_basis="consent:form-1", message_purpose="newsletter", **changes)


class Held:
    """The next transaction that calls a function of the store stops after it, until it may go on."""

    def __init__(self, monkeypatch, name) -> None:
        self.stands, self.may_go_on = asyncio.Event(), asyncio.Event()
        real = getattr(store, name)

        async def once(*args, **named):
            monkeypatch.setattr(store, name, real)
            result = await real(*args, **named)
            self.stands.set()
            await self.may_go_on.wait()
            return result

        monkeypatch.setattr(store, name, once)


async def is_done_soon(task):
    done, _ = await asyncio.wait([task], timeout=0.5)
    return bool(done)


@pytest.mark.parametrize("way", ENDS)
async def test_who_ends_a_right_waits_for_disclosures_under_way(vault, new_copy, rows, account, monkeypatch, way):
    item, answer = await sealed(vault, account)
    other, held = await new_copy(), Held(monkeypatch, "enter_disclosures")
    disclosing = asyncio.create_task(vault.disclose(newsletter(item, answer)))
    await held.stands.wait()
    ending = asyncio.create_task(end(other, way, item, answer))
    answered_beside = await is_done_soon(ending)
    held.may_go_on.set()
    (disclosed,) = await disclosing
    await ending
    notices = await rows("SELECT provider, kind FROM notification_tasks WHERE token = $1", answer.token)
    assert [tuple(one) for one in notices] == [("smtp.default", kind) for kind in NOTICES.get(way, [])]
    assert (answered_beside, disclosed.fields) == (False, {"address": item.address})
    assert kind((await vault.disclose(newsletter(item, answer, attempt=2)))[0]) == ENDS[way]


@pytest.mark.parametrize("way", ENDS)
async def test_a_disclosure_waits_for_who_ends_the_right_to_it(vault, new_copy, account, monkeypatch, way):
    item, answer = await sealed(vault, account)
    other, held = await new_copy(), Held(monkeypatch, "log_access")
    ending = asyncio.create_task(end(other, way, item, answer))
    await held.stands.wait()
    disclosing = asyncio.create_task(vault.disclose(newsletter(item, answer)))
    answered_beside = await is_done_soon(disclosing)
    held.may_go_on.set()
    await ending
    assert (kind((await disclosing)[0]), answered_beside) == (ENDS[way], False)


@pytest.mark.parametrize("way", ENDS)
async def test_no_disclosure_beside_the_end_of_a_right_is_answered_later_or_goes_without_a_notice(
    vault, new_copy, rows, account, way
):
    """A hundred of each within a tenth of a second."""
    other = await new_copy()
    items = [new_item(account, f"person-{n}@example.org") for n in range(100)]
    answers = await vault.seal(*items)
    order = []

    async def disclosing(item, answer):
        await asyncio.sleep(random.random() / 10)
        (disclosed,) = await vault.disclose(newsletter(item, answer))
        order.append((item.message_id, "disclosed" if disclosed.fields else kind(disclosed)))

    async def ending(item, answer):
        await asyncio.sleep(random.random() / 10)
        await end(other, way, item, answer)
        order.append((item.message_id, "ended"))

    pairs = list(zip(items, answers, strict=True))
    await asyncio.gather(*(work(*pair) for pair in pairs for work in (disclosing, ending)))
    outcomes = {item.message_id: [what for message, what in order if message == item.message_id] for item in items}
    possible = {("disclosed", "ended"), (ENDS[way], "ended"), ("ended", ENDS[way])}
    assert {tuple(one) for one in outcomes.values()} <= possible
    given = {item.message_id for item in items if "disclosed" in outcomes[item.message_id]}
    entered = await rows("SELECT token, message_id FROM disclosures WHERE account_id = $1", account)
    assert {row["message_id"] for row in entered} == given
    notices = await rows("SELECT token, kind FROM notification_tasks WHERE account_id = $1", account)
    due = [(row["token"], kind) for row in entered for kind in NOTICES.get(way, [])]
    assert sorted(map(tuple, notices)) == sorted(due)


async def test_an_approval_in_the_future_and_an_objection_stop_a_processor(vault, pool, account):
    item, answer = await sealed(vault, account)
    later = dataclasses.replace(PROCESSORS[0], approved_from=date(2999, 1, 1))
    try:
        await store.replace_processors(pool, [later, *PROCESSORS[1:]])
        assert await refusal(vault, item, answer) == "provider-not-approved"
    finally:
        await store.replace_processors(pool, PROCESSORS)
    async with scoped(pool, [account]) as connection:
        await store.object_to_processor(connection, account, "smtp.default", "transfer")
    assert await refusal(vault, item, answer) == "objected"
    other = await sealed(vault, f"account-{uuid.uuid4()}")
    assert await refusal(vault, *other) is None, "an objection is its account's own"
    async with scoped(pool, [account]) as connection:
        await store.object_to_processor(connection, account, "smtp.default", None)
    assert await refusal(vault, item, answer) is None

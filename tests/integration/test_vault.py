"""The vault on a real PostgreSQL: keys, ledger, epochs, spent."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealCall, SealItem
from common.events.routing import Receipt, ReceiptIssued
from common.http.problems import install_problem_handlers
from common.http.vault import VaultClient, VaultRefusedError
from common.kafka.consumer import Received
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from vault import store
from vault.api import Gate, vault_routes
from vault.domain import Processor
from vault.errors import KeyFileError
from vault.handlers import on_receipt_issued
from vault.keyring import Keyring
from vault.keys.root import RootKey
from waystation.stack import Stack

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
    Processor("smtp.pending", "email", frozenset({"address"}), approved=False, country="DE", purpose="hand-over"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL with the vault's database: connection strings of the owner and of the runtime role."""
    stack = Stack.open(tmp_path_factory.mktemp("vault-stack") / "stack")
    stack.up_postgres()
    try:
        asyncio.run(migrate(stack.dsn("vault", "vault_owner"), MIGRATIONS))
        yield SimpleNamespace(runtime=stack.dsn("vault"), owner=stack.dsn("vault", "vault_owner"))
    finally:
        stack.down(wipe=True)


@pytest.fixture(scope="module")
async def pool(database):
    pool = await connect_pool(database.runtime)
    await store.replace_processors(pool, PROCESSORS)
    yield pool
    await pool.close()


def application(pool):
    """One copy of the vault, with nothing in memory yet."""
    app = FastAPI()
    install_problem_handlers(app)
    verifier = TokenVerifier("vault", {name: key.public_key() for name, key in KEYS.items()})
    app.include_router(vault_routes(Gate(verifier, pool), pool, Keyring(ROOT, 100)))
    return app


class Callers:
    """The services' own client against one copy of the vault."""

    def __init__(self, pool) -> None:
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(application(pool)), base_url="http://vault")

    def client(self, principal: str) -> VaultClient:
        client = VaultClient("http://vault", TokenIssuer(principal, KEYS[principal]))
        client._http = self._http
        return client

    async def seal(self, *items):
        return await self.client("ingestion").seal(SealCall(purpose="intake", items=list(items)))

    async def open(self, *items, purpose="screening"):
        return await self.client("moderation").open(OpenCall(purpose=purpose, items=list(items)))

    async def disclose(self, *items, provider="smtp.default", fields=("address",)):
        call = DiscloseCall(purpose="delivery", provider=provider, fields=list(fields), items=list(items))
        return await self.client("routing").disclose(call)

    async def read(self, path: str, principal: str = "operator"):
        headers = TokenIssuer(principal, KEYS[principal]).headers("vault")
        return await self._http.get(path, headers=headers)


@pytest.fixture
def vault(pool):
    return Callers(pool)


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
    return OpenItem(message_id=item.message_id, token=answer.token, capsule=answer.capsule)


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
    return Received(ReceiptIssued(receipt=signed), record)


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


async def test_concurrent_batches_for_the_same_new_recipients_end_with_one_subject_each(pool, account):
    """Each copy of the vault starts with empty memory: account keys are raced for as well."""
    addresses = [f"person-{n}@example.org" for n in range(50)]
    batches = [[new_item(account, address) for address in addresses[::step]] for step in (1, -1, 1, -1, 1, -1)]
    answers = await asyncio.gather(*(Callers(pool).seal(*batch) for batch in batches))
    tokens = {}
    for batch, answered in zip(batches, answers, strict=True):
        for item, answer in zip(batch, answered, strict=True):
            tokens.setdefault(item.address, set()).add(answer.token)
    assert all(len(known) == 1 for known in tokens.values())
    assert await pool.fetchval("SELECT count(*) FROM subjects WHERE account_id = $1", account) == 50
    everything = [
        pair for batch, answered in zip(batches, answers, strict=True) for pair in zip(batch, answered, strict=True)
    ]
    opened = await Callers(pool).open(*(opening(item, answer) for item, answer in everything))
    assert [answer.message_key for answer in opened] == [item.message_key for item, _ in everything]


async def test_a_new_name_replaces_the_stored_one(vault, account):
    await sealed(vault, account, name="Anna")
    item, answer = await sealed(vault, account, name="Anne")
    (disclosed,) = await vault.disclose(delivery(item, answer), provider="smtp.named", fields=("address", "name"))
    assert disclosed.fields == {"address": "Anna@example.org", "name": "Anne"}


async def test_nothing_readable_is_stored(vault, pool, account):
    item, answer = await sealed(vault, account, name="Canary Canaria")
    row = await pool.fetchrow("SELECT * FROM subjects WHERE token = $1", answer.token)
    blobs = b"".join(value for value in row.values() if isinstance(value, bytes))
    assert item.address.encode() not in blobs
    assert b"Canary" not in blobs


async def test_an_unknown_token_and_a_strange_capsule_are_problems_of_their_items(vault, account):
    item, answer = await sealed(vault, account)
    good = opening(item, answer)
    answers = await vault.open(
        good,
        good.model_copy(update={"token": "rt_unknown"}),
        good.model_copy(update={"message_id": "another"}),
        good.model_copy(update={"capsule": b"short"}),
    )
    assert [kind(one) for one in answers] == [None, "unknown-recipient", "bad-capsule", "bad-capsule"]
    assert [one.problem["status"] for one in answers[1:]] == [404, 422, 422]


async def test_rows_swapped_in_the_database_open_nothing(vault, pool, account):
    one, other = new_item(account, "a@example.org"), new_item(account, "b@example.org")
    first, second = await vault.seal(one, other)
    await pool.execute(
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE token = $2) WHERE token = $1",
        first.token,
        second.token,
    )
    (opened,) = await vault.open(opening(one, first))
    (disclosed,) = await vault.disclose(delivery(one, first))
    (again,) = await vault.seal(one)
    assert {kind(opened), kind(disclosed), kind(again)} == {"integrity-failed"}
    assert await ledger(vault, one) == []


async def test_a_field_moved_to_another_row_is_not_disclosed(vault, pool, account):
    one, other = new_item(account, "a@example.org"), new_item(account, "b@example.org")
    first, second = await vault.seal(one, other)
    await pool.execute(
        "UPDATE subjects SET address = (SELECT address FROM subjects WHERE token = $2) WHERE token = $1",
        first.token,
        second.token,
    )
    (disclosed,) = await vault.disclose(delivery(one, first))
    assert kind(disclosed) == "integrity-failed"


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
        answers = await vault.disclose(delivery(item, answer), delivery(item, answer), provider=provider, fields=fields)
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


async def test_rule_vault_epoch_holds_between_concurrent_asks(pool, account):
    """However the asks fall, the ledger's epochs only grow and the highest is served."""
    vault = Callers(pool)
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


async def test_rule_spent_redelivered_receipts_change_nothing(vault, pool, account):
    items = [new_item(account, f"p{n}@example.org") for n in range(20)]
    answers = await vault.seal(*items)
    await vault.disclose(*map(delivery, items, answers))
    batch = [receipt(item, offset=n) for n, item in enumerate(items)]
    batch += [receipt(item, state="delivered", sequence=3, offset=100 + n) for n, item in enumerate(items)]
    messages = [item.message_id for item in items]
    query = "SELECT * FROM instructions WHERE message_id = ANY ($1) ORDER BY message_id"
    await on_receipt_issued(batch, pool, TRUSTED)
    once = await pool.fetch(query, messages)
    assert {row["spent_state"] for row in once} == {"handed_over"}
    await on_receipt_issued(batch, pool, TRUSTED)
    await on_receipt_issued(batch[::-1], pool, TRUSTED)
    await asyncio.gather(*(on_receipt_issued(batch[::step], pool, TRUSTED) for step in (1, -1)))
    assert await pool.fetch(query, messages) == once


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
    for table in ("disclosures", "access_log"):
        for statement in (f"UPDATE {table} SET caller = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)


async def test_every_call_leaves_a_row_in_the_access_log(vault, pool, account):
    before = await pool.fetchval("SELECT coalesce(max(id), 0) FROM access_log")
    item, answer = await sealed(vault, account)
    await vault.open(opening(item, answer), opening(item, answer).model_copy(update={"token": "rt_unknown"}))
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
    body = DiscloseCall(
        purpose="delivery", provider="smtp.default", fields=["address"], items=[delivery(item, answer, **change)]
    ).model_dump_json()
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


async def test_another_root_key_than_before_is_noticed_at_the_start(vault, pool, account):
    await sealed(vault, account)
    async with pool.acquire() as connection:
        await Keyring(ROOT, 10).check_root(connection)
        with pytest.raises(KeyFileError, match="VAULT_ROOT_KEY_FILE"):
            await Keyring(RootKey(os.urandom(32)), 10).check_root(connection)


async def test_account_keys_that_were_changed_hold_up_their_own_account_only(pool, account):
    vault, other_account = Callers(pool), f"account-{uuid.uuid4()}"
    (one, first), (two, second) = await sealed(vault, account), await sealed(vault, other_account)
    await pool.execute("UPDATE account_keys SET wrapped = wrapped || 'x' WHERE account_id = $1", account)
    answers = await Callers(pool).open(opening(one, first), opening(two, second))
    assert [kind(answer) for answer in answers] == ["integrity-failed", None]


async def test_keys_of_accounts_that_left_memory_are_found_again(pool):
    keyring, accounts = Keyring(ROOT, 2), [f"account-{uuid.uuid4()}" for _ in range(5)]
    async with pool.acquire() as connection:
        made = await keyring.find_or_create(connection, accounts)
        again = await keyring.find_or_create(connection, accounts)
    assert {name: keys.address_index("a@b") for name, keys in made.items()} == {
        name: keys.address_index("a@b") for name, keys in again.items()
    }
    assert len(keyring._accounts) == 2

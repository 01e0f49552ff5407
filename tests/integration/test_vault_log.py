"""The access log against a superuser of the database: edit, delete, reorder, truncate, rewrite. And breach scope."""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.contracts.vault import DiscloseCall, DiscloseItem, SealCall, SealItem
from common.events.envelope import decode
from common.events.vault import CheckpointSigned
from common.kafka.publisher import PublishError
from common.postgres.pool import connect_pool
from common.security.merkle import root_from_path
from common.security.signing import Signer, TrustedKeys
from common.security.tlog import is_consistent
from common.testing.fakes import FakePublisher
from vault import store
from vault.accesslog import Sequencer, entry_leaf, log_entries, prove_consistency, prove_inclusion
from vault.disclosing import disclose
from vault.domain import Access, Processor
from vault.keyring import Keyring
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.scope import EVERY_ACCOUNT, scoped
from vault.sealing import seal
from waystation.proof.access_log import Entry, check_log

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

KEY = Ed25519PrivateKey.generate()
KEYS = TrustedKeys("vault", [KEY.public_key()])
PROVIDER = Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over")


@pytest.fixture
async def world(database, stack, tmp_path):
    """A vault of this test's own with a dozen calls in its log, and the superuser's connection."""
    dsn = await database("vault")
    pool = await connect_pool(dsn)
    await store.replace_processors(pool, [PROVIDER])
    keyring = Keyring(KeyFolder(tmp_path / "keys", RootKey(os.urandom(32))), 10)
    await keyring.start(pool)
    name = dsn.rpartition("/")[2]
    superuser = await asyncpg.connect(stack.dsn(name, "postgres"))
    world = World(pool, keyring, superuser)
    for number in range(4):
        await world.call(number)
    yield world
    await superuser.close()
    await pool.close()


class World:
    def __init__(self, pool, keyring, superuser) -> None:
        self.pool = pool
        self.keyring = keyring
        self.superuser = superuser
        self.kafka = FakePublisher()
        self.sequencer = Sequencer(pool, Signer("vault", KEY), self.kafka)
        self.account = f"account-{uuid.uuid4()}"
        self.tokens = []

    async def call(self, number, people=3):
        """Seal for some people and disclose them: two rows in the log, `people` in the ledger."""
        items = [
            SealItem(self.account, str(uuid.uuid4()), f"p{number}-{n}@example.org", {}, bytes(32))
            for n in range(people)
        ]
        access = Access("ingestion", "seal", "intake", None, people)
        answers = await seal(SealCall("intake", items), access, self.pool, self.keyring)
        asked = [
            DiscloseItem(self.account, item.message_id, answer.token, answer.capsule, "d", "contract", 1, 1)
            for item, answer in zip(items, answers, strict=True)
        ]
        access = Access("routing", "disclose", "delivery", None, people, None, "smtp.default")
        await disclose(DiscloseCall("delivery", "smtp.default", ["address"], asked), access, self.pool, self.keyring)
        await self.sequencer.step()
        self.tokens += [answer.token for answer in answers]

    def heads(self):
        return [decode(CheckpointSigned, record.value, record.headers).checkpoint for record in self.kafka.records]

    async def check(self):
        entries = [Entry.model_validate(json.loads(json.dumps(one))) for one in await log_entries(self.pool, 0, 1000)]
        return check_log(entries, self.heads(), KEYS)


async def test_an_untouched_log_is_proved(world):
    finding = await world.check()
    assert (finding.proved, finding.entries, finding.heads) == (True, 8, 4)


ENTRY = "(SELECT entry_id FROM log_leaves WHERE position = {})"
COPY = "account_id, message_id, token, fields, legal_basis, instruction_digest, epoch, attempt FROM disclosures"
CRIMES = {
    "edit": ("UPDATE access_log SET caller = 'somebody' WHERE id = " + ENTRY, 4),
    "edit the first": ("UPDATE access_log SET items = items + 1 WHERE id = " + ENTRY, 0),
    "delete a leaf": ("DELETE FROM log_leaves WHERE position = {}", 5),
    "delete an entry": ("DELETE FROM access_log WHERE id = " + ENTRY, 2),
    "reorder": (
        (
            "UPDATE log_leaves SET position = CASE position WHEN 3 THEN -6 ELSE -3 END WHERE position IN ({}, 6);"
            "UPDATE log_leaves SET position = -position WHERE position < 0"
        ),
        3,
    ),
    "truncate": ("DELETE FROM log_leaves WHERE position >= {}", 6),
    "delete ledger rows": ("DELETE FROM disclosures WHERE call_id = " + ENTRY, 3),
    "edit a ledger row": ("UPDATE disclosures SET token = 'rt_x' WHERE ordinal = 2 AND call_id = " + ENTRY, 7),
    "add a ledger row": (
        f"INSERT INTO disclosures SELECT call_id, 99, {COPY} WHERE ordinal = 1 AND call_id = {ENTRY}",
        1,
    ),
}


@pytest.mark.parametrize("crime", CRIMES)
async def test_what_a_superuser_changes_is_named(world, crime):
    statement, first_bad = CRIMES[crime]
    await world.superuser.execute(statement.format(first_bad))
    finding = await world.check()
    assert (finding.proved, finding.position) == (False, first_bad), finding.text


async def test_a_log_written_anew_with_fitting_leaves_is_found(world):
    """The superuser knows the code: entries, leaves and heads in the database all fit each other again."""
    await world.superuser.execute("UPDATE access_log SET caller = 'nobody' WHERE operation = 'disclose'")
    for row in await world.superuser.fetch("SELECT * FROM access_log"):
        await world.superuser.execute("UPDATE log_leaves SET hash = $2 WHERE entry_id = $1", row["id"], entry_leaf(row))
    finding = await world.check()
    assert (finding.proved, finding.position) == (False, 1)


async def test_heads_that_are_missing_forged_or_contradict_each_other_are_refused(world):
    entries = [Entry.model_validate(one) for one in await log_entries(world.pool, 0, 1000)]
    heads = world.heads()
    assert "missing" in check_log(entries, [heads[0], *heads[2:]], KEYS).text
    (forged,) = Signer("vault", Ed25519PrivateKey.generate()).sign([heads[-1].statement])
    assert "not signed" in check_log(entries, [*heads[:-1], forged], KEYS).text
    (forked,) = Signer("vault", KEY).sign([{**heads[-1].statement, "root": "00" * 32}])
    assert "contradict" in check_log(entries, [*heads, forked], KEYS).text
    assert check_log(entries, [*heads, *heads], KEYS).proved, "heads may be delivered twice"


async def test_a_head_that_kafka_did_not_take_is_published_later(world):
    world.kafka.failing = 1
    with pytest.raises(PublishError):
        await world.call(9)
    assert not any(head.statement["size"] == 10 for head in world.heads())
    await world.sequencer.step()
    assert world.heads()[-1].statement["size"] == 10
    assert (await world.check()).proved


async def test_an_entry_is_in_the_tree_and_the_tree_only_grew(world):
    heads = {head.statement["size"]: head.statement["root"] for head in world.heads()}
    proof = await prove_inclusion(world.pool, 3, 8)
    path = bytes.fromhex("".join(proof["path"]))
    assert root_from_path(bytes.fromhex(proof["leaf"]), 3, 8, path).hex() == proof["root"] == heads[8]
    grown = await prove_consistency(world.pool, 4, 8)
    assert (grown["old_root"], grown["root"]) == (heads[4], heads[8])
    nodes = [bytes.fromhex(node) for node in grown["proof"]]
    assert is_consistent(4, bytes.fromhex(heads[4]), 8, bytes.fromhex(heads[8]), nodes)
    with pytest.raises(ValueError, match="8 entries"):
        await prove_inclusion(world.pool, 3, 9)


async def test_the_runtime_role_cannot_change_the_tree(world):
    for statement in (
        "UPDATE log_leaves SET hash = hash",
        "DELETE FROM log_leaves",
        "UPDATE log_checkpoints SET event = ''",
        "DELETE FROM log_checkpoints",
        "UPDATE log_pending SET entry_id = 1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.pool.execute(statement)


async def test_breach_scope_equals_a_recount(world):
    since, until = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    async with scoped(world.pool, EVERY_ACCOUNT) as connection:
        total, first = await store.breach_scope(connection, "smtp.default", since, until, after="", limit=5)
        again, rest = await store.breach_scope(connection, "smtp.default", since, until, after=first[-1][1], limit=100)
        past_the_end = await store.breach_scope(connection, "smtp.default", since, until, after="rt_~", limit=5)
        nothing = ((0, 0, 0), [])
        assert await store.breach_scope(connection, "smtp.other", since, until, after="", limit=5) == nothing
        assert await store.breach_scope(connection, "smtp.default", until, until, after="", limit=5) == nothing
    assert total == again == (12, 12, 1)
    assert past_the_end == (total, [])
    assert [row[1] for row in first + rest] == sorted(world.tokens)
    assert {row[2:4] for row in first + rest} == {(1, 1)}

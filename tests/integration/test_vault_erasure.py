"""Erasure in depth: at once, in every older copy after the epoch, and again after a restore. With the burglar's tools."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealCall, SealItem
from common.contracts.vault_duties import EraseCall, PersonItem
from common.events.envelope import decode
from common.events.vault import ErasureRecorded
from common.kafka.publisher import PublishError
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.testing.fakes import FakePublisher
from vault import store
from vault.disclosing import disclose
from vault.domain import Access, Processor
from vault.epochs import end_epoch, finish_epochs
from vault.erasing import Eraser, replay
from vault.errors import KeyFileError
from vault.keyring import Keyring
from vault.keys.blobs import BlobError, decrypt, named
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.keys.subjects import SubjectKeys
from vault.opening import open_capsules
from vault.scope import EVERY_ACCOUNT, scoped
from vault.sealing import seal
from waystation.stack import Stack, postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

MIGRATIONS = Path(__file__).parents[2] / "services" / "vault" / "migrations"
ROOT = RootKey(os.urandom(32))
PROVIDER = Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over")


class Vault:
    """One copy of the vault over a database of its own, called as its routes call it."""

    def __init__(self, pool, folder) -> None:
        self.pool = pool
        self.folder = folder
        self.kafka = FakePublisher()
        self.keyring = Keyring(KeyFolder(folder, ROOT), 100)

    async def seal(self, *items):
        access = Access("ingestion", "seal", "intake", None, len(items))
        return await seal(SealCall("intake", list(items)), access, self.pool, self.keyring)

    async def open(self, *items):
        access = Access("moderation", "open", "screening", None, len(items))
        return await open_capsules(OpenCall("screening", list(items)), access, self.pool, self.keyring)

    async def disclose(self, *items):
        access = Access("routing", "disclose", "delivery", None, len(items), None, "smtp.default")
        call = DiscloseCall("delivery", "smtp.default", ["address"], list(items))
        return await disclose(call, access, self.pool, self.keyring)

    async def erase(self, *items):
        access = Access("operator", "erase", "data-protection", None, len(items))
        call = EraseCall("data-protection", "request-of-person", list(items))
        return await Eraser(self.kafka).erase(call, access, self.pool, self.keyring)

    def events(self):
        return [decode(ErasureRecorded, record.value, record.headers) for record in self.kafka.records]

    async def rows(self, sql, *values):
        async with scoped(self.pool, EVERY_ACCOUNT) as connection:
            return await connection.fetch(sql, *values)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A PostgreSQL of this module's own: it is stopped and put back to earlier."""
    stack = Stack.open(tmp_path_factory.mktemp("erasure") / "stack")
    stack._prepare()
    stack.start_postgres()
    try:
        asyncio.run(migrate(stack.dsn("vault", "vault_owner"), MIGRATIONS))
        yield stack
    finally:
        stack.down(wipe=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def new_copy(stack, folder):
    """Start a copy of the vault; its pool ends with the test."""
    pools = []

    async def start():
        pool = await connect_pool(stack.dsn("vault"), connections_max=4)
        pools.append(pool)
        await store.replace_processors(pool, [PROVIDER])
        vault = Vault(pool, folder)
        await vault.keyring.start(pool)
        return vault

    yield start
    for pool in pools:
        pool.terminate()


@pytest.fixture
async def vault(new_copy):
    return await new_copy()


@pytest.fixture
def account():
    return f"account-{uuid.uuid4()}"


def item(account, address="anna@example.org", **fields):
    return SealItem(account, str(uuid.uuid4()), address, fields, os.urandom(32))


def opening(sealed, answer):
    return OpenItem(sealed.account_id, sealed.message_id, answer.token, answer.capsule)


def delivery(sealed, answer, **changes):
    values = {"instruction_digest": "d" * 64, "legal_basis": "contract", "epoch": 1, "attempt": 1, **changes}
    return DiscloseItem(sealed.account_id, sealed.message_id, answer.token, answer.capsule, **values)


def kind(answer):
    return answer.problem and answer.problem["type"].rpartition(":")[2]


async def test_an_erased_person_is_gone_at_once_and_everywhere(vault, new_copy, account):
    one, other = item(account), item(account, "bert@example.org", phone="+4930123456")
    first, second = await vault.seal(one, other)
    await vault.disclose(delivery(one, first))
    erased, unknown = await vault.erase(
        PersonItem(account, address="ANNA@example.org"), PersonItem(account, address="nobody@example.org")
    )
    assert (erased.tokens, kind(unknown)) == ([first.token], "unknown-recipient")
    for copy in (vault, await new_copy()):
        assert [kind(answer) for answer in await copy.open(opening(one, first), opening(other, second))] == [
            "erased",
            None,
        ]
        assert kind((await copy.disclose(delivery(one, first, epoch=2)))[0]) == "erased"
    for table in ("subjects", "data_keys"):
        assert await vault.rows(f"SELECT FROM {table} WHERE token = $1", first.token) == []
    (event,) = vault.events()
    assert (event.key, event.account_id, event.reason) == (first.token, account, "request-of-person")
    (task,) = await vault.rows("SELECT provider, kind, done_at FROM notification_tasks WHERE token = $1", first.token)
    assert tuple(task) == ("smtp.default", "erasure", None)
    assert kind((await vault.erase(PersonItem(account, token=first.token)))[0]) == "erased"
    assert len(vault.events()) == 1


async def test_the_same_address_again_is_a_new_person_and_the_old_capsule_stays_dead(vault, account):
    one = item(account)
    (first,) = await vault.seal(one)
    await vault.erase(PersonItem(account, token=first.token))
    (again,) = await vault.seal(one)
    assert again.token != first.token
    stale = OpenItem(account, one.message_id, again.token, first.capsule)
    assert kind((await vault.open(stale))[0]) == "bad-capsule"


async def test_a_person_is_found_for_erasure_by_phone_and_only_in_its_account(vault, account):
    one = item(account, phone="+49 30 7654321")
    (answer,) = await vault.seal(one)
    stranger = f"account-{uuid.uuid4()}"
    await vault.seal(item(stranger))
    refused = await vault.erase(PersonItem(stranger, phone="+49307654321"), PersonItem(stranger, token=answer.token))
    assert [kind(one) for one in refused] == ["unknown-recipient"] * 2
    (erased,) = await vault.erase(PersonItem(account, phone="+49307654321"))
    assert erased.tokens == [answer.token]


async def test_one_of_a_hundred_recipients_of_a_body_is_erased_and_ninety_nine_read_on(vault, account):
    """A shared body has one key, wrapped once per person."""
    body_key = os.urandom(32)
    items = [SealItem(account, "body-1", f"p{n}@example.org", {}, body_key) for n in range(100)]
    answers = await vault.seal(*items)
    await vault.erase(PersonItem(account, token=answers[41].token))
    opened = await vault.open(*map(opening, items, answers))
    assert [number for number, one in enumerate(opened) if one.message_key != body_key] == [41]
    await vault.erase(*(PersonItem(account, token=answer.token) for answer in answers))
    assert {kind(one) for one in await vault.open(*map(opening, items, answers))} == {"erased"}


async def test_without_kafka_nothing_is_erased_and_nothing_half_done(vault, account):
    """The ledger outside the database comes first: what it does not know could be restored."""
    one = item(account)
    (answer,) = await vault.seal(one)
    vault.kafka.failing = 1
    with pytest.raises(PublishError):
        await vault.erase(PersonItem(account, token=answer.token))
    assert (await vault.open(opening(one, answer)))[0].message_key == one.message_key


def repeated(token, account, *, epoch):
    return ErasureRecorded(
        recipient_token=token,
        account_id=account,
        erased_at="2026-11-22T09:30:00.000Z",
        reason="request-of-person",
        asked_by="operator",
        epoch=epoch,
    )


async def test_a_replayed_erasure_erases_once(vault, account):
    one = item(account)
    (answer,) = await vault.seal(one)
    event = repeated(answer.token, account, epoch=1)
    assert [await replay([event, event], vault.pool), await replay([event], vault.pool)] == [1, 0]
    assert kind((await vault.open(opening(one, answer)))[0]) == "erased"


async def test_an_epoch_ends_under_load_without_a_failed_call(vault, new_copy, account):
    """Two copies, one of which does not know of the new epoch, seal and open while keys move and fields change."""
    other, done = await new_copy(), asyncio.Event()
    sealed = []

    async def work(copy, label):
        for number in itertools.count():
            items = [item(account, f"{label}{number}-{n}@example.org") for n in range(20)]
            items += [item(account, f"regular{n}@example.org", name=f"{label} {number}") for n in range(20)]
            answers = await copy.seal(*items)
            assert [one.problem for one in answers] == [None] * len(items)
            opened = await copy.open(*map(opening, items, answers))
            assert [one.message_key for one in opened] == [one.message_key for one in items]
            assert all(one.fields for one in await copy.disclose(*map(delivery, items, answers)))
            sealed.extend(zip(items, answers, strict=True))
            if done.is_set() and number > 3:
                return

    workers = [asyncio.create_task(work(copy, label)) for copy, label in ((vault, "a"), (other, "b"))]
    await asyncio.sleep(0.3)
    before = vault.keyring.epoch
    assert await end_epoch(vault.pool, vault.keyring) == before + 1
    await asyncio.sleep(0.2)
    done.set()
    await asyncio.gather(*workers)
    living = [row[0] for row in await vault.rows("SELECT epoch FROM epochs WHERE destroyed_at IS NULL")]
    assert living == vault.keyring.folder.epochs() == [before + 1]
    for start in range(0, len(sealed), 500):
        part = sealed[start : start + 500]
        opened = await other.open(*(opening(*pair) for pair in part))
        assert [one.message_key for one in opened] == [one.message_key for one, _ in part]


async def test_what_a_kill_left_of_an_epochs_end_is_taken_up(vault, new_copy, account):
    """The new epoch has begun, nothing has moved; the old key file outlived its partition."""
    one = item(account)
    (answer,) = await vault.seal(one)
    old = vault.keyring.epoch
    vault.keyring.folder.load_or_make(old + 1)
    async with scoped(vault.pool, EVERY_ACCOUNT) as connection:
        await store.make_epoch(connection, old + 1)
    later = await new_copy()
    assert (await later.open(opening(one, answer)))[0].message_key == one.message_key
    await finish_epochs(later.pool, later.keyring)
    assert later.keyring.folder.epochs() == [old + 1]
    later.keyring.folder.load_or_make(old)
    await finish_epochs(later.pool, later.keyring)
    assert later.keyring.folder.epochs() == [old + 1]
    assert (await vault.open(opening(one, answer)))[0].message_key == one.message_key


async def test_the_newest_epoch_cannot_be_dropped(vault):
    with pytest.raises(asyncpg.RaiseError, match="newest"):
        async with scoped(vault.pool, EVERY_ACCOUNT) as connection:
            await store.drop_epoch(connection, vault.keyring.epoch)


async def test_erasures_beside_a_moving_epoch_leave_no_key_behind(vault, account):
    """Rule: a key that moves is either deleted before or found in its new partition."""
    items = [item(account, f"p{n}@example.org") for n in range(300)]
    answers = await vault.seal(*items)
    victims = [answer.token for answer in answers[::2]]

    async def erase_all():
        for start in range(0, len(victims), 10):
            await vault.erase(*(PersonItem(account, token=token) for token in victims[start : start + 10]))

    await asyncio.gather(erase_all(), end_epoch(vault.pool, vault.keyring))
    left = {row[0] for row in await vault.rows("SELECT token FROM data_keys WHERE account_id = $1", account)}
    assert left == {answer.token for answer in answers[1::2]}


async def epochs_of_erasure(vault, token):
    """The epoch that is recorded, the epochs told to Kafka, and whether older copies are said to be unreadable."""
    async with scoped(vault.pool, EVERY_ACCOUNT) as connection:
        recorded, unreadable_at = await store.erasure(connection, token)
    return recorded.epoch, [one.epoch for one in vault.events() if one.key == token], unreadable_at is not None


async def test_a_copy_that_does_not_know_the_new_epoch_records_it_with_an_erasure(vault, new_copy, account):
    """A backup of now opens until the new epoch ends: before that no receipt may say that it does not."""
    (answer,) = await vault.seal(item(account))
    behind = await new_copy()
    epoch = await end_epoch(vault.pool, vault.keyring)
    assert behind.keyring.epoch == epoch - 1
    await behind.erase(PersonItem(account, token=answer.token))
    assert await epochs_of_erasure(behind, answer.token) == (epoch, [epoch], False)
    await end_epoch(vault.pool, vault.keyring)
    assert await epochs_of_erasure(behind, answer.token) == (epoch, [epoch], True)


async def test_an_epoch_that_ends_while_an_erasure_waits_for_kafka_is_told_and_recorded(vault, new_copy, account):
    (answer,) = await vault.seal(item(account))
    other, kafka = await new_copy(), vault.kafka
    before = vault.keyring.epoch

    class SlowKafka:
        async def publish(self, records):
            if not kafka.records:
                await end_epoch(other.pool, other.keyring)
            await kafka.publish(records)

    call = EraseCall("data-protection", "request-of-person", [PersonItem(account, token=answer.token)])
    access = Access("operator", "erase", "data-protection", None, 1)
    await Eraser(SlowKafka()).erase(call, access, vault.pool, vault.keyring)
    assert await epochs_of_erasure(vault, answer.token) == (before + 1, [before, before + 1], False)


async def test_a_key_that_moved_before_its_erasure_was_repeated_is_recorded_with_its_epoch(vault, account):
    """The database was put back to before an erasure, and an epoch ended before anybody noticed."""
    (answer,) = await vault.seal(item(account))
    event = repeated(answer.token, account, epoch=vault.keyring.epoch)
    epoch = await end_epoch(vault.pool, vault.keyring)
    assert await replay([event], vault.pool) == 1
    assert await epochs_of_erasure(vault, answer.token) == (epoch, [], False)


# The burglar: superuser's rights, data folder, write-ahead log, a backup from before, and every key that still exists.


copies_the_data_folder = pytest.mark.skipif(
    os.environ.get("WAYSTATION_STACK") == "docker", reason="copies PostgreSQL's own folder"
)


def data_folder(stack):
    return postgres.data_folder(stack.layout)


def blobs_of(folder, needle):
    """Files under a folder in which some bytes stand."""
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def burgle(folder, account, token, rows):
    """Read a name from stolen rows with every key that exists and full knowledge of the code; None when none opens."""
    files = KeyFolder(folder, ROOT)
    for number in (0, *files.epochs()):
        for epoch in range(rows["epoch"] + 3):
            try:
                key = files.load(number).unwrap(rows["account_key"], named("account-key", account, str(epoch)))
                place = named(account) + named(token)
                data_key = decrypt(AESGCM(key), rows["data_key"], named("data-key") + place)
                return SubjectKeys(place, data_key).open_field("name", rows["name"])
            except BlobError:
                continue
    return None


def put_back(stack, backup):
    """The data folder as it was in a backup, PostgreSQL running."""
    stack.stop_postgres()
    owner = data_folder(stack).stat()
    shutil.rmtree(data_folder(stack))
    shutil.copytree(backup, data_folder(stack))
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(data_folder(stack))], check=True)
    stack.start_postgres()


@copies_the_data_folder
async def test_a_stolen_backup_opens_nobody_who_was_erased(stack, vault, new_copy, account, tmp_path, folder):
    gone, stays = item(account, "gone@example.org", name="Gone Canary"), item(account, "stays@example.org")
    first, second = await vault.seal(gone, stays)
    (stolen,) = await vault.rows(
        "SELECT k.wrapped AS data_key, k.epoch, a.wrapped AS account_key, s.name FROM data_keys k"
        " JOIN subjects s USING (token) JOIN account_keys a ON a.account_id = k.account_id AND a.epoch = k.epoch"
        " WHERE token = $1",
        first.token,
    )
    vault.pool.terminate()
    stack.stop_postgres()
    backup, present = tmp_path / "backup", tmp_path / "present"
    shutil.copytree(data_folder(stack), backup)
    assert blobs_of(backup, stolen["data_key"]), "the backup has the wrapped key: there is something to steal"
    stack.start_postgres()

    vault = await new_copy()
    await vault.erase(PersonItem(account, token=first.token))
    assert burgle(folder, account, first.token, stolen) == "Gone Canary", "the epoch has not ended: the horizon is real"
    await end_epoch(vault.pool, vault.keyring)
    assert burgle(folder, account, first.token, stolen) is None
    assert (await vault.open(opening(stays, second)))[0].message_key == stays.message_key

    vault.pool.terminate()
    stack.stop_postgres()
    shutil.copytree(data_folder(stack), present)
    assert not blobs_of(present, b"Gone Canary")
    stack.start_postgres()
    put_back(stack, backup)
    with pytest.raises(KeyFileError, match="does not exist"):
        await new_copy()
    put_back(stack, present)
    vault = await new_copy()
    assert kind((await vault.open(opening(gone, first)))[0]) == "erased"
    assert (await vault.open(opening(stays, second)))[0].message_key == stays.message_key


async def test_old_rows_put_back_by_hand_after_the_epoch_do_not_open(stack, vault, account):
    """A superuser inserts again what was erased, and the old wrapping of a key that has moved."""
    gone, stays = item(account, "gone@example.org"), item(account, "stays@example.org")
    answers = await vault.seal(gone, stays)
    tokens = [answer.token for answer in answers]
    superuser = await asyncpg.connect(stack.dsn("vault", "postgres"))
    try:
        await superuser.execute(
            "CREATE TEMP TABLE old_subjects AS SELECT * FROM subjects WHERE token = ANY ($1)", tokens
        )
        await superuser.execute("CREATE TEMP TABLE old_keys AS SELECT * FROM data_keys WHERE token = ANY ($1)", tokens)
        await vault.erase(PersonItem(account, token=tokens[0]))
        epoch = await end_epoch(vault.pool, vault.keyring)
        await superuser.execute("INSERT INTO subjects SELECT * FROM old_subjects WHERE token = $1", tokens[0])
        await superuser.execute("DELETE FROM data_keys WHERE token = ANY ($1)", tokens)
        await superuser.execute("INSERT INTO data_keys SELECT token, $1, account_id, wrapped FROM old_keys", epoch)
    finally:
        await superuser.close()
    opened = await vault.open(opening(gone, answers[0]), opening(stays, answers[1]))
    assert [kind(one) for one in opened] == ["integrity-failed"] * 2
    disclosed = await vault.disclose(delivery(gone, answers[0]), delivery(stays, answers[1]))
    assert [kind(one) for one in disclosed] == ["integrity-failed"] * 2


async def test_a_person_of_before_its_rectification_put_back_whole_does_not_open_after_the_epoch(stack, vault, account):
    """Field row and key row together are consistent: the end of the epoch is what ends them."""
    one = item(account, name="Ana")
    (answer,) = await vault.seal(one)
    superuser = await asyncpg.connect(stack.dsn("vault", "postgres"))
    try:
        old = await superuser.fetchrow("SELECT name, address FROM subjects WHERE token = $1", answer.token)
        old_key = await superuser.fetchval("SELECT wrapped FROM data_keys WHERE token = $1", answer.token)
        await vault.seal(item(account, name="Anna"))
        await end_epoch(vault.pool, vault.keyring)
        again = (answer.token, old["name"], old["address"])
        await superuser.execute("UPDATE subjects SET name = $2, address = $3 WHERE token = $1", *again)
        (disclosed,) = await vault.disclose(delivery(one, answer))
        await superuser.execute("UPDATE data_keys SET wrapped = $2 WHERE token = $1", answer.token, old_key)
        (with_key,) = await vault.disclose(delivery(one, answer))
    finally:
        await superuser.close()
    assert [kind(disclosed), kind(with_key)] == ["integrity-failed"] * 2
    assert kind((await vault.open(opening(one, answer)))[0]) == "integrity-failed"


async def test_an_erased_person_put_back_by_hand_is_not_taken_into_the_next_epoch(stack, vault, account, caplog):
    gone, stays = item(account, "gone@example.org"), item(account, "stays@example.org")
    answers = await vault.seal(gone, stays)
    token = answers[0].token
    superuser = await asyncpg.connect(stack.dsn("vault", "postgres"))
    try:
        await superuser.execute("CREATE TEMP TABLE old_subjects AS SELECT * FROM subjects WHERE token = $1", token)
        await superuser.execute("CREATE TEMP TABLE old_keys AS SELECT * FROM data_keys WHERE token = $1", token)
        await vault.erase(PersonItem(account, token=token))
        await superuser.execute("INSERT INTO subjects SELECT * FROM old_subjects")
        await superuser.execute("INSERT INTO data_keys SELECT * FROM old_keys")
    finally:
        await superuser.close()
    await end_epoch(vault.pool, vault.keyring)
    opened = await vault.open(opening(gone, answers[0]), opening(stays, answers[1]))
    assert [kind(opened[0]), opened[1].message_key] == ["erased", stays.message_key]
    assert kind((await vault.disclose(delivery(gone, answers[0])))[0]) == "integrity-failed"
    assert f"the key of {token}, who is erased, was put back by hand" in caplog.text


@copies_the_data_folder
async def test_a_backup_of_the_same_epoch_is_served_only_after_the_erasures_are_repeated(
    stack, vault, new_copy, account, tmp_path
):
    one = item(account)
    (answer,) = await vault.seal(one)
    vault.pool.terminate()
    stack.stop_postgres()
    backup = tmp_path / "backup"
    shutil.copytree(data_folder(stack), backup)
    stack.start_postgres()
    vault = await new_copy()
    await vault.erase(PersonItem(account, token=answer.token))
    erased = vault.events()
    vault.pool.terminate()
    put_back(stack, backup)
    vault = await new_copy()
    assert (await vault.open(opening(one, answer)))[0].message_key == one.message_key, (
        "the restore brought the key back"
    )
    assert await replay(erased, vault.pool) == 1
    assert kind((await vault.open(opening(one, answer)))[0]) == "erased"

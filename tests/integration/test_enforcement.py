"""Enforcement on real PostgreSQL and Kafka: from a complaint to the standing that every service reads.

The rules guarded are those of the message road's protocol: `oneTransaction`, `sweep`, `deleteAfterAck`; and that the
last record of an account on the compacted topic is its newest revision.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import asyncpg
import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from on_the_road import stack_of_its_own

from common.events import StandingChanged, decode
from common.ids import new_id
from common.outbox import OutboxRelay
from common.security.tokens import TokenIssuer
from common.times import now
from enforcement import decisions
from enforcement.decisions import Bench
from enforcement.publishing import LatestStandings, standing_record
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.stack.kafka import client_options

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

COMPLAINT = {"clause": "R3.a", "category": "phishing", "origin": "recipient"}
SWEPT_SECONDS_MAX = 20.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with stack_of_its_own(tmp_path_factory.mktemp("enforcement"), "enforcement") as running:
        yield running


@pytest.fixture(scope="module")
def client(stack):
    with ServiceClient(stack) as operator:
        yield operator


@pytest.fixture
async def pool(stack):
    async with asyncpg.create_pool(stack.dsn("enforcement"), min_size=1, max_size=8) as connected:
        yield connected


@pytest.fixture
def account():
    return f"acme-{new_id()}"


@pytest.fixture
def stopped(stack):
    """The service is away during a test, and back afterwards."""
    stack.stop_service("enforcement")
    yield stack
    stack.start_service("enforcement")


class KeepsRecords:
    """Stands where the publisher is and keeps what it is given; it can be slow."""

    def __init__(self):
        self.records = []

    async def publish(self, records):
        self.records += records


class SilentRelay:
    """A process that is killed between commit and publishing: it never tells anything."""

    def committed(self, records):
        pass


def file(client, account, **change):
    return client.post("enforcement", "/v1/complaints", {**COMPLAINT, "account_id": account, **change})["id"]


def confirm(client, complaint, standing, reason="two reports"):
    return client.post("enforcement", f"/v1/complaints/{complaint}:confirm", {"standing": standing, "reason": reason})


def set_standing(client, account, standing):
    return client.post("enforcement", f"/v1/standings/{account}", {"standing": standing, "reason": "set by a test"})


def standing_of(client, account):
    return client.get("enforcement", f"/v1/standings/{account}")


def published(stack, account):
    """All records of an account on the topic, in order."""
    access = stack.kafka_credentials("operator")
    options = client_options(access.bootstrap, access.username, access.password)
    consumer = Consumer({**options, "group.id": "test", "enable.auto.commit": False, "enable.partition.eof": True})
    consumer.assign([TopicPartition("enforcement.standings", 0, 0)])
    found = []
    try:
        while (message := consumer.poll(10.0)) is not None:
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                break
            if message.key() == account.encode():
                found.append(decode(StandingChanged, message.value(), message.headers()))
    finally:
        consumer.close()
    return found


def wait_published(stack, account, revision, seconds=SWEPT_SECONDS_MAX):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = published(stack, account)
        if found and found[-1].revision >= revision:
            return found
        time.sleep(0.1)
    raise AssertionError(f"revision {revision} was not published within {seconds} s: {found}")


def refused(call, *arguments):
    with pytest.raises(CommandError) as caught:
        call(*arguments)
    return caught.value.message


async def as_operator(stack, paths_and_bodies):
    """Send requests at once, each over a connection of its own."""
    headers = TokenIssuer.from_file("operator", stack.identity_key("operator")).headers("enforcement")
    async with httpx.AsyncClient(base_url=stack.url("enforcement"), headers=headers, timeout=30) as http:
        answers = await asyncio.gather(*(http.post(path, json=body) for path, body in paths_and_bodies))
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    return [answer.json() for answer in answers]


def test_a_confirmed_complaint_suspends_the_account_and_everybody_can_read_it(stack, client, account):
    complaint = file(client, account, message_id=new_id())
    assert standing_of(client, account) == {"account_id": account, "standing": "good", "revision": 0, "changes": []}
    answer = confirm(client, complaint, "suspended")
    (event,) = wait_published(stack, account, 1)
    assert (answer["state"], answer["decision"]["outcome"]) == ("confirmed", "tightened")
    assert (event.standing, event.revision, event.clause) == ("suspended", 1, "R3.a")
    assert (event.complaint_id, event.decided_by) == (complaint, "person")
    assert standing_of(client, account)["standing"] == "suspended"


def test_a_confirmation_repeated_gives_the_first_answer_and_changes_nothing(stack, client, account):
    complaint = file(client, account)
    first = confirm(client, complaint, "limited")
    assert confirm(client, complaint, "limited") == first
    assert confirm(client, complaint, "blocked", "another reason") == first
    assert standing_of(client, account)["revision"] == 1


def test_a_milder_confirmation_keeps_the_standing_and_says_so(client, account):
    confirm(client, file(client, account), "blocked")
    answer = confirm(client, file(client, account), "warned")
    assert answer["decision"] | {"decided_at": ""} == {
        "decided_at": "",
        "reason": "two reports",
        "asked": "warned",
        "outcome": "kept",
        "standing": "blocked",
        "revision": 1,
    }
    assert standing_of(client, account)["revision"] == 1


def test_a_dismissed_complaint_changes_nothing_and_cannot_be_confirmed(client, account):
    complaint = file(client, account)
    path = f"/v1/complaints/{complaint}:dismiss"
    first = client.post("enforcement", path)
    assert client.post("enforcement", path, {"reason": "again"}) == first
    assert "was dismissed before" in refused(confirm, client, complaint, "blocked")
    assert standing_of(client, account)["standing"] == "good"


def test_an_operator_can_set_a_standing_back_to_good(stack, client, account):
    confirm(client, file(client, account), "blocked")
    answer = set_standing(client, account, "good")
    assert (answer["standing"], answer["revision"], answer["changes"][0]["outcome"]) == ("good", 2, "loosened")
    assert [event.standing for event in wait_published(stack, account, 2)][-1] == "good"
    assert [change["revision"] for change in standing_of(client, account)["changes"]] == [2, 1]


def test_an_unknown_complaint_is_not_found(client):
    assert "no complaint with this id" in refused(confirm, client, new_id(), "blocked")


def test_complaints_are_listed_by_page_state_and_account(client, account):
    ids = [file(client, account) for _ in range(3)]
    confirm(client, ids[1], "warned")
    first = client.get("enforcement", "/v1/complaints", {"account_id": account, "limit": 2})
    rest = client.get("enforcement", "/v1/complaints", {"account_id": account, "limit": 2, "after": first["next"]})
    waiting = client.get("enforcement", "/v1/complaints", {"account_id": account, "state": "received"})
    assert [one["id"] for one in first["complaints"] + rest["complaints"]] == ids
    assert rest["next"] is None
    assert [one["id"] for one in waiting["complaints"]] == [ids[0], ids[2]]


async def test_a_complaint_sent_again_with_its_key_is_stored_once(stack, client, account):
    key, call = new_id(), {**COMPLAINT, "account_id": account}
    async with httpx.AsyncClient(base_url=stack.url("enforcement")) as http:
        answers = await asyncio.gather(
            *(http.post("/v1/complaints", json=call, headers={"idempotency-key": key}) for _ in range(10))
        )
        other = await http.post("/v1/complaints", json={**call, "clause": "R6"}, headers={"idempotency-key": key})
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert (other.status_code, other.json()["type"]) == (422, "urn:waystation:problem:idempotency-key-reused")
    assert len(client.get("enforcement", "/v1/complaints", {"account_id": account})["complaints"]) == 1


async def test_the_open_door_takes_a_thousand_undecided_complaints_of_an_account(stack, client, account, pool):
    complaint = file(client, account)
    await fill(pool, account, 999)
    answer = await at_the_door(stack, account)
    assert (answer.status_code, answer.json()["limit"], answer.json()["field"]) == (429, 1000, "account_id")
    assert answer.headers["retry-after"]
    confirm(client, complaint, "warned")
    assert file(client, account)


async def test_the_open_door_takes_a_hundred_thousand_undecided_complaints_in_all(stack, client, account, pool):
    await fill(pool, "flood", 100_000)
    answer = await at_the_door(stack, account)
    await pool.execute("DELETE FROM complaints WHERE account_id = 'flood'")
    assert (answer.status_code, answer.json()["limit"]) == (429, 100_000)
    assert file(client, account)


async def at_the_door(stack, account):
    async with httpx.AsyncClient(base_url=stack.url("enforcement")) as http:
        return await http.post("/v1/complaints", json={**COMPLAINT, "account_id": account})


async def fill(pool, account, count):
    await pool.execute(
        "INSERT INTO complaints (id, account_id, clause, category, origin, request_digest, received_at)"
        " SELECT gen_random_uuid(), $1, 'R3.a', 'phishing', 'recipient', '', now() FROM generate_series(1, $2)",
        account,
        count,
    )


async def test_two_confirmations_at_once_make_two_revisions_one_after_the_other(stack, client, account, pool):
    set_standing(client, account, "good")
    ids = [file(client, account), file(client, account)]
    calls = [(f"/v1/complaints/{one}:confirm", {"standing": "suspended", "reason": "at once"}) for one in ids]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM standings WHERE account_id = $1 FOR UPDATE", account)
        both = asyncio.create_task(as_operator(stack, calls))
        done, _ = await asyncio.wait({both}, timeout=0.5)
        assert not done, "both wait for the row"
    answers = await both
    assert sorted(answer["decision"]["revision"] for answer in answers) == [2, 3]
    events = await asyncio.to_thread(wait_published, stack, account, 3)
    assert [event.revision for event in events] == sorted(event.revision for event in events)
    assert {change["complaint_id"] for change in standing_of(client, account)["changes"]} == {*ids, None}


async def test_many_decisions_at_once_keep_one_history_without_gaps(stack, client, account, pool):
    steps = ["warned", "limited", "suspended", "blocked"] * 4
    ids = [await asyncio.to_thread(file, client, account) for _ in steps]
    answers = await as_operator(
        stack,
        [
            (f"/v1/complaints/{one}:confirm", {"standing": step, "reason": "at once"})
            for one, step in zip(ids, steps, strict=True)
        ],
    )
    changes = standing_of(client, account)["changes"]
    revisions = [change["revision"] for change in changes]
    assert revisions == list(range(len(changes), 0, -1))
    assert changes[0]["standing"] == "blocked"
    assert sum(answer["decision"]["outcome"] != "kept" for answer in answers) == len(changes)
    events = await asyncio.to_thread(wait_published, stack, account, revisions[0])
    told = [event.revision for event in events]
    assert told == sorted(told)
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_decision_whose_process_died_before_publishing_is_swept(stopped, account, pool):
    """Rules `oneTransaction` and `sweep`."""
    await decisions.set_standing(Bench(pool, SilentRelay(), now), account, "suspended", clause="R5.2", reason="killed")
    assert published(stopped, account) == []
    stopped.start_service("enforcement")
    (event,) = await asyncio.to_thread(wait_published, stopped, account, 1)
    assert (event.standing, event.revision) == ("suspended", 1)


async def test_a_revision_swept_late_does_not_become_the_last_record_of_its_account(stopped, account, pool):
    silent = Bench(pool, SilentRelay(), now)
    await decisions.set_standing(silent, account, "blocked", clause="R5.2", reason="the process dies here")
    stopped.start_service("enforcement")
    with ServiceClient(stopped) as client:
        assert set_standing(client, account, "good")["revision"] == 2
    deadline = time.monotonic() + SWEPT_SECONDS_MAX
    while await pool.fetchval("SELECT count(*) FROM outbox"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    events = await asyncio.to_thread(published, stopped, account)
    told = [(event.standing, event.revision) for event in events]
    assert told[-1] == ("good", 2)
    assert told == sorted(told, key=lambda one: one[1]), "a machine that is slow may tell revision 1, but not after 2"


async def test_two_copies_that_publish_take_turns(account, pool, stack):
    bench = Bench(pool, SilentRelay(), now)
    change = await decisions.set_standing(bench, account, "limited", clause=None, reason="first")
    kept = KeepsRecords()
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(1398034254)")
        publishing = asyncio.create_task(LatestStandings(pool, kept).publish([standing_record(change)]))
        await asyncio.sleep(0.2)
        assert kept.records == []
        await decisions.set_standing(bench, account, "blocked", clause=None, reason="second")
    await publishing
    (record,) = kept.records
    assert decode(StandingChanged, record.value, record.headers).revision == 2
    await pool.execute("DELETE FROM outbox WHERE key = $1", account.encode())


async def test_a_row_leaves_the_outbox_only_after_kafka_took_the_record(account, pool, stopped):
    """Rule `deleteAfterAck`."""

    class Unreachable:
        async def publish(self, records):
            raise ConnectionRefusedError

    relay = OutboxRelay(pool, LatestStandings(pool, Unreachable()))
    relay.start()
    await decisions.set_standing(Bench(pool, relay, now), account, "warned", clause=None, reason="Kafka is away")
    await asyncio.sleep(0.5)
    assert await pool.fetchval("SELECT count(*) FROM outbox WHERE key = $1", account.encode()) == 1
    await relay.stop()


async def test_the_history_of_a_standing_holds_what_the_present_row_says(client, account, pool):
    for step in ("warned", "blocked", "good", "limited"):
        set_standing(client, account, step)
    row = await pool.fetchrow("SELECT * FROM standings WHERE account_id = $1", account)
    newest = standing_of(client, account)["changes"][0]
    assert (row["standing"], row["revision"]) == (newest["standing"], newest["revision"]) == ("limited", 4)


def test_the_command_files_confirms_and_shows(stack, account):
    receipt = command(stack, "complaints", "file", "--account", account, "--clause", "R5.2", "--category", "phishing")
    listed = command(stack, "complaints", "list", "--account", account, "--state", "received")
    confirmed = command(
        stack, "complaints", "confirm", receipt["id"], "--standing", "suspended", "--reason", "two reports"
    )
    command(stack, "standing", "set", account, "good", "--reason", "appeal upheld", "--clause", "R5.2")
    shown = command(stack, "standing", "show", account)
    assert [one["id"] for one in listed["complaints"]] == [receipt["id"]]
    assert confirmed["decision"]["standing"] == "suspended"
    assert (shown["standing"], shown["revision"]) == ("good", 2)
    assert "was confirmed before" in command(stack, "complaints", "dismiss", receipt["id"], status=1)["error"]


def command(stack, *arguments, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "waystation", *arguments, "--json"],
        env={**os.environ, "WAYSTATION_HOME": str(stack.layout.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stderr if status else done.stdout)

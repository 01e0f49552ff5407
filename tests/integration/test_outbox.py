"""The outbox relay between a real PostgreSQL and a real Kafka. The rules named are those of the hand-over protocol."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import orjson
import pytest
from kafka_numbers import numbers

from common.kafka.publisher import Publisher, PublishError
from common.kafka.records import Record
from common.outbox import OutboxRelay, StoredRecord, outbox_columns
from common.outbox.relay import ORPHAN_SECONDS, VACUUM_ROWS
from common.postgres.pool import connect_pool

pytestmark = pytest.mark.integration
INSERT = """
INSERT INTO outbox (topic, key, value, headers, created_at)
SELECT *, now() - make_interval(secs => $5) FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::jsonb[]) RETURNING id
"""

END_DELETES = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'DELETE FROM outbox%'
AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def pool(database):
    opened = await connect_pool(await database("routing"))
    yield opened
    opened.terminate()


@pytest.fixture
async def publisher(kafka_access):
    running = Publisher(kafka_access(), client_id="tests", timeout_seconds=2.0)
    yield running
    await running.stop()


@pytest.fixture
async def relays(pool):
    started = []

    def start(publisher):
        relay = OutboxRelay(pool, publisher)
        relay.start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        await relay.stop()


class Door:
    """A publisher that hangs until it is opened, counts, and fails when told so."""

    def __init__(self, publisher):
        self.publisher, self.failures, self.published = publisher, [], []
        self.knocked, self.open = asyncio.Event(), asyncio.Event()

    async def publish(self, records):
        self.knocked.set()
        await self.open.wait()
        if self.failures:
            raise self.failures.pop()
        await self.publisher.publish(records)
        self.published += records


async def store(pool, records, *, age_seconds=0.0):
    """Commit the rows as a handler would; returns them as it would give them to the relay."""
    rows = await pool.fetch(INSERT, *outbox_columns(records), age_seconds)
    return [StoredRecord(row["id"], record) for row, record in zip(rows, records, strict=True)]


async def standing(pool):
    return await pool.fetchval("SELECT count(*) FROM outbox")


async def until_empty(pool, seconds=10.0):
    deadline = time.monotonic() + seconds
    while await standing(pool):
        assert time.monotonic() < deadline, "rows stay in the outbox"
        await asyncio.sleep(0.02)


def found(records):
    return sorted(orjson.loads(record.value)["number"] for record in records)


async def test_committed_rows_go_out_from_memory_at_once_with_key_and_headers(
    pool, publisher, relays, fresh_topic, read_topic
):
    topic = fresh_topic(partitions=1)
    relay = relays(publisher)
    await publisher.start()
    sent = numbers(topic, range(2500))
    began = time.monotonic()
    relay.committed(await store(pool, sent))
    assert relay.pending == 2500
    await until_empty(pool)
    assert time.monotonic() - began < 2.0
    assert relay.pending == 0
    assert [(r.key, r.value, r.headers) for r in await read_topic(topic)] == [(r.key, r.value, r.headers) for r in sent]


async def test_a_row_stays_until_kafka_acknowledged_it(pool, publisher, relays, fresh_topic):
    """Rule deleteAfterAck."""
    topic, door = fresh_topic(), Door(publisher)
    relay = relays(door)
    relay.committed(await store(pool, numbers(topic, range(10))))
    await asyncio.sleep(0.5)
    assert (await standing(pool), relay.pending) == (10, 10)
    door.failures.append(PublishError("no acknowledgement"))
    door.open.set()
    await until_empty(pool)
    assert relay.pending == 0


async def test_rows_that_a_crash_left_are_swept_with_their_headers(pool, publisher, relays, fresh_topic, read_topic):
    """Rule sweep."""
    topic = fresh_topic(partitions=1)
    sent = numbers(topic, range(2300))
    await store(pool, sent, age_seconds=ORPHAN_SECONDS + 1)
    assert await OutboxRelay(pool, publisher).oldest_seconds() == pytest.approx(ORPHAN_SECONDS + 1, abs=1)
    relays(publisher)
    await until_empty(pool, 5)
    swept = await read_topic(topic)
    assert [(r.key, r.value, dict(r.headers)) for r in swept] == [(r.key, r.value, dict(r.headers)) for r in sent]


async def test_young_rows_of_another_process_are_left_to_it(pool, publisher, relays, fresh_topic):
    topic = fresh_topic()
    relays(publisher)
    await store(pool, numbers(topic, range(5)))
    await asyncio.sleep(2.5)
    assert await standing(pool) == 5


async def test_a_bug_does_not_end_the_relay_in_silence(pool, publisher, relays, fresh_topic, read_topic, caplog):
    topic, door = fresh_topic(), Door(publisher)
    door.open.set()
    door.failures.append(ValueError("a bug"))
    relay = relays(door)
    relay.committed(await store(pool, numbers(topic, range(10))))
    await until_empty(pool)
    assert found(await read_topic(topic)) == list(range(10))
    assert "the outbox waits: ValueError" in caplog.text


async def test_a_database_that_went_away_after_the_publish_is_deleted_from_later(pool, publisher, fresh_topic, relays):
    topic, door = fresh_topic(), Door(publisher)
    relay = relays(door)
    relay.committed(await store(pool, numbers(topic, range(10))))
    await door.knocked.wait()
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        door.open.set()
        async with asyncio.timeout(10):
            while not await pool.fetch(END_DELETES):
                await asyncio.sleep(0.05)
    await until_empty(pool)
    assert len(door.published) == 10, "what Kafka has is deleted later and not published again"


async def test_two_relays_on_one_table_lose_nothing(pool, publisher, relays, fresh_topic, read_topic):
    topic = fresh_topic()
    await store(pool, numbers(topic, range(1500)), age_seconds=ORPHAN_SECONDS + 1)
    both = [relays(publisher), relays(publisher)]
    for at in range(1500, 2100, 100):
        stored = await store(pool, numbers(topic, range(at, at + 100)))
        for relay in both:
            relay.committed(stored)
    await until_empty(pool)
    assert sorted(set(found(await read_topic(topic)))) == list(range(2100))


async def test_the_room_of_deleted_rows_is_filled_again(pool, publisher, relays, fresh_topic, monkeypatch):
    monkeypatch.setattr("common.outbox.relay._VACUUM_SHARE", 0)  # how long a vacuum takes here is another matter
    topic, relay = fresh_topic(), relays(publisher)
    sizes: list[int] = []
    vacuums = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'outbox'"
    before = await pool.fetchval(vacuums)
    for start in range(0, 4 * VACUUM_ROWS, VACUUM_ROWS):
        relay.committed(await store(pool, numbers(topic, range(start, start + VACUUM_ROWS))))
        await until_empty(pool)
        async with asyncio.timeout(30):
            while await pool.fetchval(vacuums) < before + len(sizes):  # each begins with the next round's deletion
                await asyncio.sleep(0.02)
        sizes.append(await pool.fetchval("SELECT pg_table_size('outbox')"))
    assert sizes[-1] < 2.5 * sizes[0]


async def test_a_vacuum_that_fails_keeps_nothing_from_kafka(pool, publisher, relays, fresh_topic, monkeypatch, caplog):
    monkeypatch.setattr("common.outbox.relay.VACUUM_ROWS", 1)
    monkeypatch.setattr("common.outbox.relay._VACUUM", "VACUUM no_such_table")
    topic, relay = fresh_topic(), relays(publisher)
    for start in range(0, 30, 10):
        relay.committed(await store(pool, numbers(topic, range(start, start + 10))))
        await until_empty(pool)
    assert "the outbox was not vacuumed: UndefinedTableError" in caplog.text


async def test_stopping_publishes_what_is_in_memory(pool, publisher, fresh_topic, read_topic):
    topic = fresh_topic()
    relay = OutboxRelay(pool, publisher)
    relay.start()
    relay.committed(await store(pool, numbers(topic, range(3000))))
    await relay.stop()
    assert (await standing(pool), len(await read_topic(topic))) == (0, 3000)


async def test_stopping_while_kafka_hangs_ends_and_leaves_the_rows(pool, publisher, fresh_topic):
    relay = OutboxRelay(pool, Door(publisher))
    relay.start()
    relay.committed(await store(pool, numbers(fresh_topic(), range(3))))
    began = time.monotonic()
    await relay.stop()
    assert time.monotonic() - began < 6
    assert relay._task.done()
    assert await standing(pool) == 3


@pytest.mark.timeout(90)
async def test_while_kafka_is_down_rows_stay_and_go_out_afterwards(
    stack, pool, publisher, relays, fresh_topic, read_topic
):
    topic = fresh_topic()
    relay = relays(publisher)
    relay.committed(await store(pool, numbers(topic, range(50))))
    await until_empty(pool)
    await asyncio.to_thread(stack.kill_kafka)
    relay.committed(await store(pool, numbers(topic, range(50, 200))))
    await store(pool, numbers(topic, range(200, 250)), age_seconds=ORPHAN_SECONDS + 1)
    await asyncio.sleep(1)
    assert await standing(pool) == 200
    await asyncio.to_thread(stack.start_kafka)
    await until_empty(pool, 20)
    assert sorted(set(found(await read_topic(topic)))) == list(range(250))


@pytest.mark.parametrize("service", ["ingestion", "moderation", "routing", "vault", "enforcement"])
async def test_each_service_with_an_outbox_has_the_table_that_the_relay_needs(
    database, publisher, service, fresh_topic
):
    pool = await connect_pool(await database(service))
    topic = fresh_topic()
    try:
        relay = OutboxRelay(pool, publisher)
        relay.start()
        relay.committed(await store(pool, [*numbers(topic, range(3)), Record(topic, b"", b"x", ())]))
        await until_empty(pool)
        await relay.stop()
        with pytest.raises(asyncpg.NotNullViolationError):
            await pool.execute("INSERT INTO outbox (topic, key, value) VALUES ('t', '', '')")
        assert await pool.fetchval("SELECT has_table_privilege('outbox', 'MAINTAIN')")
    finally:
        await pool.close()

"""A compacted topic read whole: fresh only while the broker confirms it."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time

import pytest
from aiokafka.conn import AIOKafkaConnection
from kafka_numbers import counted_on, numbers

from common.kafka.publisher import Publisher
from common.kafka.records import Record
from common.kafka.table import STALE_SECONDS, TableReader

pytestmark = pytest.mark.integration


@pytest.fixture
async def publisher(kafka_access):
    running = Publisher(kafka_access(), client_id="tests")
    yield running
    await running.stop()


@pytest.fixture
def topic(fresh_topic):
    return fresh_topic(partitions=2, cleanup_policy="compact")


@pytest.fixture
async def reading(kafka_access, topic):
    """A reader with the numbers it applied; `fails` makes the next application fail."""
    readers = []

    async def start(access=None, name=topic):
        applied, fails = [], []

        async def apply(events):
            if fails:
                raise fails.pop()
            applied.extend(event.number for event in events)

        reader = TableReader(access or kafka_access(), counted_on(name), apply, client_id="tests")
        readers.append(reader)
        assert not reader.fresh
        assert reader.stale_seconds == float("inf")
        reader.start()
        return reader, applied, fails

    yield start
    for reader in readers:
        await reader.stop()


async def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


async def test_the_whole_topic_is_read_before_the_reader_is_fresh_and_then_followed(publisher, topic, reading):
    await publisher.publish(numbers(topic, range(3000), padding="x" * 500))
    reader, applied, _ = await reading()
    await until(lambda: reader.fresh)
    assert sorted(applied) == list(range(3000))
    assert reader.stale_seconds < STALE_SECONDS
    published = time.monotonic()
    await publisher.publish(numbers(topic, [3000]))
    await until(lambda: 3000 in applied)
    assert time.monotonic() - published < 1.0
    ages = []
    for _ in range(100):
        await asyncio.sleep(0.02)
        ages.append(reader.stale_seconds)
    assert reader.fresh, "an idle topic stays fresh"
    assert statistics.median(ages) < STALE_SECONDS / 3, "and is confirmed long before it would be stale"


async def test_a_topic_that_is_written_all_the_time_is_fresh(publisher, topic, reading):
    async def write():
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            await publisher.publish(numbers(topic, range(2)))

    reader, _, _ = await reading()
    writing = asyncio.gather(write(), write(), write())
    ages = []
    while not writing.done():
        await asyncio.sleep(0.02)
        ages.append(reader.stale_seconds)
    await writing
    assert statistics.median(ages) < STALE_SECONDS


async def test_an_empty_topic_is_fresh(reading):
    reader, applied, _ = await reading()
    await until(lambda: reader.fresh, 5)
    assert applied == []


async def test_broken_records_and_tombstones_are_passed_over(publisher, topic, reading):
    broken = [Record(topic, b"k", None, ()), Record(topic, b"k", b"{", (("ce_type", b"\xff"),))]
    await publisher.publish([*numbers(topic, [1]), *broken, *numbers(topic, [2])])
    reader, applied, _ = await reading()
    await until(lambda: reader.fresh)
    assert sorted(applied) == [1, 2]


async def test_what_could_not_be_applied_is_read_again(publisher, topic, reading):
    await publisher.publish(numbers(topic, range(10)))
    reader, applied, fails = await reading()
    fails.append(ConnectionResetError())
    await until(lambda: reader.fresh)
    assert set(applied) == set(range(10))


async def test_a_topic_that_does_not_exist_or_may_not_be_read_is_never_fresh(kafka_access, reading):
    missing, _, _ = await reading(name="tests.nothing-here")
    forbidden, _, _ = await reading(access=kafka_access("vault"), name="enforcement.standings")
    allowed, _, _ = await reading(access=kafka_access("routing"), name="enforcement.standings")
    await until(lambda: allowed.fresh)
    await asyncio.sleep(1)
    assert not missing.fresh
    assert not forbidden.fresh


async def test_what_is_stopped_while_it_starts_leaves_no_connection_open(kafka_access, topic):
    async def ignore(_):
        pass

    for milliseconds in range(30):
        reader = TableReader(kafka_access(), counted_on(topic), ignore, client_id="tests")
        publisher = Publisher(kafka_access(), client_id="tests")
        reader.start()
        starting = asyncio.create_task(publisher.start())
        await asyncio.sleep(milliseconds / 1000)
        starting.cancel()
        await asyncio.gather(starting, reader.stop(), return_exceptions=True)
        await publisher.stop()
    gc.collect()
    assert [one for one in gc.get_objects() if isinstance(one, AIOKafkaConnection) and one.connected()] == []


@pytest.mark.timeout(60)
async def test_a_broker_that_hangs_makes_the_reader_stale_and_one_that_answers_again_makes_it_fresh(
    stack, publisher, topic, reading
):
    await publisher.publish(numbers(topic, range(5)))
    reader, applied, _ = await reading()
    await until(lambda: reader.fresh)
    with stack.frozen("kafka"):
        suspended = time.monotonic()
        await until(lambda: not reader.fresh, 5)
        assert time.monotonic() - suspended < STALE_SECONDS + 0.7
        await asyncio.sleep(1)
        assert not reader.fresh
    await publisher.publish(numbers(topic, [5]))
    await until(lambda: reader.fresh and 5 in applied, 10)

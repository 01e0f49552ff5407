"""The publisher against a real broker: where records land, in which order, and what an outage does to them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
from itertools import pairwise

import orjson
import pytest
from aiokafka.producer.message_accumulator import MessageBatch
from confluent_kafka import Producer
from kafka_numbers import numbers

from common.kafka.publisher import BATCH_BYTES_MAX, Publisher, PublishError, partition_of
from common.kafka.records import Record
from common.kafka.settings import KafkaAccess
from waystation.stack.kafka import client_options

pytestmark = pytest.mark.integration


@pytest.fixture
async def publisher(kafka_access):
    running = Publisher(kafka_access(), client_id="tests", timeout_seconds=2.0)
    yield running
    await running.stop()


def found(records):
    return [orjson.loads(record.value)["number"] for record in records]


def ordered_per_key(records):
    last = {}
    for record in records:
        number = orjson.loads(record.value)["number"]
        if number < last.get(record.key, -1):
            return False
        last[record.key] = number
    return True


async def test_records_land_where_the_default_partitioner_of_kafka_puts_them(
    publisher, fresh_topic, read_topic, kafka_access
):
    topic, twin = fresh_topic(partitions=6), fresh_topic(partitions=6)
    records = numbers(topic, range(300), people=60)
    await publisher.publish(records)
    access = kafka_access()
    options = client_options(access.bootstrap, access.username, access.password)
    reference = Producer({**options, "partitioner": "murmur2_random"})
    for record in records:
        reference.produce(twin, value=record.value, key=record.key)
    assert reference.flush(10) == 0
    ours = {record.key: record.partition for record in await read_topic(topic)}
    theirs = {record.key: record.partition for record in await read_topic(twin)}
    assert ours == theirs
    assert len(set(ours.values())) > 3
    assert ours == {key: partition_of(key, 6) for key in ours}


async def test_each_key_keeps_its_order_and_headers_their_bytes(publisher, fresh_topic, read_topic):
    topic = fresh_topic()
    for start in range(0, 600, 200):
        await publisher.publish(numbers(topic, range(start, start + 200)))
    records = await read_topic(topic)
    assert sorted(found(records)) == list(range(600))
    assert ordered_per_key(records)
    assert dict(records[0].headers)["ce_type"] == b"tests.number.counted.v1"


async def test_publishes_side_by_side_lose_nothing(publisher, fresh_topic, read_topic):
    topic = fresh_topic()
    await asyncio.gather(*(publisher.publish(numbers(topic, range(at, 1000, 20))) for at in range(20)))
    assert sorted(found(await read_topic(topic))) == list(range(1000))


async def test_tasks_that_publish_to_one_partition_all_the_time_wait_for_each_other(publisher, fresh_topic, read_topic):
    topic = fresh_topic(partitions=1)

    async def one_after_the_other(first):
        for number in range(first, first + 50):
            await publisher.publish(numbers(topic, [number]))

    await asyncio.gather(*(one_after_the_other(50 * task) for task in range(8)))
    assert sorted(found(await read_topic(topic))) == list(range(400))


async def test_more_than_a_batch_is_split_and_stays_in_order(publisher, fresh_topic, read_topic):
    topic = fresh_topic(partitions=1)
    records = numbers(topic, range(60), people=3, padding="x" * 40_000)
    assert sum(len(record.value) for record in records) > 4 * BATCH_BYTES_MAX
    await publisher.publish(records)
    assert found(await read_topic(topic)) == list(range(60))


async def test_a_record_of_900_kilobytes_goes_between_small_ones(publisher, fresh_topic, read_topic):
    topic = fresh_topic(partitions=1)
    small, large = numbers(topic, range(4)), numbers(topic, [4], padding="x" * 900_000)
    await publisher.publish([*small, *large, *numbers(topic, range(5, 9)), *numbers(topic, [9], padding="y" * 900_000)])
    assert found(await read_topic(topic)) == list(range(10))


async def test_records_without_key_or_value_or_headers_are_written(publisher, fresh_topic, read_topic):
    topic = fresh_topic(partitions=1)
    await publisher.publish([Record(topic, None, b"x", ()), Record(topic, b"k", None, (("h", None),))])
    await publisher.publish([])
    assert [(r.key, r.value, r.headers) for r in await read_topic(topic)] == [
        (None, b"x", ()),
        (b"k", None, (("h", None),)),
    ]


async def test_a_record_that_kafka_refuses_as_too_large_says_so_and_the_next_goes(publisher, fresh_topic, read_topic):
    topic = fresh_topic(partitions=1)
    with pytest.raises(PublishError, match="MessageSizeTooLarge"):
        await publisher.publish(numbers(topic, [1], padding="x" * 1_200_000))
    await publisher.publish(numbers(topic, [2]))
    assert found(await read_topic(topic)) == [2]


async def test_a_wrong_password_is_told_with_address_and_principal(kafka_access):
    access = dataclasses.replace(kafka_access("moderation"), password="wrong")
    with pytest.raises(
        PublishError, match=r"127\.0\.0\.1:\d+ cannot be used by principal moderation.*password"
    ) as told:
        await Publisher(access, client_id="tests").start()
    assert "wrong" not in str(told.value)


async def test_an_address_where_nobody_listens_is_told():
    with pytest.raises(PublishError, match=r"Kafka at 127\.0\.0\.1:1 cannot be used"):
        await Publisher(KafkaAccess("127.0.0.1:1", "moderation", "x"), client_id="tests", timeout_seconds=3).start()


async def test_a_missing_right_is_told(kafka_access):
    publisher = Publisher(kafka_access("moderation"), client_id="tests", timeout_seconds=4)
    try:
        with pytest.raises(PublishError, match="Authorization"):
            await publisher.publish([Record("intake.messages", b"k", b"forged", ())])
    finally:
        await publisher.stop()


async def test_a_topic_that_does_not_exist_is_told(publisher):
    with pytest.raises(PublishError, match="UnknownTopic|Timeout"):
        await publisher.publish([Record("tests.no-such-topic", b"k", b"v", ())])


@pytest.mark.timeout(120)
async def test_kafka_killed_in_the_middle_loses_nothing_after_the_callers_retry(
    stack, publisher, fresh_topic, read_topic
):
    topic = fresh_topic()
    before = len(asyncio.all_tasks())
    failures = 0
    killed = asyncio.Event()

    async def publish_all():
        nonlocal failures
        for start in range(0, 6000, 100):
            if start == 2000:
                killed.set()
            batch = numbers(topic, range(start, start + 100))
            while True:
                try:
                    await publisher.publish(batch)
                    break
                except PublishError:
                    failures += 1
                    await asyncio.sleep(0.2)
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(publish_all())
    await killed.wait()
    await asyncio.to_thread(stack.kill_kafka)
    await asyncio.sleep(2.5)
    await asyncio.to_thread(stack.start_kafka)
    await writing
    assert failures > 0
    records = await read_topic(topic)
    assert set(found(records)) == set(range(6000))
    assert first_sightings_are_ordered(records)
    await publisher.stop()
    await asyncio.sleep(0.2)
    assert len(asyncio.all_tasks()) <= before, "a producer that was given up still works"
    batches = [one for one in gc.get_objects() if isinstance(one, MessageBatch)]
    unheard = [one for one in batches if one.future._log_traceback or one._drain_waiter._log_traceback]
    assert unheard == [], "what the caller was told is logged once more as an error that nobody heard of"


@pytest.mark.timeout(60)
async def test_kafka_that_hangs_ends_a_publish_in_time_and_what_was_given_up_never_comes_after_the_retry(
    stack, publisher, fresh_topic, read_topic
):
    topic = fresh_topic(partitions=1)
    await publisher.publish(numbers(topic, [0]))
    with stack.frozen("kafka"):
        started = asyncio.get_running_loop().time()
        with pytest.raises(PublishError, match="TimeoutError"):
            await publisher.publish(numbers(topic, [1], people=1))
        assert asyncio.get_running_loop().time() - started < 5
    while True:
        with contextlib.suppress(PublishError):
            await publisher.publish(numbers(topic, [1, 2, 3], people=1))
            break
    await asyncio.sleep(1)
    assert [n for one, n in pairwise([-1, *found(await read_topic(topic))]) if n < one] in ([], [1])
    assert found(await read_topic(topic))[-3:] == [1, 2, 3]


def first_sightings_are_ordered(records):
    """Repetitions may follow; what is new of a key comes in order."""
    highest = {}
    seen = set()
    for record in records:
        number = orjson.loads(record.value)["number"]
        if number not in seen and number < highest.get(record.key, -1):
            return False
        seen.add(number)
        highest[record.key] = max(number, highest.get(record.key, -1))
    return True

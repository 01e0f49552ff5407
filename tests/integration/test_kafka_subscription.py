"""A group's subscription against a real broker: nothing lost, nothing handled by two, dead letters one by one."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import asyncpg
import kafka_numbers
import pytest
from confluent_kafka import TopicPartition
from kafka_numbers import numbers, subscribed

from common.kafka.consumer import DEAD_LETTERS_PER_MINUTE_MAX, RetryableError
from common.kafka.publisher import Publisher
from common.kafka.records import Record
from common.kafka.topics import dlq_name

pytestmark = pytest.mark.integration
KIND = b"tests.number.counted.v1"


@pytest.fixture
async def publisher(kafka_access):
    running = Publisher(kafka_access(), client_id="tests")
    yield running
    await running.stop()


@pytest.fixture
def group():
    return f"tests.group-{uuid.uuid4().hex[:8]}"


@dataclass
class Handler:
    """Remembers what it was given; does what it is told with some numbers."""

    retryable: set[int] = field(default_factory=set)
    bugs: set[int] = field(default_factory=set)
    seconds: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)

    async def __call__(self, batch):
        given = [received.event.number for received in batch]
        self.batches.append(given)
        await asyncio.sleep(self.seconds)
        if self.retryable & set(given):
            raise RetryableError
        if self.bugs & set(given):
            raise KeyError("a value that must not be told")
        self.handled += given


async def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


async def test_every_record_is_handled_once_in_order_of_its_key_and_offsets_follow(
    kafka_access, publisher, fresh_topic, group, committed
):
    topic, handler = fresh_topic(groups=[group]), Handler()
    await publisher.publish(numbers(topic, range(2000)))
    async with subscribed(kafka_access(), publisher, topic, group, handler, records_max=300) as subscription:
        await until(lambda: len(handler.handled) == 2000)
        await publisher.publish(numbers(topic, range(2000, 2100)))
        await until(lambda: subscription.health.handled == 2100)
    assert sorted(handler.handled) == list(range(2100))
    assert all(handler.handled.index(n) < handler.handled.index(n + 10) for n in range(2090))
    assert max(len(batch) for batch in handler.batches) > 100, "records travel in batches"
    assert sum((await committed(topic, group)).values()) == 2100


async def test_a_group_has_an_offset_in_each_partition_before_it_has_read_a_record(
    kafka_access, publisher, fresh_topic, group, committed
):
    topic, handler = fresh_topic(groups=[group]), Handler()
    async with subscribed(kafka_access(), publisher, topic, group, handler):
        deadline = time.monotonic() + 15
        while await committed(topic, group) != {0: 0, 1: 0, 2: 0}:
            assert time.monotonic() < deadline, "Kafka's tools would show no lag"
            await asyncio.sleep(0.2)
        await publisher.publish(numbers(topic, range(5)))
        await until(lambda: len(handler.handled) == 5)
    assert sum((await committed(topic, group)).values()) == 5


BAD_RECORDS = {
    "ce_type: expected tests.number.counted.v1, found none": (b'{"number": 1, "who": "a"}', ()),
    "ce_type: expected tests.number.counted.v1, found 'tests.number.": (b"{}", (("ce_type", KIND + b"x"),)),
    "ce_type: expected tests.number.counted.v1, found '\\ufffd\\ufffd'": (b"{}", (("ce_type", b"\xff\xfe"),)),
    "ce_type: expected tests.number.counted.v1, found none ": (b"{}", (("ce_type", None),)),
    "value: the record is empty": (b"", (("ce_type", KIND),)),
    "value: the record is empty ": (None, (("ce_type", KIND),)),
    "value: Invalid JSON": (b"\xff\x00 no json", (("odd", b"\xff\xfe\x00"), ("none", None), ("ce_type", KIND))),
    "number: Field required": (b'{"who": "a"}', (("ce_type", KIND), ("traceparent", b"00-1-2-01"))),
    "value: Invalid JSON: expected value": (b"j" * 900_000, (("ce_type", KIND),)),
    "number: Input should be a valid integer": (b'{"number": "jane.roe@example.org"}', (("ce_type", KIND),)),
}


async def test_broken_records_go_to_the_dead_letters_alone_untouched_and_with_a_reason(
    kafka_access, publisher, fresh_topic, read_topic, group
):
    topic, handler = fresh_topic(partitions=1, groups=[group]), Handler()
    good = iter(numbers(topic, range(100)))
    for number, (value, headers) in enumerate(BAD_RECORDS.values()):
        key = None if number % 3 == 0 and value is not None else b"\xffkey-%d" % number
        await publisher.publish([next(good), Record(topic, key, value, headers), next(good)])
    sources = await read_topic(topic)
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: subscription.health.handled == 3 * len(BAD_RECORDS))
    assert handler.handled == list(range(2 * len(BAD_RECORDS)))
    letters = await read_topic(dlq_name(topic, group))
    assert subscription.health.dead_lettered == len(letters) == len(BAD_RECORDS)
    for letter, source, reason in zip(letters, sources[1::3], BAD_RECORDS, strict=True):
        why = dict(letter.headers[len(source.headers) :])
        assert why["dlq_reason"].decode().startswith(reason.strip())
        assert b"jane.roe" not in why["dlq_reason"]
        assert (letter.value, letter.key) == (source.value, source.key or b"")
        assert letter.headers[: len(source.headers)] == source.headers
        assert (why["dlq_topic"], why["dlq_partition"]) == (topic.encode(), b"0")
        assert (int(why["dlq_offset"]), why["dlq_group"]) == (source.offset, group.encode())


async def test_records_without_a_key_are_handled(kafka_access, publisher, fresh_topic, group):
    topic, handler = fresh_topic(groups=[group]), Handler()
    await publisher.publish([record._replace(key=None) for record in numbers(topic, range(5))])
    async with subscribed(kafka_access(), publisher, topic, group, handler):
        await until(lambda: sorted(handler.handled) == list(range(5)))


@pytest.mark.parametrize("error", [RetryableError, asyncpg.DeadlockDetectedError])
async def test_an_outage_brings_the_same_batch_again_commits_nothing_and_dead_letters_nothing(
    kafka_access, publisher, fresh_topic, read_topic, group, committed, error
):
    topic, batches, away = fresh_topic(groups=[group]), [], True

    async def handler(batch):
        batches.append([received.event.number for received in batch])
        if away:
            raise error

    await publisher.publish(numbers(topic, range(50)))
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: len(batches) >= 3)
        assert subscription.health.last_error == error.__name__
        assert subscription.health.failing_since is not None
        assert not any((await committed(topic, group)).values())
        gaps = len(batches)
        away = False
        await until(lambda: subscription.health.handled >= 50)
        assert subscription.health.failing_since is None
    assert {number for batch in batches for number in batch} == set(range(50))
    assert gaps < 10, "it waits between attempts"
    assert await read_topic(dlq_name(topic, group)) == []
    assert sum((await committed(topic, group)).values()) == 50


async def test_a_batch_with_a_bug_is_handled_one_by_one_and_only_the_guilty_records_are_dead_lettered(
    kafka_access, publisher, fresh_topic, read_topic, group
):
    topic, handler = fresh_topic(groups=[group]), Handler(bugs={7, 31})
    await publisher.publish(numbers(topic, range(50)))
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: subscription.health.handled == 50)
    assert sorted(handler.handled) == sorted(set(range(50)) - {7, 31})
    letters = await read_topic(dlq_name(topic, group))
    assert sorted(json.loads(letter.value)["number"] for letter in letters) == [7, 31]
    assert {dict(letter.headers)["dlq_reason"] for letter in letters} == {b"handler: KeyError"}


async def test_a_bug_that_an_outage_brings_again_is_counted_once(
    kafka_access, publisher, fresh_topic, read_topic, group
):
    topic, away, calls = fresh_topic(partitions=1, groups=[group]), True, 0

    async def handler(batch):
        nonlocal calls
        given = [received.event.number for received in batch]
        if min(given) < 10:
            calls += 1
            raise KeyError
        if away:
            raise RetryableError

    await publisher.publish(numbers(topic, range(12)))
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: calls >= 10 * 4)
        assert subscription.health.failing_since is not None
        away = False
        await until(lambda: subscription.health.handled == 12)
    assert len(await read_topic(dlq_name(topic, group))) == 10


async def test_more_bugs_than_the_limit_stop_the_process_instead_of_emptying_the_topic(
    kafka_access, publisher, fresh_topic, read_topic, group, committed
):
    wanted = range(5 * DEAD_LETTERS_PER_MINUTE_MAX)
    topic, handler, stops = fresh_topic(groups=[group]), Handler(bugs=set(wanted)), []
    await publisher.publish(numbers(topic, wanted))
    async with subscribed(
        kafka_access(), publisher, topic, group, handler, records_max=200, stop_process=lambda: stops.append(1)
    ):
        await until(lambda: stops)
    letters = len(await read_topic(dlq_name(topic, group)))
    assert letters <= DEAD_LETTERS_PER_MINUTE_MAX
    assert sum((await committed(topic, group)).values()) == letters


async def consumer_process(access, topic, group, kind):
    program = [sys.executable, str(Path(kafka_numbers.__file__)), topic, group, kind]
    process = await asyncio.create_subprocess_exec(
        *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    process.stdin.write(json.dumps([access.bootstrap, access.username, access.password]).encode() + b"\n")
    await process.stdin.drain()
    return process


async def killed(process):
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process.stdin.close()
    process._transport.close()


async def numbers_of(process, count):
    told = set()
    async with asyncio.timeout(20):
        while len(told) < count:
            told |= set(json.loads(await process.stdout.readline()))
    return told


async def test_a_process_killed_between_handler_and_commit_is_given_its_batch_again(
    kafka_access, publisher, fresh_topic, group, committed
):
    topic = fresh_topic(partitions=1, groups=[group])
    await publisher.publish(numbers(topic, range(40)))
    first = await consumer_process(kafka_access(), topic, group, "hangs")
    in_hand = await numbers_of(first, 1)
    await killed(first)
    assert not any((await committed(topic, group)).values())
    second = await consumer_process(kafka_access(), topic, group, "handles")
    assert await numbers_of(second, 40) >= in_hand
    await killed(second)


async def test_a_second_copy_that_joins_during_a_slow_batch_never_has_the_same_record_at_the_same_time(
    kafka_access, publisher, fresh_topic, group
):
    topic, spans = fresh_topic(partitions=4, groups=[group]), {}

    def slow(copy):
        async def handler(batch):
            began = time.monotonic()
            await asyncio.sleep(1.2)
            for received in batch:
                spans.setdefault(received.event.number, []).append((began, time.monotonic(), copy))

        return handler

    await publisher.publish(numbers(topic, range(400), people=40))
    options = {"records_max": 40}
    async with subscribed(kafka_access(), publisher, topic, group, slow(1), instance="tests-1", **options):
        await until(lambda: len(spans) >= 40)
        async with subscribed(kafka_access(), publisher, topic, group, slow(2), instance="tests-2", **options):
            await until(lambda: len(spans) == 400, 30)
    copies = {copy for times in spans.values() for _, _, copy in times}
    assert copies == {1, 2}
    for times in spans.values():
        ordered = sorted(times)
        assert all(one[1] <= other[0] for one, other in pairwise(ordered))
    assert sum(len(times) - 1 for times in spans.values()) == 0, "a batch in hand is finished, not given to the other"


async def test_stopping_finishes_and_commits_the_batch_in_hand(kafka_access, publisher, fresh_topic, group, committed):
    topic, handler = fresh_topic(partitions=1, groups=[group]), Handler(seconds=1.0)
    await publisher.publish(numbers(topic, range(20)))
    async with subscribed(kafka_access(), publisher, topic, group, handler, records_max=20):
        await until(lambda: handler.batches)
    assert len(handler.handled) == len(handler.batches[0])
    assert sum((await committed(topic, group)).values()) == len(handler.handled)


@pytest.mark.timeout(90)
async def test_kafka_killed_and_started_again_loses_no_record(stack, kafka_access, publisher, fresh_topic, group):
    topic, handler = fresh_topic(groups=[group]), Handler(seconds=0.05)
    await publisher.publish(numbers(topic, range(1000)))
    async with subscribed(kafka_access(), publisher, topic, group, handler, records_max=20) as subscription:
        await until(lambda: len(handler.handled) > 100)
        await asyncio.to_thread(stack.kill_kafka)
        await asyncio.to_thread(stack.start_kafka)
        await until(lambda: set(handler.handled) == set(range(1000)), 30)
        await until(lambda: subscription.health.failing_since is None)
    assert len(handler.handled) < 1100, "a restart repeats what was in hand, not the topic"


async def test_records_that_kafka_deleted_before_the_group_read_them_are_told(
    stack, kafka_access, publisher, fresh_topic, group, caplog
):
    topic, handler = fresh_topic(partitions=1, groups=[group]), Handler()
    await publisher.publish(numbers(topic, range(3)))
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: len(handler.handled) == 3)
        assert subscription.health.deleted_unread == 0
    await publisher.publish(numbers(topic, range(3, 10)))
    admin = stack.kafka_admin()
    for deleted in admin.delete_records([TopicPartition(topic, 0, 8)]).values():
        await asyncio.to_thread(deleted.result, 10)
    async with subscribed(kafka_access(), publisher, topic, group, handler) as subscription:
        await until(lambda: handler.handled == [0, 1, 2, 8, 9])
        await until(lambda: subscription.health.deleted_unread == 5)
    assert f"Kafka deleted offsets 3 to 7 of {topic}, partition 0, before group {group} had read them" in caplog.text

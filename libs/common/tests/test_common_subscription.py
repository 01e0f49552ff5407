"""What a subscription does with a batch that a rebalance overtook; all else is tested against a real broker."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from common.events import StandingChanged, encode
from common.http.health import COMMITS_REFUSED_MAX, consumer_check
from common.kafka.consumer import ConsumerHealth, RetryableError, Subscription, _Drain

TOPIC = StandingChanged.TOPIC


class FakeConsumer:
    """Has partitions, takes commits and seeks."""

    def __init__(self, *partitions):
        self.places = {TopicPartition(TOPIC, partition) for partition in partitions}
        self.commits, self.seeks = [], {}
        self.refuses, self.stopped = 0, False

    async def getmany(self):
        return {}

    async def stop(self):
        self.stopped = True

    def assignment(self):
        return self.places

    async def commit(self, offsets):
        if self.refuses:
            self.refuses -= 1
            raise KafkaError
        self.commits.append({place.partition: offset for place, offset in offsets.items()})

    def seek(self, place, offset):
        self.seeks[place.partition] = offset


class Ends(FakeConsumer):
    """Knows where its partitions end and from where they are read."""

    def __init__(self, ends, positions):
        super().__init__(*ends)
        self.end, self.positions = ends, positions
        self.told, self.told_at, self.questions = {}, {}, 0

    def last_poll_timestamp(self, place):
        return self.told_at.get(place.partition)

    def highwater(self, place):
        return self.told.get(place.partition)

    async def end_offsets(self, places):
        self.questions += 1
        return {place: self.end[place.partition] for place in places}

    async def position(self, place):
        return self.positions[place.partition]


class Remembering:
    """A handler that remembers revisions, or fails."""

    def __init__(self, error=None):
        self.error, self.revisions = error, []

    async def __call__(self, batch):
        if self.error:
            raise self.error
        self.revisions += [received.event.revision for received in batch]


def record(partition, offset):
    event = StandingChanged(
        account_id="acme",
        standing="good",
        revision=offset,
        clause=None,
        reason="",
        complaint_id=None,
        decided_by="machine",
        since="2026-01-31T09:30:00.000Z",
    )
    key, value, headers = encode(event)[1:]
    return ConsumerRecord(TOPIC, partition, offset, 0, 0, key, value, None, len(key), len(value), headers)


def subscription(consumer, handler):
    made = Subscription(StandingChanged, "tests.group", handler, publisher=None, instance="tests-1", cycle_seconds=0)
    made._subscriber = SimpleNamespace(consumer=consumer)
    made.health.assigned = True
    return made


async def test_the_offset_behind_the_last_record_of_each_partition_is_committed():
    consumer, handler = FakeConsumer(0, 1), Remembering()
    subject = subscription(consumer, handler)
    await subject._consume([record(0, 4), record(0, 5), record(1, 9)])
    await subject.commit()
    assert (handler.revisions, consumer.commits) == ([4, 5, 9], [{0: 6, 1: 10}])


async def test_batches_of_half_a_second_are_committed_together():
    consumer = FakeConsumer(0, 1)
    subject = subscription(consumer, Remembering())
    for offset in (4, 5, 6):
        await subject._consume([record(0, offset), record(1, 2 * offset)])
    assert consumer.commits == []
    await subject._committing
    assert consumer.commits == [{0: 7, 1: 13}]


async def test_offsets_that_kafka_does_not_take_are_committed_later():
    consumer = FakeConsumer(0)
    consumer.refuses = 1
    subject = subscription(consumer, Remembering())
    await subject._consume([record(0, 4)])
    assert not await subject.commit()
    await subject._consume([record(0, 5)])
    await subject._committing
    assert consumer.commits == [{0: 6}]


async def test_a_group_whose_offsets_are_refused_again_and_again_is_not_ready_until_they_are_taken():
    consumer = Ends({0: 5}, {0: 5})
    consumer.refuses = COMMITS_REFUSED_MAX
    subject = subscription(consumer, Remembering())
    subject._uncommitted = {TopicPartition(TOPIC, 0): 5}
    check = consumer_check(subject)
    for _ in range(COMMITS_REFUSED_MAX):
        assert await check() is None
        assert not await subject.commit()
    assert "cannot commit what it handled: KafkaError; does another process run under this INSTANCE?" in await check()
    assert await subject.commit()
    assert await check() is None


async def test_a_consumer_that_stops_commits_first():
    consumer = FakeConsumer(0)
    subject = subscription(consumer, Remembering())
    subject._assigned()
    await subject._consume([record(0, 4)])
    await consumer.stop()
    assert (consumer.commits, consumer.stopped) == ([{0: 5}], True)


async def test_partitions_are_given_back_with_their_offsets():
    consumer = FakeConsumer(0)
    subject = subscription(consumer, Remembering())
    await subject._consume([record(0, 4)])
    drain = _Drain(subject._in_hand, subject.health, assigned=subject._assigned, commit=subject.commit)
    await drain.on_partitions_revoked({TopicPartition(TOPIC, 0)})
    assert consumer.commits == [{0: 5}]


async def test_records_of_a_partition_that_was_taken_away_are_left_to_its_new_owner():
    consumer, handler = FakeConsumer(1), Remembering()
    subject = subscription(consumer, handler)
    await subject._consume([record(0, 4), record(1, 9)])
    await subject.commit()
    assert (handler.revisions, consumer.commits) == ([9], [{1: 10}])


async def test_nothing_is_handled_between_a_revocation_and_the_next_assignment():
    consumer, handler = FakeConsumer(0), Remembering()
    subject = subscription(consumer, handler)
    drain = _Drain(subject._in_hand, subject.health, assigned=lambda: None, commit=subject.commit)
    await drain.on_partitions_revoked({TopicPartition(TOPIC, 0)})
    await subject._consume([record(0, 4)])
    assert (handler.revisions, consumer.commits) == ([], [])
    await drain.on_partitions_assigned({TopicPartition(TOPIC, 0)})
    await subject._consume([record(0, 4)])
    await subject.commit()
    assert (handler.revisions, consumer.commits) == ([4], [{0: 5}])


async def test_a_failed_batch_is_rewound_to_its_first_record_in_every_partition_that_is_still_here():
    consumer = FakeConsumer(0, 1)
    subject = subscription(consumer, Remembering(RetryableError()))
    await subject._consume([record(0, 4), record(0, 5), record(1, 9)])
    assert (consumer.seeks, consumer.commits) == ({0: 4, 1: 9}, [])
    assert isinstance(subject.health, ConsumerHealth)
    assert subject.health.last_error == "RetryableError"


async def test_lag_counts_from_what_was_handled_else_from_where_reading_began():
    consumer = Ends({0: 10, 1: 20}, {0: 8, 1: 17})
    subject = subscription(consumer, Remembering())
    assert await subject.lag() == 5
    since = subject.health.behind_since
    assert since is not None
    assert await subject.lag() == 5
    assert subject.health.behind_since == since, "as long as nothing is handled"
    await subject._consume([record(1, 17), record(1, 18), record(1, 19)])
    assert subject.health.behind_since is None
    assert await subject.lag() == 2
    consumer.places.clear()
    assert await subject.lag() == 0
    assert subject.health.behind_since is None


async def test_lag_is_what_fetches_told_lately_and_else_kafka_is_asked():
    consumer = Ends({0: 10, 1: 20}, {0: 8, 1: 17})
    subject = subscription(consumer, Remembering())
    consumer.told, consumer.told_at = {0: 9, 1: 18}, {0: int(time.time() * 1000)}
    assert (await subject.lag(), consumer.questions) == (5, 1), "nothing was told of partition 1"
    consumer.told_at[1] = int(time.time() * 1000)
    assert (await subject.lag(), consumer.questions) == (2, 1)
    consumer.told_at[0] -= 5000
    assert (await subject.lag(), consumer.questions) == (5, 2), "what a fetch told five seconds ago may be over"


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (6, 5.0), (100_000, 5.0)])
def test_the_wait_between_attempts_grows_to_a_limit(failures, seconds):
    subject = subscription(FakeConsumer(), Remembering())
    subject._failures = failures
    assert subject._backoff_seconds() == seconds

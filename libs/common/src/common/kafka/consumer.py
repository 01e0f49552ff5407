"""Consuming: the one way a service reads a topic as part of a group.

FastStream's batch subscriber runs the loop; what its defaults would lose is decided here: offsets are committed last
and only for the batch in hand, a failed batch is read again after a pause, a rebalance waits for the batch in hand, and
a record that cannot be handled goes to the group's dead letters, alone, with the reason.

What a handler raises decides what happens to its batch:

    RetryableError and its like (connection lost, time-out, Kafka away)   wait, read the batch again
    anything else (a bug, or a record that trips one)                     handle the records one by one; who fails alone
                                                                          is dead-lettered, up to a limit, then the
                                                                          process ends: an outage must not empty a topic
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import asyncpg
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaAckableMessage
from faststream.security import SASLScram256
from opentelemetry.trace import SpanKind

from common.events.envelope import EventError, Readable, decode_one_of, traceparent_of
from common.kafka.health import ConsumerHealth
from common.kafka.publisher import PublishError
from common.kafka.records import Record
from common.kafka.topics import dlq_name
from common.pacing import cycle_seconds_after
from common.telemetry.measuring import Measures
from common.telemetry.metrics import PROCESS_DURATION
from common.telemetry.tracing import OFF, OpenSpan, Tracer, is_sampled
from common.times import now, rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiokafka import ConsumerRecord
    from faststream.kafka.subscriber.usecase import LogicSubscriber

    from common.kafka.publisher import Publisher
    from common.kafka.settings import KafkaAccess

SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_MS = 2_000
BACKOFF_SECONDS_FIRST = 0.25
BACKOFF_SECONDS_MAX = 5.0
DEAD_LETTERS_PER_MINUTE_MAX = 20
COMMIT_SECONDS = 0.5
"""Offsets of what was handled are committed this much later, once for all batches of that time."""
FETCH_WAIT_MS = 500
TOLD_MS_MAX = 1000
_DRAIN_SECONDS_MAX = 8.0
_COMMIT_SECONDS_MAX = 5.0

log = logging.getLogger(__name__)


class RetryableError(Exception):
    """Something outside is not there right now; the same work will succeed later."""


RETRYABLE = (
    RetryableError,
    PublishError,
    KafkaError,
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server said goodbye while a statement was on its way to it
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,  # a fail-over, or a disk so full that the server takes no more
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process stood still in between
    asyncpg.TransactionTimeoutError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # an operator's lock
    asyncpg.InvalidCachedStatementError,  # a migration beside it
    asyncpg.InvalidAuthorizationSpecificationError,  # a password that was changed
    asyncpg.InvalidCatalogNameError,  # a database that is being restored
)

E = TypeVar("E", bound=Readable)


class Received(NamedTuple, Generic[E]):
    """A decoded event with the record that carried it, and its span when it is sampled."""

    event: E
    record: ConsumerRecord
    span: OpenSpan | None = None

    @property
    def traceparent(self) -> bytes | None:
        """The trace context that everything this record causes carries on."""
        return traceparent_of(self.record.headers) if self.span is None else self.span.traceparent


class BatchHandler(Protocol[E]):
    """Handles a batch in one transaction; may be given the same events again at any time."""

    async def __call__(self, batch: Sequence[Received[E]], /) -> None:
        """Store, publish, return; the offsets are committed after that."""


class _Drain(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets a rebalance take partitions away only between two batches."""

    def __init__(
        self,
        in_hand: asyncio.Lock,
        health: ConsumerHealth,
        assigned: Callable[[], None],
        commit: Callable[[], Awaitable[object]],
    ) -> None:
        self._in_hand = in_hand
        self._health = health
        self._assigned = assigned
        self._commit = commit

    async def on_partitions_revoked(self, revoked: object) -> None:
        del revoked
        self._health.assigned = False
        try:
            async with asyncio.timeout(_DRAIN_SECONDS_MAX), self._in_hand:
                await self._commit()
        except TimeoutError:
            log.warning("a batch of %s outlasted the rebalance; it will be delivered again", self._health.group)

    async def on_partitions_assigned(self, assigned: object) -> None:
        del assigned
        self._health.assigned = True
        self._assigned()


def kafka_broker(access: KafkaAccess, *, client_id: str) -> KafkaBroker:
    """Return a FastStream broker for consuming; publishing goes through `Publisher`."""
    return KafkaBroker(
        access.bootstrap,
        security=SASLScram256(username=access.username, password=access.password, use_ssl=False),
        client_id=client_id,
        ack_policy=AckPolicy.MANUAL,
        allow_auto_create_topics=False,
        apply_types=False,
        graceful_timeout=15.0,
        logger=logging.getLogger(f"{__name__}.framework"),
        log_level=logging.DEBUG,
    )


@dataclass(slots=True)
class Subscription(Generic[E]):
    """One group reading one topic in batches; `also` are further types of events that the topic carries."""

    event: type[E]
    group: str
    handler: BatchHandler[E]
    publisher: Publisher
    instance: str
    records_max: int = 500
    cycle_seconds: float = 0.08
    backoff_seconds_max: float = BACKOFF_SECONDS_MAX
    stop_process: Callable[[], None] = lambda: None
    tracer: Tracer = OFF
    measures: Measures = field(default_factory=Measures)
    also: tuple[type[E], ...] = ()
    health: ConsumerHealth = field(init=False)
    _in_hand: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _failures: int = field(default=0, init=False)
    _refused: bool = field(default=False, init=False)
    _recent_bugs: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _subscriber: LogicSubscriber[Any] | None = field(default=None, init=False)
    _handled_to: dict[TopicPartition, int] = field(default_factory=dict, init=False)
    _uncommitted: dict[TopicPartition, int] = field(default_factory=dict, init=False)
    _committing: asyncio.Task[None] | None = field(default=None, init=False)
    _starting: asyncio.Task[None] | None = field(default=None, init=False)
    _adapted: object = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.health = ConsumerHealth(self.group, self.event.TOPIC)

    def attach(self, broker: KafkaBroker) -> None:
        """Register with a broker that has not been started."""
        self._subscriber = broker.subscriber(
            self.event.TOPIC,
            group_id=self.group,
            group_instance_id=self.instance,
            batch=True,
            max_records=self.records_max,
            batch_timeout_ms=10,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            listener=_Drain(self._in_hand, self.health, self._assigned, self.commit),
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_partition_fetch_bytes=2 * 1024 * 1024,
            parser=self._parse,
            decoder=self._raw,
        )
        self._subscriber(self._consume)

    async def _parse(self, raw: tuple[ConsumerRecord, ...]) -> KafkaAckableMessage:
        """Wrap the batch untouched: the default parser fails on headers that are no UTF-8 and loses the batch."""
        return KafkaAckableMessage(raw_message=raw, body=b"", consumer=self._consumer)

    @staticmethod
    async def _raw(message: KafkaAckableMessage) -> object:
        return message.raw_message

    @property
    def _consumer(self) -> Any:
        assert self._subscriber is not None, "attach the subscription to a broker first"
        return self._subscriber.consumer

    async def lag(self) -> int:
        """Return how many records on the partitions of this copy are not handled yet, as of the last second.

        Raises:
            KafkaError or TimeoutError: Kafka does not answer.
        """
        consumer = self._consumer
        places = list(consumer.assignment()) if self.health.assigned else []
        ends = await self._ends(places) if places else {}
        waiting = 0
        for place, end in ends.items():
            handled_to = self._handled_to.get(place)
            waiting += end - (await consumer.position(place) if handled_to is None else handled_to)
        if waiting <= 0:
            self.health.behind_since = None
        elif self.health.behind_since is None:
            self.health.behind_since = time.monotonic()
        return max(waiting, 0)

    async def _ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends of partitions as their last fetches told, or ask Kafka where one told nothing lately.

        A question waits behind the fetch that waits for records, on the same connection: up to half a second.
        """
        consumer = self._consumer
        lately = time.time() * 1000 - TOLD_MS_MAX
        if all((consumer.last_poll_timestamp(place) or 0) >= lately for place in places):
            return {place: consumer.highwater(place) for place in places}
        ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
        return ends

    def _assigned(self) -> None:
        self._handled_to.clear()
        self._uncommitted.clear()
        if not self._in_hand.locked():
            self.health.forget()
        self._adapt()
        if self._starting is not None:
            self._starting.cancel()
        self._starting = asyncio.create_task(self._look_at_starts())

    async def _look_at_starts(self) -> None:
        """Commit the beginning of what the group has never read, and tell of records that it can read no more.

        Without an offset Kafka's tools show no lag. The beginning, not the position: what was fetched may be in hand.
        """
        consumer = self._consumer
        try:
            async with asyncio.timeout(_COMMIT_SECONDS_MAX):
                committed = {place: await consumer.committed(place) for place in consumer.assignment()}
                starts = await consumer.beginning_offsets(list(committed)) if committed else {}
        except RETRYABLE as error:
            log.warning("what group %s has not read yet shows no lag: %s", self.group, type(error).__name__)
            return
        for place, start in starts.items():
            if (begun := committed[place]) is None:
                if place in consumer.assignment() and place not in self._handled_to:
                    self._uncommitted.setdefault(place, start)
            elif begun < start:
                self.health.deleted_unread += start - begun
                log.error(
                    "Kafka deleted offsets %d to %d of %s, partition %d, before group %s had read them",
                    *(begun, start - 1, place.topic, place.partition, self.group),
                )
        self._commit_soon()

    def _adapt(self) -> None:
        """Wait for records where the framework asks a hundred times a second, and commit before the consumer stops.

        A record that the client cannot even decode (a header name that is no UTF-8) shows: not ready, not hot. The
        framework would repeat the fetch thousands of times a second and look healthy. The runbook tells how an operator
        takes the record away. A fetch that Kafka refuses, which it does where a right was taken away, shows too.
        """
        consumer = self._consumer
        if self._adapted is consumer:
            return
        self._adapted = consumer
        fetch, stop = consumer.getmany, consumer.stop

        async def getmany(*partitions: TopicPartition, **options: Any) -> Any:
            try:
                fetched = await fetch(*partitions, **options | {"timeout_ms": FETCH_WAIT_MS})
            except UnicodeDecodeError as error:
                self._note_failure(error)
                await asyncio.sleep(self.backoff_seconds_max)
                raise
            except KafkaError as error:
                self._refused = True
                self._note_failure(error)
                await asyncio.sleep(self._backoff_seconds())
                return await self._past_refusals(fetch, *partitions, **options | {"timeout_ms": 0})
            if self._refused:
                self._refused, self._failures = False, 0
                self.health.well_again()
            return fetched

        async def commit_and_stop() -> None:
            for task in (self._starting, self._committing):
                if task is not None:
                    task.cancel()
            await self.commit()
            await stop()

        consumer.getmany, consumer.stop = getmany, commit_and_stop

    async def _past_refusals(
        self, fetch: Callable[..., Awaitable[Any]], *partitions: TopicPartition, **options: Any
    ) -> Any:
        """Fetch, past what was refused to each partition before: the client tells them one by one, however old."""
        for _ in self._consumer.assignment():
            with contextlib.suppress(KafkaError):
                return await fetch(*partitions, **options)
        return {}

    async def _consume(self, records: Sequence[ConsumerRecord]) -> None:
        started = time.monotonic()
        try:
            async with self._in_hand:
                records = self._still_ours(records)
                self.health.begin(records)
                await self._handle(records)
                self._handled(records)
        except RETRYABLE as error:
            self._note_failure(error)
            self._measure(started, type(error).__name__)
            self._rewind(records)
            await asyncio.sleep(self._backoff_seconds())
            return
        except Exception:
            log.exception("group %s gives up; its batch will be delivered again after a restart", self.group)
            self._rewind(records)
            self.stop_process()
            await asyncio.sleep(self.backoff_seconds_max)
            return
        self._failures = 0
        self.health.done(len(records))
        self._measure(started, "")
        cycle_seconds = cycle_seconds_after(len(records), self.cycle_seconds, self.records_max)
        await asyncio.sleep(max(0.0, started + cycle_seconds - time.monotonic()))

    def _measure(self, started: float, error: str) -> None:
        durations = self.measures.durations(PROCESS_DURATION)
        durations.record(time.monotonic() - started, "kafka", self.health.topic, self.group, error)

    def _still_ours(self, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """Leave out what a rebalance took away between the fetch and now: another copy may be at it already."""
        assigned = self._consumer.assignment() if self.health.assigned else ()
        return [record for record in records if TopicPartition(record.topic, record.partition) in assigned]

    async def _handle(self, records: Sequence[ConsumerRecord]) -> None:
        batch: list[Received[E]] = []
        dead: list[Record] = []
        events = (self.event, *self.also)
        for record in records:
            try:
                event = decode_one_of(events, record.value, record.headers)
                batch.append(Received(event, record, self._begin_span(record) if self.tracer.on else None))
            except EventError as error:
                dead.append(self._dead_letter(record, str(error)))
        try:
            dead += await self._handle_decoded(batch) if batch else []
        except Exception as error:
            _end_spans(batch, type(error).__name__)
            raise
        _end_spans(batch)
        if dead:
            await self.publisher.publish(dead)
            self.health.dead_lettered += len(dead)
            log.warning("group %s dead-lettered %d records of %s", self.group, len(dead), self.event.TOPIC)

    async def _handle_decoded(self, batch: Sequence[Received[E]]) -> list[Record]:
        try:
            with self.tracer.carry(received.span.traceparent if received.span else None for received in batch):
                await self.handler(batch)
        except RETRYABLE:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [dead for received in batch for dead in await self._handle_decoded([received])]
            self._count_bug(batch[0].record, error)
            with self.tracer.carry([batch[0].traceparent]):
                log.exception("group %s could not handle a record", self.group)
            if batch[0].span is not None:
                batch[0].span.fail(type(error).__name__)
            return [self._dead_letter(batch[0].record, f"handler: {type(error).__name__}")]
        return []

    def _begin_span(self, record: ConsumerRecord) -> OpenSpan | None:
        if not is_sampled(traceparent := traceparent_of(record.headers)):
            return None
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": self.group,
        }
        return self.tracer.follow(traceparent, f"process {record.topic}", SpanKind.CONSUMER, attributes)

    def _count_bug(self, record: ConsumerRecord, error: Exception) -> None:
        """Count a record once, however often an outage makes its batch come again."""
        moment = time.monotonic()
        self._recent_bugs = {place: at for place, at in self._recent_bugs.items() if at > moment - 60}
        self._recent_bugs.setdefault((record.partition, record.offset), moment)
        if len(self._recent_bugs) > DEAD_LETTERS_PER_MINUTE_MAX:
            raise RuntimeError(
                f"more than {DEAD_LETTERS_PER_MINUTE_MAX} records a minute trip a bug: stopping, not dead-lettering"
            ) from error

    def _dead_letter(self, record: ConsumerRecord, reason: str) -> Record:
        why = {
            "dlq_reason": reason,
            "dlq_topic": record.topic,
            "dlq_partition": str(record.partition),
            "dlq_offset": str(record.offset),
            "dlq_group": self.group,
            "dlq_time": rfc3339(now()),
        }
        headers = (*record.headers, *((name, text.encode()) for name, text in why.items()))
        # A record without key and value cannot be appended to a batch: the empty key stands for none.
        return Record(dlq_name(record.topic, self.group), record.key or b"", record.value, headers)

    def _handled(self, records: Sequence[ConsumerRecord]) -> None:
        """Note how far this copy has come; the offsets follow within COMMIT_SECONDS."""
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            self._handled_to[place] = self._uncommitted[place] = record.offset + 1
        self._commit_soon()

    def _commit_soon(self) -> None:
        if self._uncommitted and self._committing is None:
            self._committing = asyncio.create_task(self._commit_later())

    async def _commit_later(self) -> None:
        pause_seconds = COMMIT_SECONDS
        while self._uncommitted:
            await asyncio.sleep(pause_seconds)
            pause_seconds = COMMIT_SECONDS if await self.commit() else min(2 * pause_seconds, self.backoff_seconds_max)
        self._committing = None

    async def commit(self) -> bool:
        """Commit the offsets of what was handled; say whether Kafka took them: if not, they stay to be committed."""
        offsets = self._uncommitted.copy()
        if not offsets:
            return True
        try:
            async with asyncio.timeout(_COMMIT_SECONDS_MAX):
                await self._consumer.commit(offsets)
        except RETRYABLE as error:
            log.warning("offsets of group %s are not committed yet: %s", self.group, type(error).__name__)
            self.health.not_committed(type(error).__name__)
            return False
        self.health.committed()
        self._uncommitted = {place: to for place, to in self._uncommitted.items() if to != offsets.get(place)}
        return True

    def _rewind(self, records: Sequence[ConsumerRecord]) -> None:
        earliest: dict[TopicPartition, int] = {}
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            earliest[place] = min(earliest.get(place, record.offset), record.offset)
        assigned = self._consumer.assignment()
        for place, offset in earliest.items():
            if place in assigned:
                self._consumer.seek(place, offset)

    def _note_failure(self, error: BaseException) -> None:
        self._failures += 1
        if self.health.failed(type(error).__name__):
            log.warning("group %s waits: %s", self.group, type(error).__name__)

    def _backoff_seconds(self) -> float:
        return float(min(BACKOFF_SECONDS_FIRST * 2 ** min(self._failures - 1, 8), self.backoff_seconds_max))


def _end_spans(batch: Sequence[Received[Any]], error: str | None = None) -> None:
    for received in batch:
        if received.span is not None:
            received.span.end(error, {"messaging.batch.message_count": len(batch)})

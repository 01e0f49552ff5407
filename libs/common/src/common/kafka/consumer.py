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
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import asyncpg
import httpx
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaAckableMessage
from faststream.security import SASLScram256

from common.events.envelope import Event, EventError, decode
from common.kafka.publisher import PublishError
from common.kafka.records import Record
from common.kafka.topics import dlq_name
from common.pacing import cycle_seconds_after
from common.times import now, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiokafka import ConsumerRecord
    from faststream.kafka.subscriber.usecase import LogicSubscriber

    from common.kafka.publisher import Publisher
    from common.kafka.settings import KafkaAccess

SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_MS = 2_000
BACKOFF_SECONDS_FIRST = 0.25
BACKOFF_SECONDS_MAX = 5.0
DEAD_LETTERS_PER_MINUTE_MAX = 20
_DRAIN_SECONDS_MAX = 8.0

log = logging.getLogger(__name__)


class RetryableError(Exception):
    """Something outside is not there right now; the same work will succeed later."""


RETRYABLE = (
    RetryableError,
    PublishError,
    KafkaError,
    OSError,
    TimeoutError,
    httpx.TransportError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server said goodbye while a statement was on its way to it
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.PostgresSystemError,
)

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Received(Generic[E]):
    """A decoded event with the record that carried it."""

    event: E
    record: ConsumerRecord


class BatchHandler(Protocol[E]):
    """Handles a batch in one transaction; may be given the same events again at any time."""

    async def __call__(self, batch: Sequence[Received[E]], /) -> None:
        """Store, publish, return; the offsets are committed after that."""


@dataclass(slots=True)
class ConsumerHealth:
    """What readiness and lag reports need of one subscription."""

    group: str
    topic: str
    handled: int = 0
    dead_lettered: int = 0
    failing_since: float | None = None
    last_error: str | None = None
    assigned: bool = False


class _Drain(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets a rebalance take partitions away only between two batches."""

    def __init__(self, in_hand: asyncio.Lock, health: ConsumerHealth, assigned: Callable[[], None]) -> None:
        self._in_hand = in_hand
        self._health = health
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: object) -> None:
        del revoked
        self._health.assigned = False
        try:
            async with asyncio.timeout(_DRAIN_SECONDS_MAX), self._in_hand:
                pass
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
    """One group reading one topic in batches."""

    event: type[E]
    group: str
    handler: BatchHandler[E]
    publisher: Publisher
    instance: str
    records_max: int = 500
    cycle_seconds: float = 0.025
    backoff_seconds_max: float = BACKOFF_SECONDS_MAX
    stop_process: Callable[[], None] = lambda: None
    health: ConsumerHealth = field(init=False)
    _in_hand: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _failures: int = field(default=0, init=False)
    _recent_bugs: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _subscriber: LogicSubscriber[Any] | None = field(default=None, init=False)

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
            listener=_Drain(self._in_hand, self.health, self.guard_fetches),
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

    def guard_fetches(self) -> None:
        """Make a record that the client cannot even decode (a header name that is no UTF-8) show: not ready, not hot.

        The framework would repeat the fetch thousands of times a second and look healthy. The runbook tells how an
        operator takes the record away.
        """
        consumer = self._consumer
        fetch = consumer.getmany
        if getattr(fetch, "guarded", False):
            return

        async def guarded(*partitions: TopicPartition, **options: Any) -> Any:
            try:
                return await fetch(*partitions, **options)
            except UnicodeDecodeError as error:
                self._note_failure(error)
                await asyncio.sleep(self.backoff_seconds_max)
                raise

        guarded.guarded = True  # type: ignore[attr-defined]
        consumer.getmany = guarded

    async def _consume(self, records: Sequence[ConsumerRecord]) -> None:
        started = time.monotonic()
        try:
            async with self._in_hand:
                records = self._still_ours(records)
                await self._handle(records)
                await self._commit(records)
        except RETRYABLE as error:
            self._note_failure(error)
            self._rewind(records)
            await asyncio.sleep(self._backoff_seconds())
            return
        except Exception:
            log.exception("group %s gives up; its batch will be delivered again after a restart", self.group)
            self._rewind(records)
            self.stop_process()
            await asyncio.sleep(self.backoff_seconds_max)
            return
        self._failures, self.health.failing_since, self.health.last_error = 0, None, None
        self.health.handled += len(records)
        cycle_seconds = cycle_seconds_after(len(records), self.cycle_seconds, self.records_max)
        await asyncio.sleep(max(0.0, started + cycle_seconds - time.monotonic()))

    def _still_ours(self, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """Leave out what a rebalance took away between the fetch and now: another copy may be at it already."""
        assigned = self._consumer.assignment() if self.health.assigned else ()
        return [record for record in records if TopicPartition(record.topic, record.partition) in assigned]

    async def _handle(self, records: Sequence[ConsumerRecord]) -> None:
        batch: list[Received[E]] = []
        dead: list[Record] = []
        for record in records:
            try:
                batch.append(Received(decode(self.event, record.value, record.headers), record))
            except EventError as error:
                dead.append(self._dead_letter(record, str(error)))
        if batch:
            dead += await self._handle_decoded(batch)
        if dead:
            await self.publisher.publish(dead)
            self.health.dead_lettered += len(dead)
            log.warning("group %s dead-lettered %d records of %s", self.group, len(dead), self.event.TOPIC)

    async def _handle_decoded(self, batch: Sequence[Received[E]]) -> list[Record]:
        try:
            await self.handler(batch)
        except RETRYABLE:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [dead for received in batch for dead in await self._handle_decoded([received])]
            self._count_bug(batch[0].record, error)
            log.exception("group %s could not handle a record", self.group)
            return [self._dead_letter(batch[0].record, f"handler: {type(error).__name__}")]
        return []

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

    async def _commit(self, records: Sequence[ConsumerRecord]) -> None:
        offsets: dict[TopicPartition, int] = {}
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            offsets[place] = max(offsets.get(place, 0), record.offset + 1)
        if offsets:
            await self._consumer.commit(offsets)

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
        self.health.last_error = type(error).__name__
        if self.health.failing_since is None:
            self.health.failing_since = time.monotonic()
            log.warning("group %s waits: %s", self.group, type(error).__name__)

    def _backoff_seconds(self) -> float:
        return float(min(BACKOFF_SECONDS_FIRST * 2 ** min(self._failures - 1, 8), self.backoff_seconds_max))

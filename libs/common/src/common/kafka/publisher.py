"""Publishing: the one way a record gets to Kafka.

Records are grouped into one batch per partition and sent over an idempotent producer. The framework's own batch
publishing takes a random partition and drops headers, and a producer whose sequence is broken never recovers
(aiokafka issue 1017), so this helper keeps its own producer and replaces it after any failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from opentelemetry.trace import SpanKind

from common.events.envelope import traceparent_of
from common.kafka.clients import start
from common.telemetry.measuring import Measures
from common.telemetry.metrics import SEND_DURATION, SENT_MESSAGES
from common.telemetry.tracing import OFF, end_all, is_sampled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from aiokafka.producer.message_accumulator import BatchBuilder

    from common.kafka.records import Record
    from common.kafka.settings import KafkaAccess
    from common.telemetry.tracing import Attributes, OpenSpan, Tracer

BATCH_BYTES_MAX = 512 * 1024
REQUEST_BYTES_MAX = 4 * 1024 * 1024
_CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class PublishError(Exception):
    """Kafka did not acknowledge the records in time; they may or may not have been written. Publish them again."""


@lru_cache(maxsize=16_384)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner takes for a key (murmur2)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Publisher:
    """Publishes records with all in-sync replicas' acknowledgement; safe to call from several tasks at once."""

    def __init__(
        self,
        access: KafkaAccess,
        *,
        client_id: str,
        timeout_seconds: float = 10.0,
        tracer: Tracer = OFF,
        measures: Measures | None = None,
    ) -> None:
        self._access = access
        self._tracer = tracer
        self._sent = (measures or Measures()).counts(SENT_MESSAGES)
        self._durations = (measures or Measures()).durations(SEND_DURATION)
        self._client_id = client_id
        self._timeout_seconds = timeout_seconds
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self) -> None:
        """Connect; raise PublishError when Kafka cannot be reached or refuses this principal."""
        await self._connected()

    async def stop(self) -> None:
        """Flush and close; what Kafka does not take within seconds stays with the caller's outbox or offsets."""
        await self._discard(self._producer)

    async def publish(self, records: Sequence[Record]) -> None:
        """Write all records and wait for Kafka's acknowledgement, or raise PublishError."""
        if not records:
            return
        spans = self._spans(records) if self._tracer.on else ()
        started, error = time.monotonic(), "cancelled"
        try:
            await self._publish(records)
            error = ""
        except PublishError:
            error = PublishError.__name__
            raise
        finally:
            self._durations.record(time.monotonic() - started, "kafka", "send", error)
            end_all(spans, error or None)
        for topic, count in Counter(record.topic for record in records).items():
            self._sent.add(count, "kafka", topic)

    def _spans(self, records: Sequence[Record]) -> list[OpenSpan]:
        sampled = [record for record in records if is_sampled(traceparent_of(record.headers))]
        return [span for record in sampled if (span := self._span(record, len(records))) is not None]

    def _span(self, record: Record, count: int) -> OpenSpan | None:
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": record.topic,
            "messaging.batch.message_count": count,
        }
        return self._tracer.follow(
            traceparent_of(record.headers), f"send {record.topic}", SpanKind.PRODUCER, attributes
        )

    async def _publish(self, records: Sequence[Record]) -> None:
        producer = await self._connected()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                futures = []
                async for future in self._send(producer, records):
                    future.add_done_callback(_heard)
                    futures.append(future)
                await asyncio.gather(*futures)
        except (KafkaError, TimeoutError, OSError) as error:
            await self._discard(producer, undelivered=error)
            raise PublishError(f"Kafka did not acknowledge {len(records)} records: {type(error).__name__}") from error

    async def _send(
        self, producer: AIOKafkaProducer, records: Iterable[Record]
    ) -> AsyncIterator[asyncio.Future[object]]:
        grouped: dict[tuple[str, int], list[Record]] = {}
        partitions: dict[str, int] = {}
        for record in records:
            if record.topic not in partitions:
                partitions[record.topic] = len(await producer.partitions_for(record.topic))
            partition = partition_of(record.key or b"", partitions[record.topic])
            grouped.setdefault((record.topic, partition), []).append(record)
        for (topic, partition), group in grouped.items():
            batch = producer.create_batch()
            for record in group:
                if not _append(batch, record):
                    yield await self._queued(producer, batch, topic, partition)
                    batch = producer.create_batch()
                    _append(batch, record)
            yield await self._queued(producer, batch, topic, partition)

    async def _queued(
        self, producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int
    ) -> asyncio.Future[object]:
        """Queue a batch when the one before it was sent, one task after the other.

        Where several wait for that moment, aiokafka 0.14 takes the whole wait off their limit once more at each turn:
        of ten seconds they are given less than one.
        """
        batch.close()
        async with self._turns[topic, partition]:
            queued: asyncio.Future[object] = await producer.send_batch(batch, topic, partition=partition)
            return queued

    async def _connected(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._access.client_options(),
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=BATCH_BYTES_MAX,
                    max_request_size=REQUEST_BYTES_MAX,
                    request_timeout_ms=int(self._timeout_seconds * 1000),
                )
                try:
                    await start(producer, self._timeout_seconds)
                except asyncio.CancelledError:
                    await self._close(producer)
                    raise
                except (KafkaError, TimeoutError, OSError) as error:
                    await self._close(producer)
                    raise PublishError(
                        f"Kafka at {self._access.bootstrap} cannot be used by principal {self._access.username}: "
                        f"{type(error).__name__}. Is it up, is the password right, and does the principal have WRITE "
                        "on a topic (an idempotent producer needs that)?"
                    ) from error
                self._producer = producer
            return self._producer

    async def _discard(self, producer: AIOKafkaProducer | None, *, undelivered: Exception | None = None) -> None:
        if producer is not None and producer is self._producer:
            self._producer = None
            if undelivered is not None:
                _give_up(producer, undelivered)
            await self._close(producer)

    async def _close(self, producer: AIOKafkaProducer) -> None:
        """Close without waiting for a broker that may be gone: stop() alone waits for ever on undelivered batches."""
        task = asyncio.ensure_future(producer.stop())
        done, _ = await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
        if not done:
            log.warning("the Kafka producer did not close in time and is abandoned")
            _give_up(producer, TimeoutError())
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await producer.client.close()


def _give_up(producer: AIOKafkaProducer, reason: Exception) -> None:
    """Drop what is undelivered: its sender would otherwise go on for ever and write it after the caller's retry."""
    pending = producer._message_accumulator  # noqa: SLF001
    pending.fail_all(KafkaError(type(reason).__name__))
    for batch in chain(pending._pending_batches, *pending._batches.values()):  # noqa: SLF001
        _heard(batch.future)
        _heard(batch._drain_waiter)  # noqa: SLF001
    if (sender := producer._sender.sender_task) is not None:  # noqa: SLF001
        sender.cancel()


def _heard(future: asyncio.Future[object]) -> None:
    """Take note of a failure that nobody else may: Python logs it as an error otherwise."""
    if not future.cancelled():
        future.exception()


def _append(batch: object, record: Record) -> bool:
    appended = batch.append(  # type: ignore[attr-defined]
        key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
    )
    return appended is not None

"""Single records read again from where they are known to stand, without a group."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from common.events.envelope import EventError, Readable, decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from common.kafka.settings import KafkaAccess

_REQUEST_SECONDS = 10.0
_FETCH_BYTES = 4 * 1024 * 1024

E = TypeVar("E", bound=Readable)


class Place(NamedTuple):
    """Where a record stands in its topic."""

    partition: int
    offset: int


async def read_places(
    access: KafkaAccess, event: type[E], places: Iterable[Place], *, client_id: str
) -> dict[Place, E]:
    """Return the events that stand at these places; what is no longer kept, or is no such event, is left out.

    Raises:
        TimeoutError, KafkaError: Kafka does not answer.
    """
    found: dict[Place, E] = {}
    async with _reader(access, client_id) as consumer:
        await consumer._client.add_topic(event.TOPIC)  # noqa: SLF001  the only way to learn of a topic first
        for place in sorted(set(places)):
            record = await _record(consumer, TopicPartition(event.TOPIC, place.partition), place.offset)
            if record is not None:
                with contextlib.suppress(EventError):
                    found[place] = decode(event, record.value, record.headers)  # type: ignore[attr-defined]
    return found


@contextlib.asynccontextmanager
async def _reader(access: KafkaAccess, client_id: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **access.client_options(),
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            await consumer.start()
        yield consumer
    finally:
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                await consumer.stop()


async def _record(consumer: AIOKafkaConsumer, place: TopicPartition, offset: int) -> object | None:
    consumer.assign([place])
    async with asyncio.timeout(_REQUEST_SECONDS):
        first, last = (await consumer.beginning_offsets([place]))[place], (await consumer.end_offsets([place]))[place]
        if not first <= offset < last:
            return None
        consumer.seek(place, offset)
        with contextlib.suppress(OffsetOutOfRangeError):
            record = await consumer.getone(place)
            return record if record.offset == offset else None
    return None

"""Single records read again from where they are known to stand, without a group."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from common.events.envelope import EventError, Readable, decode
from common.kafka.clients import groupless

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from aiokafka import AIOKafkaConsumer

    from common.kafka.settings import KafkaAccess

_REQUEST_SECONDS = 10.0
_FETCH_BYTES = 4 * 1024 * 1024

E = TypeVar("E", bound=Readable)


class Place(NamedTuple):
    """Where a record stands in its topic."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Places(Generic[E]):
    """The records of a topic, by where they stand.

    Both methods raise TimeoutError or KafkaError when Kafka does not answer.
    """

    access: KafkaAccess
    event: type[E]
    client_id: str

    async def read(self, places: Iterable[Place]) -> dict[Place, E]:
        """Return the events that stand at these places; what is no longer kept, or is no such event, is left out."""
        found: dict[Place, E] = {}
        async with self._reader() as consumer:
            for place in sorted(set(places)):
                record = await _record(consumer, TopicPartition(self.event.TOPIC, place.partition), place.offset)
                if record is not None:
                    with contextlib.suppress(EventError):
                        found[place] = decode(self.event, record.value, record.headers)  # type: ignore[attr-defined]
        return found

    async def draw(self, count: int, since: datetime) -> list[Place]:
        """Return places of so many records written since a moment, each as likely as any other, or all of them."""
        async with self._reader() as consumer, asyncio.timeout(_REQUEST_SECONDS):
            topic = self.event.TOPIC
            partitions = [TopicPartition(topic, one) for one in consumer.partitions_for_topic(topic) or ()]
            starts = await consumer.offsets_for_times(dict.fromkeys(partitions, int(since.timestamp() * 1000)))
            ends = await consumer.end_offsets(partitions)
        written = {one.partition: range(start.offset, ends[one]) for one, start in starts.items() if start is not None}
        counts = [len(offsets) for offsets in written.values()]
        shares = Counter(random.sample(list(written), min(count, sum(counts)), counts=counts) if any(counts) else ())
        return [Place(one, offset) for one, share in shares.items() for offset in random.sample(written[one], share)]

    def _reader(self) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
        return groupless(
            self.access,
            self.event.TOPIC,
            client_id=self.client_id,
            seconds=_REQUEST_SECONDS,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_FETCH_BYTES,
        )


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

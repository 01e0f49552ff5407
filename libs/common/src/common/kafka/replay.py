"""Reading a topic again from a moment to its present end, without a group: for a database that was put back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from common.events.envelope import EventError, Readable, decode
from common.kafka.clients import groupless, partitions_of
from common.kafka.consumer import Received

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from aiokafka import AIOKafkaConsumer, TopicPartition

    from common.kafka.settings import KafkaAccess

RECORDS_MAX = 500
_REQUEST_SECONDS = 30.0

E = TypeVar("E", bound=Readable)
log = logging.getLogger(__name__)


async def replay(
    access: KafkaAccess,
    event: type[E],
    since: datetime,
    handle: Callable[[Sequence[Received[E]]], Awaitable[None]],
    *,
    client_id: str,
) -> int:
    """Give every event written since then to a handler, in batches and in order of its partition; return how many.

    Committed offsets of groups stay as they are. What is no event is left to the group, which dead-lettered it.
    """
    count = 0
    async with groupless(
        access,
        event.TOPIC,
        client_id=client_id,
        seconds=_REQUEST_SECONDS,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    ) as consumer:
        async with asyncio.timeout(_REQUEST_SECONDS):
            ends = await _assigned(consumer, event.TOPIC, since)
        while behind := [place for place, end in ends.items() if await consumer.position(place) < end]:
            async with asyncio.timeout(_REQUEST_SECONDS):
                batches = await consumer.getmany(*behind, timeout_ms=1000, max_records=RECORDS_MAX)
            batch = [one for records in batches.values() for record in records if (one := _received(event, record))]
            if batch:
                await handle(batch)
            count += len(batch)
    log.info("%d records of %s since %s were read again", count, event.TOPIC, since.isoformat())
    return count


async def _assigned(consumer: AIOKafkaConsumer, topic: str, since: datetime) -> dict[TopicPartition, int]:
    """Set every partition to its first record since then; return the ends that there are now."""
    places = partitions_of(consumer, topic)
    consumer.assign(places)
    moment = int(since.timestamp() * 1000)
    starts = await consumer.offsets_for_times(dict.fromkeys(places, moment))
    ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
    for place in places:
        consumer.seek(place, ends[place] if starts[place] is None else starts[place].offset)
    return ends


def _received(event: type[E], record: object) -> Received[E] | None:
    try:
        return Received(decode(event, record.value, record.headers), record)  # type: ignore[attr-defined]
    except EventError:
        return None

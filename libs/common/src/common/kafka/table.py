"""A compacted topic read whole, without a consumer group, by every copy of a process.

A reader is fresh when, within the last second, the broker confirmed that nothing beyond what was applied exists. Who
depends on the table is not ready before the first such moment and stops acting when the reader is stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from common.events.envelope import EventError, Readable, decode
from common.kafka.clients import groupless, partitions_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiokafka import AIOKafkaConsumer, TopicPartition

    from common.kafka.settings import KafkaAccess

STALE_SECONDS = 1.0
_CONFIRM_SECONDS = 0.25
_RECONNECT_SECONDS = 0.5
_REQUEST_SECONDS = 5.0

E = TypeVar("E", bound=Readable)
log = logging.getLogger(__name__)


class TableReader(Generic[E]):
    """Applies every record of a compacted topic, oldest first, and keeps following it."""

    def __init__(
        self, access: KafkaAccess, event: type[E], apply: Callable[[Sequence[E]], Awaitable[None]], *, client_id: str
    ) -> None:
        self._access = access
        self._event = event
        self._apply = apply
        self._client_id = client_id
        self._confirmed_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return self._event.TOPIC

    @property
    def stale_seconds(self) -> float:
        """Seconds since the reader was last known to have everything; infinite before the first time."""
        return float("inf") if self._confirmed_at is None else time.monotonic() - self._confirmed_at

    @property
    def fresh(self) -> bool:
        """Whether the table may be relied upon right now."""
        return self.stale_seconds <= STALE_SECONDS

    def start(self) -> None:
        """Begin reading in the background."""
        self._task = asyncio.create_task(self._run(), name=f"table {self._event.TOPIC}")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except (asyncio.CancelledError, Exception) as error:
                # aiokafka's stop() raises CancelledError of its own after an outage; only ours ends the reader
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                log.warning("the reader of %s starts again: %s", self._event.TOPIC, type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _read(self) -> None:
        async with groupless(
            self._access,
            self._event.TOPIC,
            client_id=self._client_id,
            seconds=_REQUEST_SECONDS,
            auto_offset_reset="earliest",
            request_timeout_ms=int(_REQUEST_SECONDS * 1000),
            # A broker answers a connection's requests in turn: the look at the ends waits for the fetch before it.
            fetch_max_wait_ms=int(_CONFIRM_SECONDS * 1000),
        ) as consumer:
            places = partitions_of(consumer, self._event.TOPIC)
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            while True:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await self._step(consumer, places)

    async def _step(self, consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> None:
        asked_at = time.monotonic()
        ends = await consumer.end_offsets(places)
        if await self._is_at(ends, consumer):
            self._confirmed_at = asked_at
        batches = await consumer.getmany(timeout_ms=int(_CONFIRM_SECONDS * 1000))
        events: list[E] = []
        for records in batches.values():
            for record in records:
                try:
                    events.append(decode(self._event, record.value, record.headers))
                except EventError as error:
                    log.warning("%s offset %d is ignored: %s", self._event.TOPIC, record.offset, error)
        if events:
            await self._apply(events)
        if await self._is_at(ends, consumer):
            self._confirmed_at = asked_at

    @staticmethod
    async def _is_at(ends: dict[TopicPartition, int], consumer: AIOKafkaConsumer) -> bool:
        return not [place for place, end in ends.items() if await consumer.position(place) < end]

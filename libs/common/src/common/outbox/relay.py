"""Publishes what stands in the outbox: at once from memory, and by sweeping what a crash left (rule `sweep`).

A row is deleted only after Kafka acknowledged it (rule `deleteAfterAck`), together with those of the same half second.
The relay also vacuums, every few seconds under load: the outbox stays on few pages, which are in memory. It would grow
until autovacuum comes, once a minute, and drive indexes out of PostgreSQL's cache.
Publishing twice is harmless: ids are derived from what events tell, and every consumer drops what it has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import orjson

from common.kafka.consumer import RETRYABLE
from common.kafka.records import Record
from common.pacing import cycle_seconds_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.kafka.publisher import Publisher
    from common.postgres.pool import Pool

RECORDS_MAX = 1000
SWEEP_SECONDS = 2.0
ORPHAN_SECONDS = 5.0
MEMORY_RECORDS_MAX = 20_000
DELETE_SECONDS = 0.5
VACUUM_ROWS = 4000
_BACKOFF_SECONDS_MAX = 5.0
_VACUUM_SHARE = 20  # at most one part in that many of the time

_SWEEP = """
SELECT id, topic, key, value, headers FROM outbox
WHERE created_at < now() - make_interval(secs => $1) AND NOT id = ANY($2::bigint[])
ORDER BY id LIMIT $3
"""
_DELETE = "DELETE FROM outbox WHERE id = ANY($1::bigint[])"
# Without TRUNCATE the pages stay with the table, to be filled again. A role without the right is warned and skips it.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE off) outbox"
# The oldest row only: counting would visit every row that was published and deleted since the last vacuum.
_OLDEST = "SELECT extract(epoch FROM now() - created_at)::float8 FROM outbox ORDER BY id LIMIT 1"

log = logging.getLogger(__name__)


class StoredRecord(NamedTuple):
    """A record with the id of its outbox row."""

    id: int
    record: Record


def outbox_columns(records: Sequence[Record]) -> tuple[list[str], list[bytes], list[bytes], list[str]]:
    """Return topics, keys, values and headers (JSON) as columns for one multi-row INSERT with unnest."""
    topics = [record.topic for record in records]
    keys = [record.key or b"" for record in records]
    values = [record.value or b"" for record in records]
    headers = [
        orjson.dumps({name: (value or b"").decode() for name, value in record.headers}).decode() for record in records
    ]
    return topics, keys, values, headers


class OutboxRelay:
    """One loop per process that publishes and then deletes outbox rows."""

    def __init__(self, pool: Pool, publisher: Publisher, *, cycle_seconds: float = 0.01) -> None:
        self._pool = pool
        self._publisher = publisher
        self._cycle_seconds = cycle_seconds
        self._memory: deque[StoredRecord] = deque()
        self._in_memory: set[int] = set()
        self._undeleted: list[int] = []
        self._delete_at = 0.0
        self._deleted = 0
        self._vacuum: asyncio.Task[None] | None = None
        self._vacuum_at = 0.0
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """How many rows are committed and not yet acknowledged, as far as this process knows."""
        return len(self._memory)

    def start(self) -> None:
        """Begin relaying in the background."""
        self._task = asyncio.create_task(self._run(), name="outbox relay")

    async def stop(self) -> None:
        """Publish what is in memory if Kafka is there, then stop; the rest stays in the table."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=_BACKOFF_SECONDS_MAX)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        if self._vacuum is not None:
            self._vacuum.cancel()
            await asyncio.wait({self._vacuum})

    def committed(self, records: Iterable[StoredRecord]) -> None:
        """Take over records whose rows were just committed; beyond the memory's bound they wait for the sweep."""
        for stored in records:
            if len(self._memory) < MEMORY_RECORDS_MAX and stored.id not in self._in_memory:
                self._memory.append(stored)
                self._in_memory.add(stored.id)
        self._wake.set()

    async def oldest_seconds(self) -> float:
        """Return the age of the oldest row that stands in the outbox, whoever committed it, seconds."""
        return float(await self._pool.fetchval(_OLDEST) or 0.0)

    async def _run(self) -> None:
        failures, swept_at = 0, 0.0
        while not (self._stopping and not self._memory):
            try:
                if time.monotonic() - swept_at >= SWEEP_SECONDS:
                    more = await self._sweep()
                    swept_at = 0.0 if more else time.monotonic()
                started = time.monotonic()
                relayed = await self._relay()
                failures = 0
            except Exception as error:  # a relay that ends in silence would keep every event from then on
                failures += 1
                if failures == 1:
                    log.warning("the outbox waits: %s", type(error).__name__, exc_info=not isinstance(error, RETRYABLE))
                if self._stopping:
                    return
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 8), _BACKOFF_SECONDS_MAX))
            else:
                await self._pause(started + cycle_seconds_after(relayed, self._cycle_seconds, RECORDS_MAX))
        with contextlib.suppress(*RETRYABLE):
            await self._delete()

    async def _pause(self, until: float) -> None:
        """Wait for records, and until the next cycle may begin."""
        if not self._memory:
            self._wake.clear()
            try:
                async with asyncio.timeout(DELETE_SECONDS if self._undeleted else SWEEP_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                return
        if not self._stopping:
            await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _relay(self) -> int:
        """Publish what is in memory, up to a batch; return how many records that were."""
        if self._undeleted and time.monotonic() >= self._delete_at:
            await self._delete()
        if not self._memory:
            return 0
        batch = [self._memory[i] for i in range(min(len(self._memory), RECORDS_MAX))]
        await self._publisher.publish([stored.record for stored in batch])
        for _ in batch:
            self._memory.popleft()
        if not self._undeleted:
            self._delete_at = time.monotonic() + DELETE_SECONDS
        self._undeleted += [stored.id for stored in batch]
        return len(batch)

    async def _delete(self) -> None:
        if not self._undeleted:
            return
        self._clear_room()
        await self._pool.execute(_DELETE, self._undeleted)
        self._deleted += len(self._undeleted)
        self._in_memory.difference_update(self._undeleted)
        self._undeleted.clear()

    def _clear_room(self) -> None:
        """Vacuum what was deleted before, beside the relaying: under load every few seconds."""
        if self._deleted < VACUUM_ROWS or time.monotonic() < self._vacuum_at:
            return
        if self._vacuum is None or self._vacuum.done():
            self._deleted = 0
            self._vacuum = asyncio.create_task(self._run_vacuum(), name="outbox vacuum")

    async def _run_vacuum(self) -> None:
        began = time.monotonic()
        try:
            await self._pool.execute(_VACUUM)
        except Exception as error:  # the rows are gone all the same, and autovacuum comes too
            log.warning(
                "the outbox was not vacuumed: %s", type(error).__name__, exc_info=not isinstance(error, RETRYABLE)
            )
        # While a backup reads, a vacuum visits ever more pages and may clear none of them.
        self._vacuum_at = began + _VACUUM_SHARE * (time.monotonic() - began)

    async def _sweep(self) -> bool:
        """Take over rows that nobody relays; say whether there may be more."""
        room = min(RECORDS_MAX, MEMORY_RECORDS_MAX - len(self._memory))
        rows = await self._pool.fetch(_SWEEP, ORPHAN_SECONDS, list(self._in_memory), room)
        self.committed(
            StoredRecord(
                row["id"],
                Record(
                    row["topic"],
                    row["key"],
                    row["value"],
                    tuple((name, value.encode()) for name, value in orjson.loads(row["headers"]).items()),
                ),
            )
            for row in rows
        )
        return len(rows) == RECORDS_MAX

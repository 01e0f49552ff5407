"""Back-pressure: when the road does not keep up with the door, batches are asked to come back before singles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.http.problems import Problem
from common.kafka.consumer import RETRYABLE
from ingestion import store

if TYPE_CHECKING:
    from common.outbox import OutboxRelay
    from common.postgres.pool import Pool

SAMPLE_SECONDS = 1.0
RETRY_AFTER_SECONDS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """How far the road is behind at one moment."""

    outbox_records: int = 0
    outbox_seconds: float = 0.0
    backlog_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Beyond these batches are asked to come back; single messages beyond `singles_factor` times these."""

    outbox_records_max: int
    outbox_seconds_max: float
    backlog_seconds_max: float
    singles_factor: float


def congestion(load: Load, bounds: Bounds, *, single: bool) -> Problem | None:
    """Return the refusal of a request while the road is behind, if it is."""
    factor = bounds.singles_factor if single else 1.0
    shares = {
        "messages wait for Kafka": load.outbox_records / bounds.outbox_records_max,
        "messages have waited long for Kafka": load.outbox_seconds / bounds.outbox_seconds_max,
        "screening and routing are behind": load.backlog_seconds / bounds.backlog_seconds_max,
    }
    reason, share = max(shares.items(), key=lambda pair: pair[1])
    if share <= factor:
        return None
    advice = "" if single else "; single messages may still pass"
    return Problem(
        503,
        "road-congested",
        f"{reason}: nothing of this request was kept, come back in {RETRY_AFTER_SECONDS} seconds{advice}",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


class CongestionSampler:
    """Looks once a second how far the road is behind; what waits for Kafka is counted at each request."""

    def __init__(self, pool: Pool, relay: OutboxRelay, bounds: Bounds) -> None:
        self._pool = pool
        self._relay = relay
        self._bounds = bounds
        self._load = Load()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, in the background."""
        self._task = asyncio.create_task(self._run(), name="congestion")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def refusal(self, *, single: bool) -> Problem | None:
        """Return the refusal of a request now, if the road is behind."""
        return congestion(replace(self._load, outbox_records=self._relay.pending), self._bounds, single=single)

    async def _run(self) -> None:
        while True:
            try:
                outbox_seconds = await self._relay.oldest_seconds()
                self._load = Load(0, outbox_seconds, await store.backlog_seconds(self._pool))
            except RETRYABLE as error:
                log.info("the load of the road is not known: %s", type(error).__name__)
            await asyncio.sleep(SAMPLE_SECONDS)

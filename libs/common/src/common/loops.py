"""Steps that a service repeats for as long as it runs, each in a task of its own; outages and bugs do not end them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RETRY_SECONDS_FIRST = 0.1

log = logging.getLogger(__name__)


class Loops:
    """Runs steps for ever; an outage is told once until it is over, a bug each time.

    A step that failed is tried again at its next turn; with `retry_seconds_max` after a pause that grows up to that.
    """

    def __init__(
        self, *, retry_seconds_max: float | None = None, outages: tuple[type[Exception], ...] = RETRYABLE
    ) -> None:
        self._retry_seconds_max = retry_seconds_max
        self._outages = outages
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, step: Callable[[], Awaitable[object]], *, every_seconds: float = 0.0) -> None:
        """Repeat a step with a pause between two."""
        self._tasks.append(asyncio.create_task(self._forever(name, step, every_seconds), name=name))

    async def stop(self) -> None:
        """End all loops where they wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _forever(self, name: str, step: Callable[[], Awaitable[object]], every_seconds: float) -> None:
        failures = 0
        while True:
            pause_seconds = every_seconds
            try:
                await step()
                failures = 0
            except self._outages as error:
                failures += 1
                if failures == 1:
                    log.warning("%s waits: %s", name, type(error).__name__)
                if self._retry_seconds_max is not None:
                    pause_seconds = min(RETRY_SECONDS_FIRST * 2 ** min(failures, 8), self._retry_seconds_max)
            except Exception:
                log.exception("%s met a bug and goes on", name)
                if self._retry_seconds_max is not None:
                    pause_seconds = self._retry_seconds_max
            await asyncio.sleep(pause_seconds)

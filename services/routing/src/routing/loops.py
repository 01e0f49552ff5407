"""Background loops of the dispatcher: paced, surviving outages, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from common.http.vault import VaultRefusedError
from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_MAX = 2.0

log = logging.getLogger(__name__)


class Loops:
    """Runs steps for ever; a step that meets an outage is repeated after a growing pause."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, step: Callable[[], Awaitable[None]], *, every_seconds: float = 0.0) -> None:
        """Repeat a step, at least `every_seconds` apart."""
        self._tasks.append(asyncio.create_task(self._forever(name, step, every_seconds), name=name))

    async def stop(self) -> None:
        """End all loops where they wait."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    @staticmethod
    async def _forever(name: str, step: Callable[[], Awaitable[None]], every_seconds: float) -> None:
        failures = 0
        while True:
            try:
                await step()
                failures = 0
                await asyncio.sleep(every_seconds)
            except (*RETRYABLE, VaultRefusedError) as error:
                failures += 1
                if failures == 1:
                    log.warning("%s waits: %s", name, type(error).__name__)
                await asyncio.sleep(min(BACKOFF_SECONDS_FIRST * 2 ** min(failures, 8), BACKOFF_SECONDS_MAX))
            except Exception:
                log.exception("%s met a bug and goes on", name)
                await asyncio.sleep(BACKOFF_SECONDS_MAX)

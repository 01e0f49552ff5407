"""Steps that are repeated for ever beside screening: ended cases, what was kept long enough."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Upkeep:
    """Runs steps, each at its pace; an outage or a bug is logged and the step is tried again at its next turn."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, step: Callable[[], Awaitable[object]], *, every_seconds: float) -> None:
        """Repeat a step."""
        self._tasks.append(asyncio.create_task(_forever(name, step, every_seconds), name=name))

    async def stop(self) -> None:
        """End all steps where they wait."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()


async def _forever(name: str, step: Callable[[], Awaitable[object]], every_seconds: float) -> None:
    while True:
        try:
            await step()
        except RETRYABLE as error:
            log.warning("%s waits: %s", name, type(error).__name__)
        except Exception:
            log.exception("%s met a bug and goes on", name)
        await asyncio.sleep(every_seconds)

"""Steps that are repeated for as long as the vault runs; a step that fails is told and tried again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Loops:
    """Repeats steps, each in a task of its own."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, step: Callable[[], Awaitable[object]], *, every_seconds: float) -> None:
        """Repeat a step with a pause between two."""
        self._tasks.append(asyncio.create_task(_repeat(name, step, every_seconds), name=name))

    async def stop(self) -> None:
        """End all loops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _repeat(name: str, step: Callable[[], Awaitable[object]], every_seconds: float) -> None:
    was_well = True
    while True:
        try:
            await step()
            was_well = True
        except Exception as error:  # a loop that ends in silence would leave keys alive
            if was_well:
                log.warning("%s waits: %s", name, type(error).__name__, exc_info=not isinstance(error, RETRYABLE))
            was_well = False
        await asyncio.sleep(every_seconds)

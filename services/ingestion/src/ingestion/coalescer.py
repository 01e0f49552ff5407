"""Concurrent requests become one batch: one seal, one signature, one INSERT for all of them.

A request's items are never split over two batches, so that a request is kept whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from common.pacing import cycle_seconds_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

ITEMS_MAX = 500
BYTES_MAX = 16 * 1024 * 1024

T = TypeVar("T")
A = TypeVar("A")


@dataclass(slots=True)
class _Ticket(Generic[T, A]):
    items: Sequence[T]
    size_bytes: int
    answer: asyncio.Future[Sequence[A]]


class Coalescer(Generic[T, A]):
    """Hands waiting items to `work` in batches, at most one new batch per cycle unless batches come full.

    `work` returns one answer per item, in order; what it raises, every request of the batch gets.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[A]]],
        *,
        cycle_seconds: float = 0.06,
        batches_in_flight_max: int = 3,
    ) -> None:
        self._work = work
        self._cycle_seconds = cycle_seconds
        self._slots = asyncio.Semaphore(batches_in_flight_max)
        self._waiting: deque[_Ticket[T, A]] = deque()
        self._items = 0
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many items wait for a batch."""
        return self._items

    @property
    def waiting_bytes(self) -> int:
        """How large the bodies are that wait for a batch."""
        return self._bytes

    def start(self) -> None:
        """Begin to work in the background."""
        self._task = asyncio.create_task(self._run(), name="coalescer")

    async def stop(self) -> None:
        """Finish the batches in flight; requests that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._running:
            await asyncio.wait(self._running)
        while self._waiting:
            self._waiting.popleft().answer.cancel()

    async def submit(self, items: Sequence[T], size_bytes: int) -> Sequence[A]:
        """Return the answers to up to 500 items that share a request of `size_bytes`."""
        ticket: _Ticket[T, A] = _Ticket(items, size_bytes, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._items += len(items)
        self._bytes += size_bytes
        self._arrived.set()
        if self._items >= ITEMS_MAX or self._bytes >= BYTES_MAX:
            self._full.set()
        return await ticket.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = 0.0
        while True:
            await self._arrived.wait()
            if (pause := next_at - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._full.wait()
            await self._slots.acquire()
            taken = self._take()
            items = sum(len(ticket.items) for ticket in taken)
            next_at = loop.time() + cycle_seconds_after(items, self._cycle_seconds, ITEMS_MAX)
            task = asyncio.create_task(self._serve(taken), name="batch")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[_Ticket[T, A]]:
        taken: list[_Ticket[T, A]] = []
        items = size_bytes = 0
        while self._waiting:
            first = self._waiting[0]
            fits = items + len(first.items) <= ITEMS_MAX and size_bytes + first.size_bytes <= BYTES_MAX
            if taken and not fits:
                break
            taken.append(self._waiting.popleft())
            items += len(first.items)
            size_bytes += first.size_bytes
        self._items -= items
        self._bytes -= size_bytes
        if not self._waiting:
            self._arrived.clear()
        if self._items < ITEMS_MAX and self._bytes < BYTES_MAX:
            self._full.clear()
        return taken

    async def _serve(self, tickets: Sequence[_Ticket[T, A]]) -> None:
        try:
            answers = await self._work([item for ticket in tickets for item in ticket.items])
        except Exception as error:  # noqa: BLE001  each request answers for itself
            for ticket in tickets:
                if not ticket.answer.done():
                    ticket.answer.set_exception(error)
        else:
            position = 0
            for ticket in tickets:
                end = position + len(ticket.items)
                if not ticket.answer.done():
                    ticket.answer.set_result(answers[position:end])
                position = end
        finally:
            self._slots.release()

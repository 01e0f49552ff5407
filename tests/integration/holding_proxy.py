"""A wire between a vault and PostgreSQL that stops at one exact moment: before a commit, or before its answer."""

from __future__ import annotations

import asyncio
import contextlib

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"


class HoldingProxy:
    """Forwards bytes; once armed, holds the commit of the transaction that mentions a word, or PostgreSQL's answer to it.

    Every other connection goes on, so that the process is alive and well until it is killed.
    """

    def __init__(self, host, port):
        self._target = host, port
        self._server = None
        self._word = None
        self._held = None
        self._tasks = set()
        self.reached = asyncio.Event()

    async def start(self):
        """Listen on a free port; return it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def hold_commit(self, word):
        """Stop before PostgreSQL hears of the commit."""
        self._word, self._held = word.encode(), COMMIT

    def hold_answer(self, word):
        """Stop when PostgreSQL has committed, before the vault hears of it."""
        self._word, self._held = word.encode(), COMMITTED

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        near, far = (reader, writer), await asyncio.open_connection(*self._target)
        marked = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(near[0], far[1], marked, asks=True))
                both.create_task(self._forward(far[0], near[1], marked, asks=False))
        except* OSError:
            pass
        finally:
            for _, end in (near, far):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _forward(self, reader, writer, marked, *, asks):
        while data := await reader.read(1 << 16):
            if asks and self._word is not None and self._word in data:
                marked.set()
            if marked.is_set() and self._held in data:
                self.reached.set()
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

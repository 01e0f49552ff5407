"""The load of the benches: mails posted to the door over kept connections, by a client that costs little.

Bodies are made before the clock starts. Answers are read whole; the digests they name are kept, so that loss and
duplicates can be counted at the other end.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from waystation.rehearsal import Account

RETRY_SECONDS = 0.1
ACCEPTED, OK, TOO_MANY, UNAVAILABLE = 202, 200, 429, 503


@dataclass(slots=True)
class Answers:
    """What the door said.

    `admitted_at`: Unix seconds by the SHA-256 of the final bytes. `request_seconds`: from the moment a request was due.
    """

    admitted_at: dict[str, float] = field(default_factory=dict)
    request_seconds: list[float] = field(default_factory=list)
    pushed_back: int = 0


class Connection:
    """One kept connection, HTTP/1.1 with Content-Length; anything else is an error of the bench."""

    def __init__(self, url: str, api_key: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._head = (
            f"Host: {parts.netloc}\r\nAuthorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
        ).encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 22)
        head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (path, self._head, len(body))
        self._writer.write(head + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        lowered = answer.lower()
        start = lowered.index(b"content-length:") + 15
        length = int(lowered[start : lowered.index(b"\r\n", start)])
        content = await self._reader.readexactly(length)
        if b"connection: close" in lowered:
            self.close()
        return status, content

    def close(self) -> None:
        """Close; the next request opens a new connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def send_batches(url: str, account: Account, bodies: Sequence[bytes], connections: int) -> Answers:
    """Send prepared batches as fast as they are answered; what is pushed back is sent again."""
    answers, queue = Answers(), iter(bodies)

    async def worker() -> None:
        connection = Connection(url, account.api_key)
        for body in queue:
            await _send_batch(connection, body, answers)
        connection.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return answers


async def _send_batch(connection: Connection, body: bytes, answers: Answers) -> None:
    while True:
        status, content = await connection.post(b"/v1/messages:batch", body)
        if status not in {OK, UNAVAILABLE}:
            raise RuntimeError(f"the door answered {status}: {content[:300]!r}")
        items = orjson.loads(content)["items"] if status == OK else []
        if items and all(item["status"] == ACCEPTED for item in items):
            break
        # The same idempotency keys again: what was admitted is answered again, the rest gets another chance.
        answers.pushed_back += 1
        await asyncio.sleep(RETRY_SECONDS)
    now = time.time()
    for item in items:
        answers.admitted_at.setdefault(item["message"]["digest"], now)


async def send_singles(url: str, account: Account, bodies: Sequence[bytes], connections: int) -> Answers:
    """Send messages one by one, each connection its next as soon as the last was answered."""
    answers, queue = Answers(), iter(bodies)

    async def worker() -> None:
        connection = Connection(url, account.api_key)
        for body in queue:
            await _send_single(connection, body, time.time(), answers)
        connection.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return answers


async def send_steadily(
    url: str, account: Account, bodies: Sequence[bytes], per_second: float, connections: int
) -> Answers:
    """Send single messages at a steady pace; a late one is timed from when it was due (no coordinated omission)."""
    answers = Answers()
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(Connection(url, account.api_key))
    started = time.time()

    async def send(body: bytes, due: float) -> None:
        connection = await free.get()
        try:
            await _send_single(connection, body, due, answers)
        finally:
            free.put_nowait(connection)

    async with asyncio.TaskGroup() as tasks:
        for number, body in enumerate(bodies):
            due = started + number / per_second
            if (pause := due - time.time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(body, due))
    while not free.empty():
        free.get_nowait().close()
    return answers


async def _send_single(connection: Connection, body: bytes, due: float, answers: Answers) -> None:
    while True:
        status, content = await connection.post(b"/v1/messages", body)
        now = time.time()
        if status == ACCEPTED:
            answers.request_seconds.append(now - due)
            answers.admitted_at.setdefault(orjson.loads(content)["digest"], now)
            return
        if status not in {TOO_MANY, UNAVAILABLE}:
            raise RuntimeError(f"the door answered {status}: {content[:300]!r}")
        answers.pushed_back += 1
        await asyncio.sleep(RETRY_SECONDS)


def batch_bodies(items: Sequence[dict[str, object]], batch: int) -> list[bytes]:
    """Return the bodies of `POST /v1/messages:batch`."""
    return [orjson.dumps({"items": items[at : at + batch]}) for at in range(0, len(items), batch)]


def single_bodies(items: Iterable[dict[str, object]]) -> list[bytes]:
    """Return the bodies of `POST /v1/messages`."""
    return [orjson.dumps(item) for item in items]

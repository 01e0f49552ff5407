"""Reading a request's body within limits: what is too large is refused before it is read.

A large body takes memory for as long as it is on its way, so only keys that open something may send one, none may take
more than its share, and a part of the memory is kept for small bodies: who sends slowly holds up nobody else.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from common.http.problems import Problem
from common.times import now
from ingestion import store
from ingestion.domain import checked_key
from ingestion.submission import BODY_BYTES_MAX

if TYPE_CHECKING:
    from starlette.requests import Request

    from common.postgres.pool import Pool
    from ingestion.domain import RulesInForce

BODIES_BYTES_MAX = 256 * 1024 * 1024
LARGE_BODIES_BYTES_MAX = 192 * 1024 * 1024
KEY_BYTES_MAX = 64 * 1024 * 1024
SMALL_BYTES_MAX = 64 * 1024
_KNOWN_SECONDS = 60.0


class Keys(Protocol):
    """Who knows which keys open something."""

    async def check(self, key_digest: bytes, /) -> None:
        """Raise the Problem with a key that opens nothing."""


class KnownKeys:
    """Asks the database about a key once a minute."""

    def __init__(self, pool: Pool, rules: RulesInForce) -> None:
        self._pool = pool
        self._rules = rules
        self._known: dict[bytes, float] = {}

    async def check(self, key_digest: bytes) -> None:
        """Raise the Problem with a key that opens nothing; RETRYABLE errors when the database is away."""
        if self._known.get(key_digest, 0.0) > time.monotonic():
            return
        authorities = await store.authorities(self._pool, [key_digest], self._rules)
        checked_key(authorities.get(key_digest), now())
        self._known[key_digest] = time.monotonic() + _KNOWN_SECONDS


class Bodies:
    """Counts what bodies take in memory, all requests together and those of each key."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._held_bytes = 0
        self._large_bytes = 0
        self._of_key: Counter[bytes] = Counter()

    @staticmethod
    def check_announced(request: Request) -> None:
        """Refuse by the announced length alone, before anything else is looked at."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > BODY_BYTES_MAX:
            raise _too_large()

    async def read(self, request: Request, key_digest: bytes) -> bytes:
        """Return the body.

        Raises:
            Problem: it is larger than 36 MiB; too much is being read at once; or it is large and the key opens nothing.
        """
        chunks: list[bytes] = []
        size_bytes = large_bytes = 0
        try:
            async for chunk in request.stream():
                size_bytes += len(chunk)
                self._held_bytes += len(chunk)
                if size_bytes > BODY_BYTES_MAX:
                    raise _too_large()
                if size_bytes > SMALL_BYTES_MAX:
                    if not large_bytes:
                        await self._keys.check(key_digest)
                    self._large_bytes += size_bytes - large_bytes
                    self._of_key[key_digest] += size_bytes - large_bytes
                    large_bytes = size_bytes
                self._check_room(key_digest, large=bool(large_bytes))
                chunks.append(chunk)
        finally:
            self._held_bytes -= size_bytes
            self._large_bytes -= large_bytes
            self._of_key[key_digest] -= large_bytes
            if not self._of_key[key_digest]:
                del self._of_key[key_digest]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check_room(self, key_digest: bytes, *, large: bool) -> None:
        if large and self._of_key[key_digest] > KEY_BYTES_MAX:
            raise _busy("too many large bodies of this key at once")
        if self._held_bytes > BODIES_BYTES_MAX or (large and self._large_bytes > LARGE_BODIES_BYTES_MAX):
            raise _busy("too many large bodies at once")


def _busy(what: str) -> Problem:
    return Problem(503, "door-busy", f"{what}: come back in a second", retry_after_seconds=1)


def _too_large() -> Problem:
    return Problem(
        413,
        "body-too-large",
        f"the body is larger than {BODY_BYTES_MAX} bytes: send fewer messages at once",
        field="body",
        limit=BODY_BYTES_MAX,
    )

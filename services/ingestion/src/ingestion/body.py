"""Reading a request's body within a limit: what is too large is refused before it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.http.problems import Problem
from ingestion.submission import BODY_BYTES_MAX

if TYPE_CHECKING:
    from starlette.requests import Request

BODIES_BYTES_MAX = 256 * 1024 * 1024


class Bodies:
    """Counts what bodies take in memory, all requests together."""

    def __init__(self) -> None:
        self._held_bytes = 0

    @staticmethod
    def check_announced(request: Request) -> None:
        """Refuse by the announced length alone, before anything else is looked at."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > BODY_BYTES_MAX:
            raise _too_large()

    async def read(self, request: Request) -> bytes:
        """Return the body.

        Raises:
            Problem: it is, or announces to be, larger than 36 MiB; or too much is being read at once.
        """
        chunks: list[bytes] = []
        size_bytes = 0
        try:
            async for chunk in request.stream():
                size_bytes += len(chunk)
                self._held_bytes += len(chunk)
                if size_bytes > BODY_BYTES_MAX:
                    raise _too_large()
                if self._held_bytes > BODIES_BYTES_MAX:
                    raise Problem(
                        503, "door-busy", "too many large bodies at once: come back in a second", retry_after_seconds=1
                    )
                chunks.append(chunk)
        finally:
            self._held_bytes -= size_bytes
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> Problem:
    return Problem(
        413,
        "body-too-large",
        f"the body is larger than {BODY_BYTES_MAX} bytes: send fewer messages at once",
        field="body",
        limit=BODY_BYTES_MAX,
    )

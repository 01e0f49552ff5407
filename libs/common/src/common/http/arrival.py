"""HTTP/1.1 as uvicorn speaks it, with limits on what comes before anybody is asked who sends it.

uvicorn's own reader keeps headers of any size, and waits for ever for the rest of a request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.http.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    import asyncio

HEAD_BYTES_MAX = 64 * 1024
ARRIVAL_SECONDS_MAX = 60.0
BYTES_PER_SECOND_MIN = 100 * 1024

_TOO_LARGE = Problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-large",
    "the request line and the headers are larger than a request's may be",
    limit=HEAD_BYTES_MAX,
)
_TOO_SLOW = Problem(
    HTTPStatus.REQUEST_TIMEOUT,
    "too-slow",
    f"it did not come in {ARRIVAL_SECONDS_MAX:.0f} seconds, and one more for each {BYTES_PER_SECOND_MIN} bytes of body",
    limit=int(ARRIVAL_SECONDS_MAX),
)


class Arrival(HttpToolsProtocol):
    """One connection.

    Request line and headers, or trailers, beyond `HEAD_BYTES_MAX` are answered 431 (RFC 6585). A request that has not
    come whole `ARRIVAL_SECONDS_MAX` after its first octet, and a second for each `BYTES_PER_SECOND_MIN` of body that
    came, is answered 408 (RFC 9110); a new connection on which nothing comes for as long is closed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._refused = self._has_begun = self._is_served = False
        self._beside_bodies = self._body_bytes = 0
        self._begun_at = self.loop.time()
        self._too_late = self.loop.call_later(ARRIVAL_SECONDS_MAX, self._on_too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._too_late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the connection is being closed."""
        if self._refused:
            return
        self._beside_bodies += len(data)
        super().data_received(data)
        if self._has_begun and self._beside_bodies > HEAD_BYTES_MAX:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Note a request's first octet."""
        super().on_message_begin()
        self._has_begun, self._is_served, self._begun_at = True, False, self.loop.time()
        self._beside_bodies = self._body_bytes = 0
        self._too_late.cancel()
        self._too_late = self.loop.call_later(ARRIVAL_SECONDS_MAX, self._on_too_late)

    def on_headers_complete(self) -> None:
        """Begin to serve a request whose head is no larger than it may be."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_BYTES_MAX:
            self._refuse(_TOO_LARGE)
        if not self._refused:
            self._beside_bodies, self._is_served = 0, True
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Note a chunk: what stands between two of them is small, and behind the last one are trailers."""
        self._beside_bodies = 0

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._beside_bodies -= len(body)
        self._body_bytes += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is here."""
        self._has_begun = False
        self._too_late.cancel()
        if not self._refused:
            super().on_message_complete()

    def _on_too_late(self) -> None:
        ends = self._begun_at + ARRIVAL_SECONDS_MAX + self._body_bytes / BYTES_PER_SECOND_MIN
        if (seconds := ends - self.loop.time()) > 0:
            self._too_late = self.loop.call_later(seconds, self._on_too_late)
        elif self._has_begun:
            self._refuse(_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if self._refused:
            return
        self._refused = True
        if self._is_next_to_be_answered():
            self._answer(problem)
        self.transport.close()

    def _is_next_to_be_answered(self) -> bool:
        """Whether the client would take an answer for that to the request in hand, and not to one before it."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self._is_served and not self.pipeline and not self.cycle.response_started

    def _answer(self, problem: Problem) -> None:
        body = bytes(problem.response().body)
        lines = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
            "",
            "",
        )
        self.transport.write("\r\n".join(lines).encode() + body)

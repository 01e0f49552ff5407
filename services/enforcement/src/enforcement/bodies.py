"""A bound on request bodies, in front of everything that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request

from common.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_BYTES_MAX = 8 * 1024


class BoundedBodies:
    """ASGI middleware: a longer body is refused by its declared length, or while it arrives."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Request(scope).headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
            await _too_large().response()(scope, receive, send)
            return
        await self._app(scope, _counted(receive), send)


def _counted(receive: Receive) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_BYTES_MAX:
            raise HTTPException(413, _too_large())  # FastAPI lets no other exception through while it reads a body
        return message

    return counted


def _too_large() -> Problem:
    detail = f"a request to this service has at most {BODY_BYTES_MAX} bytes"
    return Problem(413, "body-too-large", detail, field="body", limit=BODY_BYTES_MAX)

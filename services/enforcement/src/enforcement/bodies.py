"""A bound on request bodies, in front of everything that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request

from common.http.problems import Problem
from enforcement.arf import REPORT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_BYTES_MAX = 8 * 1024
REPORTS_PATH = "/v1/complaints:report"


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
        limit = REPORT_BYTES_MAX if scope["path"] == REPORTS_PATH else BODY_BYTES_MAX
        if declared.isdecimal() and int(declared) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)


def _counted(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, _too_large(limit))  # FastAPI lets no other exception through while it reads a body
        return message

    return counted


def _too_large(limit: int) -> Problem:
    detail = f"a request like this has at most {limit} bytes; of a mail complained about its header is enough"
    return Problem(413, "body-too-large", detail, field="body", limit=limit)

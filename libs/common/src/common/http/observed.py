"""How HTTP shows in metrics and traces: `/metrics`, the duration of requests, calls that serve sampled messages."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from opentelemetry.trace import SpanKind

from common.telemetry.measuring import prometheus_text
from common.telemetry.metrics import HTTP_SERVER_DURATION
from common.telemetry.tracing import CONTEXTS_HEADER, end_all, read_contexts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from common.telemetry.process import Telemetry
    from common.telemetry.tracing import OpenSpan

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REFRESH_SECONDS = 2.0
_CONTEXTS_HEADER = CONTEXTS_HEADER.encode()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def observe(app: FastAPI, telemetry: Telemetry) -> FastAPI:
    """Measure the requests of an application and show all measures at `/metrics`; return the application."""
    app.add_middleware(Observed, telemetry=telemetry)
    app.include_router(metrics_route(telemetry))
    return app


def metrics_route(telemetry: Telemetry) -> APIRouter:
    """Return the route for Prometheus."""
    router = APIRouter(tags=["health"])
    labels = {"service_name": telemetry.service, "service_instance_id": telemetry.instance}

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Return everything that this process measures, in Prometheus's text format."""
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await telemetry.measures.refresh()
        except TimeoutError:
            pass  # what the database would tell is as old as the last time
        return Response(prometheus_text(telemetry.measures.snapshot(), labels), media_type=MEDIA_TYPE)

    return router


class Observed:
    """ASGI middleware: one duration a request, and one span for each sampled message that a call serves."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._tracer = telemetry.tracer
        self._durations = telemetry.measures.durations(HTTP_SERVER_DURATION)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        spans = self._spans(scope) if self._tracer.on else ()
        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"  # callers may invent any number
            route = getattr(scope.get("route"), "path", "")
            self._durations.record(time.monotonic() - started, method, route, str(status))
            end_all(spans, None if status < 500 else str(status), {"http.response.status_code": status})

    def _spans(self, scope: Scope) -> Sequence[OpenSpan]:
        header = next((value for name, value in scope["headers"] if name == _CONTEXTS_HEADER), None)
        if header is None:
            return ()
        named = {"http.request.method": scope["method"], "url.path": scope["path"]}
        return self._tracer.follow_all(
            read_contexts(header), f"{scope['method']} {scope['path']}", SpanKind.SERVER, named
        )

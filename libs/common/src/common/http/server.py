"""Runs a service: one uvicorn server over one ASGI application, in one event loop."""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING

import uvicorn

from common.http.arrival import Arrival
from common.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

# Longer than any pooled client's idle time, or the client writes into a connection that is closing.
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 20


def serve(service: str, create_app: Callable[[], FastAPI], host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT; the application's lifespan starts and stops what it needs."""
    configure_logs(service)
    app = create_app()
    quieten_collector()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=Arrival,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(3)


def quieten_collector() -> None:
    """Leave to themselves the objects that stay, and look at new ones seldom: a full collection stops the loop."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def stop_process() -> None:
    """End this process in order; who supervises it starts it again."""
    signal.raise_signal(signal.SIGTERM)

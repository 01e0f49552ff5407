"""Connections to a service's own database."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"

Pool: TypeAlias = Any
_RETRY_SECONDS = 0.5
_COMMAND_SECONDS = 30.0
_UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)

log = logging.getLogger(__name__)


async def connect_pool(dsn: str, *, connections_max: int = 8, wait_seconds: float = 60.0) -> Pool:
    """Return a pool; wait for a database that is still starting, then raise what it last said."""
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        try:
            return await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=connections_max,
                command_timeout=_COMMAND_SECONDS,
                server_settings={"jit": "off"},
            )
        except _UNREACHABLE as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.info("waiting for PostgreSQL: %s", type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

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
# Prepared plans are kept while tables grow from nothing: one made on an empty table must not be a scan of all of it.
# Queries over large tables name the rows with `= ANY`, which an index answers whatever the table's size.
PLANS_THAT_STAY_GOOD = {"enable_seqscan": "off", "jit": "off"}
_RETRY_SECONDS = 0.5
_COMMAND_SECONDS = 30.0
_UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,  # a wrong password too
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)

log = logging.getLogger(__name__)


async def _leave_as_it_is(_: Connection) -> None:
    """Spare the reset of a session at each release: services set nothing that outlives a transaction."""


async def connect_pool(dsn: str, *, connections_max: int = 8, wait_seconds: float = 60.0) -> Pool:
    """Return a pool; wait for a database that is still starting, then raise what it last said.

    A server in recovery is not taken: after a fail-over a name or a proxy may lead to the standby for a moment, and who
    is connected there would stay. Of several hosts in the DSN the primary is.
    """
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        try:
            return await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=connections_max,
                command_timeout=_COMMAND_SECONDS,
                target_session_attrs="primary",
                server_settings=PLANS_THAT_STAY_GOOD,
                reset=_leave_as_it_is,
            )
        except _REFUSED as error:
            log.critical("PostgreSQL refuses this service (%s): check its POSTGRES_DSN", type(error).__name__)
            raise
        except _UNREACHABLE as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.info("waiting for PostgreSQL: %s", type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

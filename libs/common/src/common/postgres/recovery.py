"""After a database was put back to a backup: its service reads again what happened since, before it does anything else.

The mark is a row that `waystation restore` writes into the restored database; a database that was never put back has no
such table. It stays until the reading has ended: a crash in between begins it again, a second copy waits for it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.postgres.pool import Pool

LOCK_KEY = 0x52435652  # "RCVR": one copy reads, the others wait
_LOCK_SECONDS_MAX = 3600.0

_TABLE = """
CREATE TABLE IF NOT EXISTS recoveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since timestamptz NOT NULL,
    outcomes_known boolean NOT NULL,
    restored_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
)
"""
_MARK = "INSERT INTO recoveries (since, outcomes_known) VALUES ($1, $2)"
_IS_MARKED = "SELECT to_regclass('public.recoveries') IS NOT NULL"
_PENDING = "SELECT since, outcomes_known FROM recoveries WHERE finished_at IS NULL ORDER BY since, id LIMIT 1"
_FINISH = "UPDATE recoveries SET finished_at = clock_timestamp() WHERE finished_at IS NULL"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """From when on the database knows nothing. `outcomes_known`: all that happened since is in Kafka."""

    since: datetime
    outcomes_known: bool


async def mark_restored(owner_dsn: str, recovery: Recovery) -> None:
    """Tell the service of a restored database to recover at its next start."""
    connection = await asyncpg.connect(owner_dsn)
    try:
        async with connection.transaction():
            await connection.execute(_TABLE)
            await connection.execute(_MARK, recovery.since, recovery.outcomes_known)
    finally:
        await connection.close()


async def recover(pool: Pool, work: Callable[[Recovery], Awaitable[None]]) -> None:
    """Do the work when the database was put back and nobody has done it yet; return when it is done."""
    if not await pool.fetchval(_IS_MARKED):
        return
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY, timeout=_LOCK_SECONDS_MAX)
        row = await connection.fetchrow(_PENDING)
        if row is None:
            return
        log.warning("the database was put back: what happened since %s is read again first", row["since"].isoformat())
        await work(Recovery(row["since"], row["outcomes_known"]))
        await connection.execute(_FINISH)
    log.warning("the database knows again what happened since %s", row["since"].isoformat())

"""The access log, its tree and heads, and records without authority."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vault.store.columns import SQL, columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access


class Unauthorised(NamedTuple):
    """A record without authority."""

    topic: str
    partition: int
    record_offset: int
    event_id: str
    reason: str


async def insert_unauthorised(connection: Connection, records: Sequence[Unauthorised]) -> None:
    """Count records without authority, each once."""
    await connection.execute(SQL["insert_unauthorised"], *columns_of(records, 5))


async def log_access(
    connection: Connection | Pool,
    access: Access,
    *,
    answered: int = 0,
    refused: bool = False,
    touched: Sequence[str] | None = None,
) -> None:
    """Log a call that has no other row to write; `touched` names what a person saw or changed."""
    outcome = "refused" if refused else "answered"
    caller = (access.caller, access.operation, access.purpose, access.case_id, access.user_id, access.provider)
    await connection.execute(SQL["log_access"], *caller, outcome, access.items, answered, touched)


async def lock_sequencer(connection: Connection) -> bool:
    """Become the one that gives positions, until the transaction ends; False when another process is at it."""
    return bool(await connection.fetchval(SQL["lock_sequencer"]))


async def pending_entries(connection: Connection, limit: int) -> list[Mapping[str, Any]]:
    """Return rows of the access log that have no position yet."""
    return list(await connection.fetch(SQL["pending_entries"], limit))


async def last_checkpoint(connection: Connection) -> tuple[int, bytes]:
    """Return size and right edge (hashes joined) of the newest head; of an empty log when there is none."""
    row = await connection.fetchrow(SQL["last_checkpoint"])
    return (row[0], row[1]) if row else (0, b"")


async def add_leaves(
    connection: Connection,
    positions: range,
    *,
    entry_ids: Sequence[int],
    leaves: Sequence[bytes],
    nodes: bytes,
    event: bytes,
) -> None:
    """Store leaves and the signed head over them."""
    await connection.execute(SQL["add_leaves"], list(positions), entry_ids, leaves, positions.stop, nodes, event)


async def unpublished_checkpoints(pool: Pool) -> list[tuple[int, bytes]]:
    """Return (size, event) of heads that Kafka has not acknowledged."""
    return [(row[0], row[1]) for row in await pool.fetch(SQL["unpublished_checkpoints"])]


async def checkpoints_published(pool: Pool, sizes: Sequence[int]) -> None:
    """Note that Kafka has heads."""
    await pool.execute(SQL["checkpoints_published"], sizes)


async def log_entries(connection: Connection, start: int, limit: int) -> list[Mapping[str, Any]]:
    """Return entries of the log from a position on, with their ledger rows as JSON."""
    return list(await connection.fetch(SQL["log_entries"], start, limit))


async def leaf_hashes(connection: Connection, size: int) -> list[bytes]:
    """Return the hashes of the first leaves."""
    return [row[0] for row in await connection.fetch(SQL["leaf_hashes"], size)]


async def unauthorised_counts(connection: Connection) -> Mapping[str, int]:
    """Return how many records had no authority, by reason."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["unauthorised_counts"])}


async def list_unauthorised(connection: Connection, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the newest records without authority."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(SQL["list_unauthorised"], limit)
    return rows

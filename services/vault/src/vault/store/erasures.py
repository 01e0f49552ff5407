"""Who was erased."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from vault.store.columns import SQL, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection


class Erasure(NamedTuple):
    """A person that is erased, or is to be."""

    token: str
    account_id: str
    erased_at: datetime
    reason: str
    asked_by: str
    epoch: int


async def erased_tokens(connection: Connection, tokens: Sequence[str]) -> set[str]:
    """Return which tokens were persons that are erased."""
    return {row[0] for row in await connection.fetch(SQL["erased_tokens"], joined(tokens))} if tokens else set()


async def lock_persons(connection: Connection, tokens: Sequence[str]) -> Mapping[str, str]:
    """Hold persons until the transaction ends; return their accounts by token."""
    rows = await connection.fetch(SQL["lock_persons"], joined(tokens))
    return {row[0]: row[1] for row in rows}


async def hold_persons(connection: Connection, tokens: Sequence[str]) -> None:
    """Hold persons and the rows of their data keys until the transaction ends."""
    await lock_persons(connection, tokens)
    await hold_keys(connection)


async def hold_keys(connection: Connection) -> None:
    """Keep data keys in their epochs until the transaction ends."""
    await connection.execute(SQL["hold_keys"])


async def erase_persons(connection: Connection, erasures: Sequence[Erasure]) -> set[str]:
    """Erase persons, record it, make tasks for their providers; return the tokens that were not recorded before."""
    columns = (
        joined([one.token for one in erasures]),
        joined([one.account_id for one in erasures]),
        [one.erased_at for one in erasures],
        joined([one.reason for one in erasures]),
        joined([one.asked_by for one in erasures]),
        joined([str(one.epoch) for one in erasures]),
    )
    return {row[0] for row in await connection.fetch(SQL["erase_persons"], *columns)}


async def erasure_count(connection: Connection) -> int:
    """Return how many erasures this database knows."""
    return int(await connection.fetchval(SQL["erasure_count"]))


async def erasure(connection: Connection, token: str) -> tuple[Erasure, datetime | None] | None:
    """Return an erasure by token, and when the keys of its epoch were destroyed."""
    row = await connection.fetchrow(SQL["erasure"], token)
    return row and (Erasure(row[0], row[1], row[2], row[3], "", row[4]), row[5])

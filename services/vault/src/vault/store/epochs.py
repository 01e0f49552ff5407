"""Epochs, and data keys that move from one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vault.store.columns import SQL, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection


class WrappedKey(NamedTuple):
    """A person's wrapped data key."""

    token: str
    account_id: str
    epoch: int
    wrapped: bytes


async def living_epochs(connection: Connection) -> list[int]:
    """Return the epochs whose keys are not destroyed, oldest first."""
    return [row[0] for row in await connection.fetch(SQL["living_epochs"])]


async def make_epoch(connection: Connection, epoch: int) -> None:
    """Make the partition and the row of an epoch."""
    await connection.execute(SQL["make_epoch"], epoch)


async def drop_epoch(connection: Connection, epoch: int) -> bool:
    """Drop an epoch's partition and account keys; False when data keys are left in it."""
    return bool(await connection.fetchval(SQL["drop_epoch"], epoch))


async def epoch_age(connection: Connection) -> tuple[int, float]:
    """Return the newest epoch and its age in seconds."""
    row = await connection.fetchrow(SQL["epoch_age"])
    return row[0], row[1]


async def accounts_without_key(connection: Connection, epoch: int, after: str, limit: int) -> list[str]:
    """Return accounts that have no key of an epoch, in their order."""
    return [row[0] for row in await connection.fetch(SQL["accounts_without_key"], epoch, after, limit)]


async def add_account_keys(connection: Connection, keys: Mapping[str, bytes], epoch: int) -> None:
    """Store keys of accounts in a new epoch; those that have one keep it."""
    await connection.execute(SQL["add_account_keys"], list(keys), list(keys.values()), epoch)


async def keys_of_epoch(connection: Connection, epoch: int, after: str, limit: int) -> list[WrappedKey]:
    """Return data keys of an epoch in the order of their tokens, while erasures wait."""
    await connection.execute(SQL["lock_moves"])
    return [WrappedKey(*row) for row in await connection.fetch(SQL["keys_of_epoch"], epoch, after, limit)]


async def move_keys(
    connection: Connection,
    keys: Sequence[tuple[str, str, bytes]],
    old_epoch: int,
    new_epoch: int,
    *,
    dropped: Sequence[str] = (),
) -> None:
    """Put data keys (token, account, wrapped) into the partition of another epoch; drop others, by token."""
    tokens, accounts, wrapped = zip(*keys, strict=True) if keys else ((), (), ())
    columns = (joined(tokens), joined(accounts), list(wrapped))
    await connection.execute(SQL["move_keys"], *columns, old_epoch, new_epoch, joined(dropped))


async def lock_epochs(connection: Connection) -> bool:
    """Become the process that ends epochs, until `unlock_epochs` on the same connection."""
    return bool(await connection.fetchval(SQL["lock_epochs"]))


async def unlock_epochs(connection: Connection) -> None:
    """Let others end epochs."""
    await connection.execute(SQL["unlock_epochs"])

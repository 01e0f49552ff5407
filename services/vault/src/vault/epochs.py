"""The end of an epoch: what survives is wrapped anew, the old partition dropped, the old key destroyed.

After that every older copy of a data key (in a backup, a replica, the write-ahead log) opens under no key that exists.
Everything here may be cut off at any point and is taken up again: each step first looks what is done.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import asyncpg

from vault import store
from vault.keys.accounts import new_account_key
from vault.keys.blobs import BlobError
from vault.opening import report_broken
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from vault.keyring import Keyring

KEYS_AT_ONCE = 2000
ACCOUNTS_AT_ONCE = 500
_DROP_TRIES = 100
_PAUSE_SECONDS = 0.05

log = logging.getLogger(__name__)


class EpochError(Exception):
    """An epoch could not be ended now; the text says why. Nothing is lost; it is tried again."""


async def end_epoch(pool: Pool, keyring: Keyring) -> int | None:
    """End the newest epoch and all that stand behind it; return the new one, or None when another process is at it."""
    async with pool.acquire() as guard:
        if not await store.lock_epochs(guard):
            return None
        try:
            async with scoped(pool, EVERY_ACCOUNT) as connection:
                living = await store.living_epochs(connection)
            new = max(living) + 1
            await _begin(pool, keyring, new)
            await _finish(pool, keyring, living)
        finally:
            await store.unlock_epochs(guard)
    return new


async def keep_epochs(pool: Pool, keyring: Keyring, epoch_hours: float) -> None:
    """End what was left half ended, and the newest epoch when it is old enough."""
    await finish_epochs(pool, keyring)
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        _, age_seconds = await store.epoch_age(connection)
    if age_seconds >= epoch_hours * 3600:
        await end_epoch(pool, keyring)


async def finish_epochs(pool: Pool, keyring: Keyring) -> None:
    """Take up what another process left when it was killed in the middle of an epoch's end."""
    async with pool.acquire() as guard:
        if not await store.lock_epochs(guard):
            return
        try:
            async with scoped(pool, EVERY_ACCOUNT) as connection:
                living = await store.living_epochs(connection)
            await keyring.wrapping(living[-1])
            await _finish(pool, keyring, living[:-1])
            for number in set(await asyncio.to_thread(keyring.folder.epochs)):
                if number < living[-1]:
                    await asyncio.to_thread(keyring.folder.destroy, number)
        finally:
            await store.unlock_epochs(guard)


async def _begin(pool: Pool, keyring: Keyring, epoch: int) -> None:
    await asyncio.to_thread(keyring.folder.load_or_make, epoch)
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        await store.make_epoch(connection, epoch)
    await _key_accounts(pool, keyring, epoch)


async def _key_accounts(pool: Pool, keyring: Keyring, epoch: int) -> None:
    wrapping = await keyring.wrapping(epoch)
    after = ""
    while True:
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            accounts = await store.accounts_without_key(connection, epoch, after, ACCOUNTS_AT_ONCE)
            if not accounts:
                return
            made = {account_id: new_account_key(wrapping, account_id) for account_id in accounts}
            await store.add_account_keys(connection, made, epoch)
        after = accounts[-1]


async def _finish(pool: Pool, keyring: Keyring, old_epochs: list[int]) -> None:
    for old in old_epochs:
        for _ in range(_DROP_TRIES):
            await _key_accounts(pool, keyring, keyring.epoch)
            await _move_all(pool, keyring, old)
            if await _drop(pool, old):
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            raise EpochError(f"epoch {old} is used so much that its partition cannot be dropped; tried again later")
        await asyncio.to_thread(keyring.folder.destroy, old)
        log.info("epoch %d has ended: its key is destroyed", old)
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        keyring.forget(await store.living_epochs(connection))


async def _drop(pool: Pool, epoch: int) -> bool:
    try:
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            return await store.drop_epoch(connection, epoch)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return False


async def _move_all(pool: Pool, keyring: Keyring, old: int) -> None:
    after = ""
    while True:
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            rows = await store.keys_of_epoch(connection, old, after, KEYS_AT_ONCE)
            if not rows:
                return
            accounts = await keyring.of(
                connection, {(row.account_id, epoch) for row in rows for epoch in (old, keyring.epoch)}
            )
            erased = await store.erased_tokens(connection, [row.token for row in rows])
            moved: list[tuple[str, str, bytes]] = []
            for row in rows:
                if row.token in erased:
                    log.error("the key of %s, who is erased, was put back by hand: it is dropped", row.token)
                    continue
                try:
                    wrapped = accounts[row.account_id].rewrap(row.token, old, row.wrapped)
                except (BlobError, KeyError):  # a row changed by hand opens nothing; carried on as it is
                    report_broken(row.token, "the data key")
                    wrapped = row.wrapped
                moved.append((row.token, row.account_id, wrapped))
            await store.move_keys(connection, moved, old, keyring.epoch, dropped=sorted(erased))
        after = rows[-1].token

"""Account keys in memory: a bounded cache before the database. Data keys of persons are never here."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from vault import store
from vault.errors import KeyFileError
from vault.keys.accounts import AccountKeys, new_account_key, new_account_secrets
from vault.keys.blobs import BlobError
from vault.keys.epochs import STANDING
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from common.postgres.pool import Connection, Pool
    from vault.keys.epochs import KeyFolder, WrappingKey
    from vault.store import WrappedAccount

log = logging.getLogger(__name__)


class Keyring:
    """Finds the keys of accounts; least recently used ones leave first."""

    def __init__(self, folder: KeyFolder, accounts_max: int) -> None:
        self.folder = folder
        self._accounts_max = accounts_max
        self._accounts: OrderedDict[str, AccountKeys] = OrderedDict()
        self._wrapping: dict[int, WrappingKey] = {}
        self.epoch = 0

    async def start(self, pool: Pool) -> None:
        """Load the standing key and those of the living epochs; on a database without accounts they are made.

        Raises:
            KeyFileError: the key files are not those of this database, or of another root.
        """
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            living = await store.living_epochs(connection)
            is_new = not await store.has_accounts(connection)
        find = self.folder.load_or_make if is_new else self.folder.load
        self._wrapping = {number: await asyncio.to_thread(find, number) for number in (STANDING, *living)}
        self.epoch = max(living)
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            for account_id, row in (await store.any_account(connection)).items():
                self._check(account_id, row)

    def _check(self, account_id: str, row: WrappedAccount) -> None:
        try:
            AccountKeys(account_id, self.standing, row.secrets)
        except BlobError:
            raise KeyFileError(
                "the standing key does not open this database: VAULT_KEYS_DIR names another folder than before"
            ) from None

    @property
    def standing(self) -> WrappingKey:
        """The key of what lives as long as an account."""
        return self._wrapping[STANDING]

    async def wrapping(self, number: int) -> WrappingKey:
        """Return the key of an epoch, loaded when another process began it."""
        if number not in self._wrapping:
            self._wrapping[number] = await asyncio.to_thread(self.folder.load, number)
        self.epoch = max(self._wrapping)
        return self._wrapping[number]

    def forget_account(self, account_id: str) -> None:
        """Drop the keys of an account from memory."""
        self._accounts.pop(account_id, None)

    def forget(self, living: Iterable[int]) -> None:
        """Drop everything of epochs that have ended, from this process's memory too."""
        self._wrapping = {number: self._wrapping[number] for number in (STANDING, *living) if number in self._wrapping}
        self._accounts.clear()
        self.epoch = max(self._wrapping)

    async def refresh(self, pool: Pool) -> None:
        """Follow epochs that another process began or ended."""
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            living = await store.living_epochs(connection)
        for number in living:
            await self.wrapping(number)
        if self._wrapping.keys() - {STANDING, *living}:
            self.forget(living)

    async def find_or_create(self, pool: Pool, account_ids: Iterable[str]) -> Mapping[str, AccountKeys]:
        """Return the keys of all accounts, made now for those that have none; who makes them first wins."""
        wanted = set(account_ids)
        found = self._cached(wanted)
        missing = sorted(wanted - found.keys())
        if not missing:
            return found
        async with scoped(pool, missing) as connection:
            found |= await self.load(connection, missing)
            if new := sorted(wanted - found.keys()):
                epoch = await self.wrapping(max(await store.living_epochs(connection)))
                made = {
                    account_id: (new_account_secrets(self.standing, account_id), new_account_key(epoch, account_id))
                    for account_id in new
                }
                await store.create_accounts(connection, made, epoch.number)
        if new:
            async with scoped(pool, new) as connection:
                found |= await self.load(connection, new)
        return found

    async def of(self, connection: Connection, needed: Iterable[tuple[str, int]]) -> Mapping[str, AccountKeys]:
        """Return the keys of accounts that have the epochs asked for; (account, epoch) pairs in."""
        pairs = set(needed)
        found = self._cached({account_id for account_id, _ in pairs})
        stale = {account for account, epoch in pairs if account not in found or not found[account].has(epoch)}
        return found | await self.load(connection, stale)

    async def load(self, connection: Connection, account_ids: Iterable[str]) -> dict[str, AccountKeys]:
        """Read the keys of accounts from their rows; an account whose rows do not open is left out, and told."""
        wanted = sorted(account_ids)
        if not wanted:
            return {}
        rows = await store.account_keys(connection, wanted)
        loaded = {account: keys for account, row in rows.items() if (keys := await self._unwrap(account, row))}
        self._accounts.update(loaded)
        while len(self._accounts) > self._accounts_max:
            self._accounts.popitem(last=False)
        return loaded

    def _cached(self, account_ids: Iterable[str]) -> dict[str, AccountKeys]:
        found = {account_id: self._accounts[account_id] for account_id in account_ids if account_id in self._accounts}
        for account_id in found:
            self._accounts.move_to_end(account_id)
        return found

    async def _unwrap(self, account_id: str, row: WrappedAccount) -> AccountKeys | None:
        try:
            keys = AccountKeys(account_id, self.standing, row.secrets)
            for epoch, wrapped in row.keys:
                keys.add(await self.wrapping(epoch), wrapped)
        except (BlobError, KeyFileError):
            log.exception("the keys of account %s do not open: their row was changed or belongs elsewhere", account_id)
            return None
        return keys

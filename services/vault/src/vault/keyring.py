"""Account keys in memory: a bounded cache before the database. Data keys of subjects are never here."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from vault import store
from vault.errors import KeyFileError
from vault.keys.accounts import AccountKeys, WrappedAccount, new_account
from vault.keys.blobs import BlobError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from common.postgres.pool import Connection
    from vault.keys.root import RootKey
    from vault.store import StoredSubject

log = logging.getLogger(__name__)


class Keyring:
    """Finds the keys of accounts; least recently used ones leave first."""

    def __init__(self, root: RootKey, accounts_max: int) -> None:
        self._root = root
        self._accounts_max = accounts_max
        self._accounts: OrderedDict[str, AccountKeys] = OrderedDict()

    async def find_or_create(self, connection: Connection, account_ids: Iterable[str]) -> Mapping[str, AccountKeys]:
        """Return the keys of all accounts, made now for those that have none; who makes them first wins."""
        wanted = set(account_ids)
        found = self._cached(wanted)
        found |= await self._load(connection, wanted - found.keys())
        if missing := sorted(wanted - found.keys()):
            await store.create_account_keys(
                connection, {account_id: new_account(self._root, account_id) for account_id in missing}
            )
            found |= await self._load(connection, missing)
        return found

    async def check_root(self, connection: Connection) -> None:
        """Raise KeyFileError when the accounts of this database are under another root key."""
        for account_id, row in (await store.any_account_keys(connection)).items():
            try:
                AccountKeys(self._root, account_id, row)
            except BlobError:
                raise KeyFileError(
                    "the root key does not open this database: VAULT_ROOT_KEY_FILE names another file than before"
                ) from None

    async def of_subjects(self, connection: Connection, subjects: Iterable[StoredSubject]) -> Mapping[str, AccountKeys]:
        """Return the keys of the accounts that subjects belong to, with the epochs their data keys need."""
        needed = {(subject.account_id, subject.epoch) for subject in subjects}
        found = self._cached({account_id for account_id, _ in needed})
        stale = {account for account, epoch in needed if account not in found or not found[account].has(epoch)}
        return found | await self._load(connection, stale)

    def _cached(self, account_ids: Iterable[str]) -> dict[str, AccountKeys]:
        found = {account_id: self._accounts[account_id] for account_id in account_ids if account_id in self._accounts}
        for account_id in found:
            self._accounts.move_to_end(account_id)
        return found

    async def _load(self, connection: Connection, account_ids: Iterable[str]) -> dict[str, AccountKeys]:
        wanted = sorted(account_ids)
        if not wanted:
            return {}
        rows = await store.account_keys(connection, wanted)
        loaded = {account: keys for account, row in rows.items() if (keys := self._unwrap(account, row)) is not None}
        self._accounts.update(loaded)
        while len(self._accounts) > self._accounts_max:
            self._accounts.popitem(last=False)
        return loaded

    def _unwrap(self, account_id: str, row: WrappedAccount) -> AccountKeys | None:
        try:
            return AccountKeys(self._root, account_id, row)
        except BlobError:
            log.exception("the keys of account %s do not open: their row was changed or belongs elsewhere", account_id)
            return None

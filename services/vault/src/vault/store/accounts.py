"""Accounts and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vault.keys.accounts import AccountSecrets
from vault.store.columns import SQL, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.postgres.pool import Connection


class WrappedAccount(NamedTuple):
    """What the database holds of an account: (epoch, wrapped key) pairs and the wrapped secrets."""

    keys: Sequence[tuple[int, bytes]]
    secrets: AccountSecrets


async def has_accounts(connection: Connection) -> bool:
    """Whether the database knows any account."""
    return bool(await connection.fetchval(SQL["has_accounts"]))


async def account_keys(connection: Connection, account_ids: Sequence[str]) -> Mapping[str, WrappedAccount]:
    """Return the wrapped keys of the accounts that have some."""
    return _by_account(await connection.fetch(SQL["account_keys"], account_ids))


async def any_account(connection: Connection) -> Mapping[str, WrappedAccount]:
    """Return the keys of one account, if there is one."""
    return _by_account(await connection.fetch(SQL["any_account"]))


def _by_account(rows: Iterable[Sequence[Any]]) -> Mapping[str, WrappedAccount]:
    accounts: dict[str, WrappedAccount] = {}
    for account_id, epoch, wrapped, index, suppression in rows:
        keys = accounts[account_id].keys if account_id in accounts else ()
        accounts[account_id] = WrappedAccount([*keys, (epoch, wrapped)], AccountSecrets(index, suppression))
    return accounts


async def create_accounts(
    connection: Connection, accounts: Mapping[str, tuple[AccountSecrets, bytes]], epoch: int
) -> None:
    """Store accounts with their secrets and first key; those that exist keep theirs."""
    rows = [(account_id, *secrets, wrapped) for account_id, (secrets, wrapped) in accounts.items()]
    await connection.execute(SQL["create_accounts"], *columns_of(rows, 4), epoch)


async def ended_accounts(connection: Connection, account_ids: Iterable[str]) -> set[str]:
    """Return which accounts have ended, or are about to."""
    return {row[0] for row in await connection.fetch(SQL["ended_accounts"], list(account_ids))}

"""A transaction that sees the accounts it named, and nothing of others: row-level security holds it to that."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from common.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from common.postgres.pool import Connection, Pool

EVERY_ACCOUNT = ("*",)
_SEPARATOR = "\x1f"


@asynccontextmanager
async def scoped(pool: Pool, account_ids: Collection[str]) -> AsyncIterator[Connection]:
    """Begin a transaction for some accounts, in one round trip; commit at the end, roll back after an exception.

    A caller's account id must not widen what the transaction sees: `*`, or one that holds the separator, is refused.
    """
    text = _SEPARATOR.join(account_ids)
    more = text.count(_SEPARATOR) >= max(len(account_ids), 1)
    every = "*" in account_ids and account_ids is not EVERY_ACCOUNT
    if more or every or "\x00" in text:
        raise Problem(422, "invalid-field", "account_id: no account has this id", field="account_id")
    begin = "BEGIN; SET LOCAL enable_nestloop = off; SET LOCAL vault.accounts = '" + text.replace("'", "''") + "'"
    async with pool.acquire() as connection:
        await connection.execute(begin)
        try:
            yield connection
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")

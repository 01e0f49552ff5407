"""A transaction that sees the accounts it named, and nothing of others: row-level security holds it to that."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from common.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from common.postgres.pool import Connection, Pool

EVERY_ACCOUNT = ("*",)
_SEPARATOR = "\x1f"
# One of 64 locks for each account, so that a call for a thousand accounts does not fill PostgreSQL's table of locks.
_LOCK = """; SELECT pg_advisory_xact_lock{}(5504, place) FROM (
    SELECT DISTINCT hashtext(name) & 63 AS place FROM unnest(string_to_array({}, chr(31))) AS name ORDER BY place
) AS places"""


def scope_of(account_ids: Collection[str]) -> str:
    """Return the accounts as one text, or raise the Problem of an id that would widen what a transaction sees.

    That is `*`, unless all accounts are meant, and an id that holds the separator.
    """
    text = _SEPARATOR.join(account_ids)
    more = text.count(_SEPARATOR) >= max(len(account_ids), 1)
    every = "*" in account_ids and account_ids is not EVERY_ACCOUNT
    if more or every or "\x00" in text:
        raise Problem(422, "invalid-field", "account_id: no account has this id", field="account_id")
    return text


@asynccontextmanager
async def scoped(
    pool: Pool, account_ids: Collection[str], opt_outs: Literal["unused", "read", "changed"] = "unused"
) -> AsyncIterator[Connection]:
    """Begin a transaction for some accounts, in one round trip; commit at the end, roll back after an exception.

    Who gives a person an address or phone reads the account's opt-outs, and waits for those that are being changed:
    otherwise neither sees the other's rows, and the opt-out is lost.
    """
    literal = "'" + scope_of(account_ids).replace("'", "''") + "'"
    begin = f"BEGIN; SET LOCAL enable_nestloop = off; SET LOCAL vault.accounts = {literal}"
    if opt_outs != "unused":
        begin += _LOCK.format("_shared" if opt_outs == "read" else "", literal)
    async with pool.acquire() as connection:
        await connection.execute(begin)
        try:
            yield connection
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")

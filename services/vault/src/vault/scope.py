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
_OPT_OUTS, _DISCLOSURES = 5504, 5505
# One of 64 locks for each account, so that a call for a thousand accounts does not fill PostgreSQL's table of locks.
_LOCKS = """SELECT pg_advisory_xact_lock{}({}, place) FROM (
    SELECT DISTINCT hashtext(name) & 63 AS place FROM unnest(string_to_array({}, chr(31))) AS name ORDER BY place
) AS places"""
# The same for one account, at a fifth of what PostgreSQL needs to plan the other.
_LOCK = "SELECT pg_advisory_xact_lock{}({}, hashtext({}) & 63)"


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
    pool: Pool,
    account_ids: Collection[str],
    opt_outs: Literal["unused", "read", "changed"] = "unused",
    *,
    discloses: bool = False,
) -> AsyncIterator[Connection]:
    """Begin a transaction for some accounts, in one round trip; commit at the end, roll back after an exception.

    Who gives a person an address or phone reads the account's opt-outs, and waits for those that are being changed:
    otherwise neither sees the other's rows, and the opt-out is lost. Who discloses waits for who holds disclosures.
    """
    begin = f"BEGIN; SET LOCAL enable_nestloop = off; SET LOCAL vault.accounts = {_literal(account_ids)}"
    if opt_outs != "unused":
        begin += "; " + _lock(_OPT_OUTS, account_ids, shared=opt_outs == "read")
    if discloses:
        begin += "; " + _lock(_DISCLOSURES, account_ids, shared=True)
    async with pool.acquire() as connection:
        await connection.execute(begin)
        try:
            yield connection
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


async def hold_disclosures(connection: Connection, account_ids: Collection[str]) -> None:
    """Wait for disclosures of some accounts that are under way; the next begin when this transaction has ended.

    What they entered is seen by later statements of this transaction, and they see what it did. To be called after
    persons are locked, and without waiting for anything but PostgreSQL afterwards.
    """
    await connection.execute(_lock(_DISCLOSURES, account_ids, shared=False))


def _lock(number: int, account_ids: Collection[str], *, shared: bool) -> str:
    statement = _LOCK if len(account_ids) == 1 else _LOCKS
    return statement.format("_shared" if shared else "", number, _literal(account_ids))


def _literal(account_ids: Collection[str]) -> str:
    return "'" + scope_of(account_ids).replace("'", "''") + "'"

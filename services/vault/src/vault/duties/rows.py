"""The rows behind the duties: each function runs one named query in a scoped transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from common.postgres.queries import load_queries
from vault.store import WrappedKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    from common.postgres.pool import Connection
    from vault.store import Blobs

SQL = load_queries("vault.duties")


class PersonRow(NamedTuple):
    """A person as stored, with its wrapped data key (None when the row is missing) and sealed fields."""

    token: str
    account_id: str
    kind: str
    flags: int
    created_at: datetime
    used_on: date
    key: WrappedKey | None
    fields: Blobs


class RectifiedRow(NamedTuple):
    """A person's fields, all sealed anew, and the wrapped data key that opens them; `flags` are added."""

    token: str
    identity_index: bytes
    phone_index: bytes | None
    flags: int
    epoch: int
    wrapped: bytes
    fields: Blobs


async def persons(connection: Connection, tokens: Iterable[str]) -> dict[str, PersonRow]:
    """Return persons by token."""
    found: dict[str, PersonRow] = {}
    for row in await connection.fetch(SQL["persons"], list(tokens)):
        token, account_id, kind, flags, created_at, used_on, epoch, wrapped, *fields = row
        key = None if wrapped is None else WrappedKey(token, account_id, epoch, wrapped)
        found[token] = PersonRow(token, account_id, kind, flags, created_at, used_on, key, tuple(fields))
    return found


async def tokens_of_account(connection: Connection, account_id: str, after: str, limit: int) -> list[str]:
    """Return persons of an account in the order of their tokens."""
    return [row[0] for row in await connection.fetch(SQL["tokens_of_account"], account_id, after, limit)]


async def erasures(connection: Connection, tokens: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return erasures by token."""
    return {row["token"]: row for row in await connection.fetch(SQL["erasures"], tokens)}


async def disclosures(
    connection: Connection, tokens: Sequence[str], before: tuple[int, int], limit: int
) -> dict[str, list[Mapping[str, Any]]]:
    """Return ledger rows by token, newest first, those before an entry."""
    return _by_token(await connection.fetch(SQL["disclosures"], tokens, *before, limit))


async def bases(connection: Connection, tokens: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Return legal bases by token, oldest first."""
    return _by_token(await connection.fetch(SQL["bases"], tokens))


async def opt_outs(connection: Connection, hashes: Sequence[bytes]) -> dict[bytes, Mapping[str, Any]]:
    """Return opt-outs by keyed hash."""
    return {row["hash"]: row for row in await connection.fetch(SQL["opt_outs"], hashes)} if hashes else {}


async def handlings(connection: Connection, tokens: Sequence[str], limit: int) -> dict[str, list[Mapping[str, Any]]]:
    """Return calls that looked persons up, read their messages or changed them, by token, oldest first."""
    return _by_token(await connection.fetch(SQL["handlings"], tokens, limit))


async def notices_of(connection: Connection, tokens: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Return notices to providers by token."""
    return _by_token(await connection.fetch(SQL["notices_of"], tokens))


async def basis_ends(connection: Connection, tokens: Sequence[str]) -> dict[str, datetime]:
    """Return when the last basis ended, of persons all of whose bases have ended."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["basis_ends"], tokens)}


async def rules_for(
    connection: Connection, account_ids: Iterable[str]
) -> dict[tuple[str, str], tuple[int, int | None]]:
    """Return (unused days, basis ended days) by account and kind; account `*` is for all."""
    return {(row[0], row[1]): (row[2], row[3]) for row in await connection.fetch(SQL["rules_for"], list(account_ids))}


async def all_rules(connection: Connection) -> list[Mapping[str, Any]]:
    """Return every rule."""
    return list(await connection.fetch(SQL["all_rules"]))


async def set_rule(
    connection: Connection, account_id: str, kind: str, days: tuple[int, int | None], set_by: str
) -> None:
    """Set the rule of an account and kind."""
    await connection.execute(SQL["set_rule"], account_id, kind, *days, set_by)


async def remove_rule(connection: Connection, account_id: str, kind: str) -> None:
    """End an account's own rule."""
    await connection.execute(SQL["remove_rule"], account_id, kind)


async def due_counts(connection: Connection, account_id: str | None) -> list[Mapping[str, Any]]:
    """Return how many persons are due by account, kind and rule."""
    if account_id is None:
        await connection.execute(SQL["read_all"])
    return list(await connection.fetch(SQL["due_counts"], account_id))


async def lock_due(connection: Connection, account_id: str | None, after: str, limit: int) -> dict[str, str]:
    """Hold persons that are due; return their accounts by token."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["lock_due"], account_id, after, limit)}


async def rectify(connection: Connection, changes: Sequence[RectifiedRow]) -> None:
    """Replace fields and data keys of persons that are held."""
    columns = [list(column) for column in zip(*(change[:-1] for change in changes), strict=True)]
    fields = [list(column) for column in zip(*(change.fields for change in changes), strict=True)]
    await connection.execute(SQL["rectify"], *columns, *fields)


async def holders(connection: Connection, indexes: Sequence[bytes]) -> dict[tuple[str, bytes], str]:
    """Return the tokens of the persons that have identity indexes, by account and index."""
    return {(row[0], row[1]): row[2] for row in await connection.fetch(SQL["holders"], indexes)}


async def add_notices(connection: Connection, of: Mapping[str, str], kind: str) -> None:
    """Make a notice for each provider that ever received one of some persons; accounts by token in."""
    await connection.execute(SQL["add_notices"], list(of.values()), list(of), kind)


async def open_notices(connection: Connection, limit: int) -> tuple[int, list[Mapping[str, Any]]]:
    """Return how many notices are not done, and the most urgent of them."""
    count = int(await connection.fetchval(SQL["count_open_notices"]))
    return count, list(await connection.fetch(SQL["open_notices"], limit))


async def finish_notices(connection: Connection, done: Mapping[int, str]) -> dict[int, datetime]:
    """Mark notices as done with their evidence; return when, by id."""
    rows = await connection.fetch(SQL["finish_notices"], list(done), list(done.values()))
    return {row[0]: row[1] for row in rows}


async def register(connection: Connection) -> list[Mapping[str, Any]]:
    """Return the register of processors."""
    return list(await connection.fetch(SQL["register"]))


async def objections(connection: Connection) -> list[Mapping[str, Any]]:
    """Return every objection."""
    return list(await connection.fetch(SQL["objections"]))


async def account_counts(connection: Connection) -> list[Mapping[str, Any]]:
    """Return persons and field sets by account and kind."""
    return list(await connection.fetch(SQL["account_counts"]))


async def account_purposes(connection: Connection) -> dict[str, list[str]]:
    """Return the purposes on record, by account."""
    return {row[0]: list(row[1]) for row in await connection.fetch(SQL["account_purposes"])}


async def all_accounts(connection: Connection) -> dict[str, datetime]:
    """Return since when accounts have keys."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["all_accounts"])}


async def measures(connection: Connection) -> Mapping[str, Any]:
    """Return what the database says of its own walls, epochs and log."""
    row: Mapping[str, Any] = await connection.fetchrow(SQL["measures"])
    return row


async def ask_end(connection: Connection, account_id: str, asked_by: str, confirmation: bytes) -> None:
    """Keep that an account is to end."""
    await connection.execute(SQL["ask_end"], account_id, asked_by, confirmation)


async def account_end(connection: Connection, account_id: str) -> Mapping[str, Any] | None:
    """Return how far an account's end is."""
    row: Mapping[str, Any] | None = await connection.fetchrow(SQL["account_end"], account_id)
    return row


async def mark_exported(connection: Connection, account_id: str, began_at: datetime) -> None:
    """Keep that an export of the account, begun at a time, went out whole."""
    await connection.execute(SQL["mark_exported"], account_id, began_at)


async def confirm_end(connection: Connection, account_id: str) -> None:
    """Keep that the end is confirmed."""
    await connection.execute(SQL["confirm_end"], account_id)


async def has_account(connection: Connection, account_id: str) -> bool:
    """Whether an account has keys."""
    return bool(await connection.fetchval(SQL["has_account"], account_id))


async def count_persons(connection: Connection, account_id: str) -> tuple[int, int]:
    """Return how many persons an account has, and how many of it are erased."""
    row = await connection.fetchrow(SQL["count_persons"], account_id)
    return row[0], row[1]


async def lock_some(connection: Connection, account_id: str, limit: int) -> dict[str, str]:
    """Hold some persons of an account; return their accounts by token."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["lock_some"], account_id, limit)}


async def drop_account_keys(connection: Connection, account_id: str) -> None:
    """Delete the keys and secrets of an account."""
    await connection.execute(SQL["drop_account_keys"], account_id)


async def finish_end(connection: Connection, account_id: str, epoch: int) -> None:
    """Keep that nothing of an account opens any more."""
    await connection.execute(SQL["finish_end"], account_id, epoch)


def _by_token(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["token"], []).append(row)
    return found

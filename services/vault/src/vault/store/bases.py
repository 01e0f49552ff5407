"""Legal bases, opt-outs, and the events that tell of their end."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from common.outbox.relay import StoredRecord, outbox_columns
from vault.store.columns import SQL, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.kafka.records import Record
    from common.postgres.pool import Connection


class NewBasis(NamedTuple):
    """A legal basis to record."""

    account_id: str
    token: str
    purpose: str
    kind: str
    attested: bool
    text_digest: str | None
    language: str | None
    source: str | None
    given_at: datetime
    expires_at: datetime | None
    recorded_by: str


class ToldBasisEnd(NamedTuple):
    """A basis that ended, as an event told it."""

    account_id: str
    token: str
    purpose: str
    kind: str
    moment: datetime


class ToldOptOut(NamedTuple):
    """An opt-out, as an event told it."""

    account_id: str
    hash: bytes
    tool: str
    reason: str
    made_at: datetime


async def record_bases(connection: Connection, bases: Sequence[NewBasis]) -> None:
    """Record legal bases."""
    await connection.execute(SQL["record_bases"], *columns_of(bases, 11))


async def withdraw_bases(connection: Connection, told: Sequence[tuple[str, str, str, str]], caller: str) -> None:
    """End bases by (account, token, purpose, kind)."""
    await connection.execute(SQL["withdraw_bases"], *columns_of(told, 4), caller)


async def suppress(connection: Connection, hashes: Sequence[tuple[str, bytes, str, str]]) -> None:
    """Keep opt-outs: (account, hash, tool, reason)."""
    await connection.execute(SQL["suppress"], *columns_of(hashes, 4))


async def withdraw_bases_again(connection: Connection, told: Sequence[ToldBasisEnd]) -> None:
    """End bases that were ended before the database was put back."""
    if told:
        await connection.execute(SQL["withdraw_bases_again"], *columns_of(told, 5))


async def suppress_again(connection: Connection, told: Sequence[ToldOptOut]) -> None:
    """Keep opt-outs that were made before the database was put back."""
    if told:
        await connection.execute(SQL["suppress_again"], *columns_of(told, 5))


async def lift_suppressions(connection: Connection, hashes: Sequence[tuple[str, bytes, str, str]]) -> None:
    """Take opt-outs back."""
    await connection.execute(SQL["lift_suppressions"], *columns_of(hashes, 4)[:2])


async def add_to_outbox(connection: Connection, records: Sequence[Record]) -> list[StoredRecord]:
    """Store events in this transaction; return them with the ids of their rows."""
    if not records:
        return []
    rows = await connection.fetch(SQL["add_to_outbox"], *outbox_columns(records))
    return [StoredRecord(row[0], record) for row, record in zip(rows, records, strict=True)]


async def bases_of_person(connection: Connection, token: str) -> list[Mapping[str, Any]]:
    """Return the legal bases of a person, oldest first."""
    return list(await connection.fetch(SQL["bases_of_person"], token))


async def withdrawn_bases(connection: Connection, tokens: Iterable[str]) -> set[tuple[str, str, str]]:
    """Return (token, purpose, kind) of the bases of persons whose latest was withdrawn."""
    return {(row[0], row[1], row[2]) for row in await connection.fetch(SQL["withdrawn_bases"], list(tokens))}

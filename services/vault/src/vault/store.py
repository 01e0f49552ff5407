"""The vault's rows: each function runs one named query."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from common.contracts.vault import Unsettled
from common.postgres.queries import load_queries
from vault.domain import Access, Instruction, Processor, field_names
from vault.keys.accounts import FIRST_EPOCH, WrappedAccount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.postgres.pool import Connection

SQL = load_queries("vault")
LEDGER_ROWS_MAX = 1000


class RecipientKey(NamedTuple):
    """How a recipient is found: account and blind index of the address."""

    account_id: str
    address_index: bytes


class StoredSubject(NamedTuple):
    """A subject as stored: wrapped data key and sealed fields."""

    token: str
    account_id: str
    epoch: int
    wrapped: bytes
    address: bytes | None = None
    name: bytes | None = None


class NewSubject(NamedTuple):
    """A subject to create."""

    token: str
    account_id: str
    address_index: bytes
    address: bytes
    name: bytes | None
    epoch: int
    wrapped: bytes


class ChangedFields(NamedTuple):
    """New sealed values of a subject; None leaves the stored one."""

    token: str
    address: bytes | None
    name: bytes | None


class Entry(NamedTuple):
    """A ledger row to enter."""

    message_id: str
    account_id: str
    token: str
    fields: int
    legal_basis: str
    instruction_digest: str
    epoch: int
    attempt: int


class Spent(NamedTuple):
    """An instruction whose message was handed over, by a verified receipt."""

    message_id: str
    state: str
    attempt: int | None
    occurred_at: datetime


class Unauthorised(NamedTuple):
    """A record without authority."""

    topic: str
    partition: int
    record_offset: int
    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One disclosure, without personal data."""

    id: str
    asked_at: datetime
    message_id: str
    account_id: str
    recipient_token: str
    provider: str
    fields: list[str]
    purpose: str
    legal_basis: str
    instruction_digest: str
    epoch: int
    attempt: int
    caller: str
    acknowledged_at: datetime | None


async def account_keys(connection: Connection, account_ids: Sequence[str]) -> Mapping[str, WrappedAccount]:
    """Return the wrapped keys of the accounts that have some."""
    return _by_account(await connection.fetch(SQL["account_keys"], account_ids))


async def any_account_keys(connection: Connection) -> Mapping[str, WrappedAccount]:
    """Return the keys of one account, if there is one."""
    return _by_account(await connection.fetch(SQL["any_account_keys"]))


def _by_account(rows: Iterable[Sequence[Any]]) -> Mapping[str, WrappedAccount]:
    accounts: dict[str, WrappedAccount] = {}
    for account_id, epoch, wrapped, index_secret in rows:
        keys = accounts[account_id].keys if account_id in accounts else ()
        accounts[account_id] = WrappedAccount([*keys, (epoch, wrapped)], index_secret)
    return accounts


async def create_account_keys(connection: Connection, accounts: Mapping[str, WrappedAccount]) -> None:
    """Store first keys of accounts; those that have some keep them."""
    keys = [account.keys[0][1] for account in accounts.values()]
    secrets = [account.index_secret for account in accounts.values()]
    await connection.execute(SQL["create_account_keys"], list(accounts), keys, secrets, FIRST_EPOCH)


async def find_subjects(
    connection: Connection, recipients: Sequence[RecipientKey]
) -> Mapping[RecipientKey, StoredSubject]:
    """Return the subjects that exist, by account and blind index."""
    rows = await connection.fetch(SQL["find_subjects"], *_columns(recipients, 2))
    return {
        RecipientKey(account, index): StoredSubject(token, account, epoch, wrapped, address, name)
        for account, index, token, address, name, epoch, wrapped in rows
    }


async def create_subjects(connection: Connection, subjects: Sequence[NewSubject], access: Access) -> set[str]:
    """Create subjects and log the call; return the tokens of those that did not exist."""
    rows = await connection.fetch(SQL["create_subjects"], *_columns(subjects, 7), *_access(access), access.items)
    return {row[0] for row in rows}


async def update_fields(connection: Connection, changes: Sequence[ChangedFields]) -> None:
    """Replace stored fields."""
    await connection.execute(SQL["update_fields"], *_columns(changes, 3))


async def wrapped_keys(connection: Connection, tokens: Iterable[str]) -> Mapping[str, StoredSubject]:
    """Return wrapped data keys by token."""
    return {row[0]: StoredSubject(*row) for row in await connection.fetch(SQL["wrapped_keys"], list(tokens))}


async def wrapped_subjects(connection: Connection, tokens: Iterable[str]) -> Mapping[str, StoredSubject]:
    """Return wrapped data keys and sealed fields by token."""
    return {row[0]: StoredSubject(*row) for row in await connection.fetch(SQL["wrapped_subjects"], list(tokens))}


async def processor(connection: Connection, name: str) -> Processor | None:
    """Return a processor's contract."""
    row = await connection.fetchrow(SQL["processor"], name)
    return row and Processor(row[0], row[1], frozenset(row[2]), row[3], row[4], row[5])


async def replace_processors(connection: Connection, processors: Sequence[Processor]) -> None:
    """Make the register what the file says."""
    rows = [(p.name, p.tool, ",".join(sorted(p.fields)), p.approved, p.country, p.purpose) for p in processors]
    await connection.execute(SQL["replace_processors"], *_columns(rows, 6))


async def enter_disclosures(
    connection: Connection, entries: Sequence[Entry], provider: str, access: Access
) -> set[str]:
    """Commit ledger rows and the call's log row; return the message ids that were entered (rule `ledgerFirst`)."""
    rows = await connection.fetch(
        SQL["enter_disclosures"], *_columns(entries, 8), provider, *_access(access), access.items
    )
    return {row[0] for row in rows}


async def unsettled(connection: Connection, since: datetime, caller: str) -> list[Unsettled]:
    """Return what a caller was given since then for messages that are not spent."""
    rows = await connection.fetch(SQL["unsettled"], since, caller)
    return [Unsettled(message_id=row[0], epoch=row[1], attempt=row[2]) for row in rows]


async def instructions(connection: Connection, message_ids: Sequence[str]) -> Mapping[str, Instruction]:
    """Return what is known of instructions."""
    rows = await connection.fetch(SQL["instructions"], message_ids)
    return {row[0]: Instruction(*row[1:]) for row in rows}


async def spend(connection: Connection, spent: Sequence[Spent]) -> None:
    """Mark instructions spent, each once."""
    await connection.execute(SQL["spend"], *_columns(spent, 4))


async def insert_unauthorised(connection: Connection, records: Sequence[Unauthorised]) -> None:
    """Count records without authority, each once."""
    await connection.execute(SQL["insert_unauthorised"], *_columns(records, 5))


async def log_access(connection: Connection, access: Access, *, answered: int = 0, refused: bool = False) -> None:
    """Log a call that has no other row to write."""
    outcome = "refused" if refused else "answered"
    await connection.execute(SQL["log_access"], *_access(access), outcome, access.items, answered)


async def disclosures_of_message(connection: Connection, message_id: str) -> list[LedgerRow]:
    """Return the ledger of one message, oldest first."""
    rows = await connection.fetch(SQL["disclosures_of_message"], message_id, LEDGER_ROWS_MAX)
    return [
        LedgerRow(
            id=str(row["id"]),
            asked_at=row["asked_at"],
            message_id=row["message_id"],
            account_id=row["account_id"],
            recipient_token=row["token"],
            provider=row["provider"],
            fields=field_names(row["fields"]),
            purpose=row["purpose"],
            legal_basis=row["legal_basis"],
            instruction_digest=row["instruction_digest"],
            epoch=row["epoch"],
            attempt=row["attempt"],
            caller=row["caller"],
            acknowledged_at=row["acknowledged_at"],
        )
        for row in rows
    ]


async def unauthorised_counts(connection: Connection) -> Mapping[str, int]:
    """Return how many records had no authority, by reason."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["unauthorised_counts"])}


def _access(access: Access) -> tuple[str, str, str | None, str | None]:
    return access.caller, access.operation, access.purpose, access.case_id


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Turn rows into the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


async def list_unauthorised(connection: Connection, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the newest records without authority."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(SQL["list_unauthorised"], limit)
    return rows

"""The disclosure ledger and instructions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from common.contracts.vault import Unsettled
from vault.domain import Access, Instruction, field_names
from vault.store.columns import SQL, Blobs, columns_of, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.contracts.vault import DiscloseItem
    from common.postgres.pool import Connection

LEDGER_ROWS_MAX = 1000


class Disclosable(NamedTuple):
    """An item whose ledger row was written: its place in the call from 1, wrapped data key and sealed fields."""

    ordinal: int
    epoch: int
    wrapped: bytes
    fields: Blobs


class Spent(NamedTuple):
    """An instruction whose message was handed over, by a verified receipt."""

    account_id: str
    message_id: str
    state: str
    attempt: int | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One disclosure, without personal data. `hand_over`: the provider acknowledged it, or it may have happened."""

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
    hand_over: Literal["acknowledged", "may-have-happened"]


async def enter_disclosures(
    connection: Connection, items: Sequence[DiscloseItem], fields: int, access: Access
) -> list[Disclosable]:
    """Write ledger rows and the call's log row; return what may be opened once they are committed (`ledgerFirst`)."""
    columns = (
        joined([item.account_id for item in items]),
        joined([item.message_id for item in items]),
        joined([item.token for item in items]),
        joined([item.legal_basis for item in items]),
        joined([item.instruction_digest for item in items]),
        joined([str(item.epoch) for item in items]),
        joined([str(item.attempt) for item in items]),
        joined([item.message_purpose for item in items]),
    )
    caller = (access.caller, access.operation, access.purpose, access.case_id, access.user_id)
    rows = await connection.fetch(SQL["enter_disclosures"], *columns, fields, access.provider, *caller, access.items)
    return [Disclosable(row[0], row[1], row[2], row[3:]) for row in rows]


async def unsettled(connection: Connection, since: datetime, caller: str) -> list[Unsettled]:
    """Return what a caller was given since then for messages that are not spent."""
    rows = await connection.fetch(SQL["unsettled"], since, caller)
    return [Unsettled(message_id=row[0], epoch=row[1], attempt=row[2]) for row in rows]


async def instructions(connection: Connection, items: Sequence[DiscloseItem]) -> Mapping[tuple[str, str], Instruction]:
    """Return what is known of instructions, by account and message."""
    accounts, messages = [item.account_id for item in items], [item.message_id for item in items]
    rows = await connection.fetch(SQL["instructions"], accounts, messages)
    return {(row[0], row[1]): Instruction(*row[2:]) for row in rows}


async def spend(connection: Connection, spent: Sequence[Spent]) -> None:
    """Mark instructions spent, each once."""
    await connection.execute(SQL["spend"], *columns_of(spent, 5))


async def disclosures_of_message(connection: Connection, message_id: str) -> list[LedgerRow]:
    """Return the ledger of one message, oldest first."""
    rows = await connection.fetch(SQL["disclosures_of_message"], message_id, LEDGER_ROWS_MAX)
    return [
        LedgerRow(
            id=f"{row['call_id']}.{row['ordinal']}",
            asked_at=row["at"],
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
            hand_over="may-have-happened" if row["acknowledged_at"] is None else "acknowledged",
        )
        for row in rows
    ]


async def breach_scope(
    connection: Connection, provider: str, since: datetime, until: datetime, *, after: str, limit: int
) -> tuple[tuple[int, int, int], list[tuple[str, str, int, int, datetime, datetime]]]:
    """Return what a provider received between two times.

    Returns:
        Persons, disclosures and field set in all; (account, token, field set, disclosures, first, last) of a page of
        persons, in the order of tokens.
    """
    await connection.execute(SQL["gather_in_memory"])
    rows = await connection.fetch(SQL["breach_scope"], provider, since, until, after, limit)
    persons, disclosures, fields = rows[0][:3]
    return (persons, disclosures, fields), [tuple(row[3:]) for row in rows if row["token"] is not None]

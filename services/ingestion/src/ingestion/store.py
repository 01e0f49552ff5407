"""What the door's database knows: one named query each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import orjson

from common.events.intake import MessageAdmitted
from common.outbox import StoredRecord, outbox_columns
from common.postgres.queries import load_queries
from common.times import parse_rfc3339
from ingestion.domain import Authority, Grant, Inbox

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from common.events import StandingChanged
    from common.events.intake import Instruction
    from common.events.routing import Receipt
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool
    from ingestion.domain import RulesInForce

_Q = load_queries("ingestion")

Key = tuple[str, bytes]
"""Account id and digest of an idempotency key."""


class AdmittedRow(NamedTuple):
    """A message as its row tells it."""

    id: str
    fingerprint: bytes
    content_digest: str
    recipient_token: str
    signed_instruction: str


class NewMessage(NamedTuple):
    """A message that is ready to be admitted, with the record that tells it."""

    row: AdmittedRow
    account_id: str
    idempotency_key: bytes | None
    tool: str
    inbox_id: str
    instruction_digest: str
    reference: str | None
    admitted_at: datetime
    record: Record


@dataclass(frozen=True, slots=True)
class Unauthorised:
    """A record that could not prove where it comes from."""

    topic: str
    partition: int
    offset: int
    event_id: str
    reason: str


async def authorities(pool: Pool, digests: Iterable[bytes], rules: RulesInForce) -> Mapping[bytes, Authority]:
    """Return what stands behind API keys, by their digest; unknown ones are left out."""
    rows = await pool.fetch(_Q["authorities"], list(digests), rules.version, rules.text_digest)
    return {row["digest"]: _authority(row) for row in rows}


def _authority(row: Mapping[str, Any]) -> Authority:
    inboxes = [Inbox(*fields) for fields in orjson.loads(row["inboxes"])]
    return Authority(
        account_id=row["account_id"],
        user_id=row["user_id"],
        role=row["role"],
        user_active=row["active"],
        key_expires_at=row["expires_at"],
        accepts_rules_in_force=row["accepts_rules"],
        standing=row["standing"],
        grants=tuple(
            Grant(id_, frozenset(tools), None if ends is None else datetime.fromtimestamp(ends, UTC), live)
            for id_, tools, ends, live in orjson.loads(row["grants"])
        ),
        inboxes={name: inbox for inbox in inboxes for name in (inbox.id, inbox.address)},
    )


async def known_messages(pool: Pool, keys: Sequence[Key]) -> Mapping[Key, AdmittedRow]:
    """Return the messages that were admitted under these idempotency keys before."""
    if not keys:
        return {}
    rows = await pool.fetch(_Q["known_messages"], [key[0] for key in keys], [key[1] for key in keys])
    return {
        (row["account_id"], row["idempotency_key"]): AdmittedRow(
            row["id"], row["fingerprint"], row["content_digest"], row["recipient_token"], row["signed_instruction"]
        )
        for row in rows
    }


UNTOLD: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.UniqueViolationError,
)
"""After these nobody knows whether `admit` stored its messages; the last comes where an earlier try did meanwhile."""


async def stored_ids(pool: Pool, message_ids: Sequence[str]) -> Collection[str]:
    """Return those of these ids that messages have."""
    return {row["id"] for row in await pool.fetch(_Q["stored_ids"], message_ids)}


async def admit(pool: Pool, messages: Sequence[NewMessage]) -> Mapping[str, StoredRecord]:
    """Store messages with their outbox rows, in one statement; return the stored records by message id.

    A message whose idempotency key was taken meanwhile is missing in the answer. Rows go in the order of their keys, so
    that two processes admitting the same ones wait for each other instead of locking each other out.
    """
    ordered = sorted(messages, key=lambda message: (message.account_id, message.idempotency_key or b""))
    _, keys, values, headers = outbox_columns([message.record for message in ordered])
    (row,) = await pool.fetch(
        _Q["admit"],
        [message.row.id for message in ordered],
        [message.account_id for message in ordered],
        [message.idempotency_key for message in ordered],
        [message.row.fingerprint for message in ordered],
        [message.tool for message in ordered],
        [message.inbox_id for message in ordered],
        [message.row.recipient_token for message in ordered],
        [message.row.content_digest for message in ordered],
        [message.instruction_digest for message in ordered],
        [message.row.signed_instruction for message in ordered],
        [message.reference for message in ordered],
        [message.admitted_at for message in ordered],
        MessageAdmitted.TOPIC,
        keys,
        values,
        headers,
    )
    if row["message_ids"] is not None:
        admitted = set(row["message_ids"])
        ordered = [message for message in ordered if message.row.id in admitted]
    return {
        message.row.id: StoredRecord(outbox_id, message.record)
        for message, outbox_id in zip(ordered, row["outbox_ids"], strict=True)
    }


class LostMessage(NamedTuple):
    """A message as Kafka has it: verified instruction, its digest and text, and the row's own fields."""

    instruction: Instruction
    digest: str
    signed_instruction: str
    idempotency_key: bytes | None
    fingerprint: bytes
    reference: str | None


async def put_back(pool: Pool, lost: Sequence[LostMessage]) -> None:
    """Store messages that this database does not know any more."""
    rows = [
        (
            one.instruction.message_id,
            one.instruction.account_id,
            one.idempotency_key,
            one.fingerprint,
            one.instruction.tool,
            one.instruction.inbox_id,
            one.instruction.recipient_token,
            one.instruction.content_digest,
            one.digest,
            one.signed_instruction,
            one.reference,
            one.instruction.admitted_at,
        )
        for one in lost
    ]
    await pool.execute(_Q["put_back"], *map(list, zip(*rows, strict=True)))


async def record_receipts(pool: Pool, receipts: Sequence[Receipt], unauthorised: Sequence[Unauthorised]) -> None:
    """Store what routing told, and what somebody else said in its name; repetitions change nothing."""
    async with pool.acquire() as connection, connection.transaction():
        if receipts:
            await _record_steps(connection, receipts)
        if unauthorised:
            await _record_unauthorised(connection, unauthorised)


async def _record_steps(connection: Connection, receipts: Sequence[Receipt]) -> None:
    await connection.execute(
        _Q["record_steps"],
        [receipt.message_id for receipt in receipts],
        [receipt.sequence for receipt in receipts],
        [receipt.state for receipt in receipts],
        [receipt.reason for receipt in receipts],
        [receipt.attempt for receipt in receipts],
        [receipt.provider for receipt in receipts],
        [receipt.reply_code for receipt in receipts],
        [parse_rfc3339(receipt.occurred_at) for receipt in receipts],
    )


async def _record_unauthorised(connection: Connection, records: Sequence[Unauthorised]) -> None:
    await connection.execute(
        _Q["record_unauthorised"],
        [record.topic for record in records],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.event_id for record in records],
        [record.reason for record in records],
    )


async def apply_standings(pool: Pool, changes: Sequence[StandingChanged]) -> None:
    """Store standings; an older revision changes nothing."""
    await pool.execute(
        _Q["apply_standings"],
        [change.account_id for change in changes],
        [change.standing for change in changes],
        [change.revision for change in changes],
        [parse_rfc3339(change.since) for change in changes],
    )


async def message(pool: Pool, message_id: UUID) -> Mapping[str, Any] | None:
    """Return one message's row, if there is one."""
    row: Mapping[str, Any] | None = await pool.fetchrow(_Q["message"], message_id)
    return row


async def steps(pool: Pool, message_id: UUID) -> Sequence[Mapping[str, Any]]:
    """Return what routing told about a message, in order."""
    rows: Sequence[Mapping[str, Any]] = await pool.fetch(_Q["steps"], message_id)
    return rows


async def backlog_seconds(pool: Pool) -> float:
    """Return how far routing is behind the door, seconds."""
    return float(await pool.fetchval(_Q["congestion"]))


async def list_unauthorised(pool: Pool, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the newest unauthorised records."""
    rows: Sequence[Mapping[str, Any]] = await pool.fetch(_Q["list_unauthorised"], limit)
    return rows


async def count_unauthorised(pool: Pool) -> dict[str, int]:
    """Return how many unauthorised records there were, by reason."""
    return {row["reason"]: row["records"] for row in await pool.fetch(_Q["count_unauthorised"])}

"""Receipts: each change of a delivery, signed by the batch and stored in the outbox beside the change (rule outbox)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypedDict, Unpack

from common.events.envelope import record_of
from common.events.routing import ReceiptIssued
from common.security.signing import canonical
from common.times import rfc3339
from routing import store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.kafka.records import Record
    from common.outbox import StoredRecord
    from common.postgres.pool import Connection
    from common.security.signing import Signer, Statement
    from routing.domain import Change

Traces = Mapping[str, bytes | None]
"""Trace contexts by message id."""
NO_TRACES: Traces = MappingProxyType({})


async def store_receipts(
    connection: Connection, signer: Signer, changes: Sequence[Change], now: datetime, traces: Traces = NO_TRACES
) -> list[StoredRecord]:
    """Sign and store one receipt per change; return the outbox records, to be relayed after the commit."""
    if not changes:
        return []
    records = signed_records(signer, [receipt(change, now) for change in changes], traces)
    return await store.insert_outbox(connection, records)


async def store_changes(
    connection: Connection, signer: Signer, changes: Sequence[Change], now: datetime, traces: Traces = NO_TRACES
) -> list[StoredRecord]:
    """Write changes of locked deliveries with their receipts, in the caller's transaction."""
    await store.change_deliveries(connection, changes)
    return await store_receipts(connection, signer, changes, now, traces)


def signed_records(signer: Signer, statements: Sequence[Statement], traces: Traces = NO_TRACES) -> list[Record]:
    """Sign receipts as one batch; return their records in the same order."""
    signed = signer.sign_json([canonical(each) for each in statements])
    return [
        record_of(
            ReceiptIssued,
            event_id=ReceiptIssued.id_for(each["message_id"], each["sequence"]),
            key=each["recipient_token"],
            time=each["occurred_at"],
            body=ReceiptIssued.body(one),
            traceparent=traces.get(each["message_id"]),
        )
        for each, one in zip(statements, signed, strict=True)
    ]


def receipt(change: Change, now: datetime) -> Statement:
    """Return the statement of one change."""
    delivery = change.delivery
    return statement(
        message_id=delivery.message_id,
        account_id=delivery.account_id,
        recipient_token=delivery.recipient_token,
        instruction_digest=delivery.instruction_digest,
        content_digest=delivery.content_digest,
        sequence=change.sequence,
        state=change.state.value,
        reason=change.reason,
        attempt=change.attempt,
        provider=change.provider,
        reply_code=change.reply_code,
        reply_digest=change.reply_digest,
        occurred_at=rfc3339(now),
    )


def statement(**fields: Unpack[_ReceiptFields]) -> Statement:
    """Return the statement of a `Receipt` with these fields, which are all of them, without going through its model."""
    return dict(fields)


class _ReceiptFields(TypedDict):
    message_id: str
    account_id: str
    recipient_token: str
    instruction_digest: str
    content_digest: str
    sequence: int
    state: str
    reason: str
    attempt: int | None
    provider: str | None
    reply_code: int | None
    reply_digest: str | None
    occurred_at: str

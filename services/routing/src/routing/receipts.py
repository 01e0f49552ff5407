"""Receipts: each change of a delivery, signed by the batch and stored in the outbox beside the change (rule outbox)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.events.envelope import encode
from common.events.routing import Receipt, ReceiptIssued
from common.times import rfc3339
from routing import store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.outbox import StoredRecord
    from common.postgres.pool import Connection
    from common.security.signing import Signer, Statement
    from routing.domain import Change


async def store_receipts(
    connection: Connection, signer: Signer, changes: Sequence[Change], now: datetime
) -> list[StoredRecord]:
    """Sign and store one receipt per change; return the outbox records, to be relayed after the commit."""
    if not changes:
        return []
    signed = signer.sign([receipt(change, now) for change in changes])
    records = [encode(ReceiptIssued.model_construct(receipt=one)) for one in signed]
    return await store.insert_outbox(connection, records)


async def store_changes(
    connection: Connection, signer: Signer, changes: Sequence[Change], now: datetime
) -> list[StoredRecord]:
    """Write changes of locked deliveries with their receipts, in the caller's transaction."""
    await store.change_deliveries(connection, changes)
    return await store_receipts(connection, signer, changes, now)


def receipt(change: Change, now: datetime) -> Statement:
    """Return the statement of one change."""
    delivery = change.delivery
    return Receipt.model_construct(
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
    ).statement()

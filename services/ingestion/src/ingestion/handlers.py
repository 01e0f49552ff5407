"""What the door learns from other services: receipts of routing, standings of enforcement."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from common.events.routing import Receipt
from common.ids import claimed_id
from common.security.signing import SignatureError
from ingestion import store
from ingestion.store import Unauthorised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.events import StandingChanged
    from common.events.routing import SentReceipt
    from common.kafka.consumer import Received
    from common.postgres.pool import Pool
    from common.security.signing import TrustedKeys

log = logging.getLogger(__name__)


async def on_receipts(batch: Sequence[Received[SentReceipt]], *, pool: Pool, keys: TrustedKeys) -> None:
    """Store the steps that routing signed; keep what it did not sign apart, with the reason."""
    receipts: list[Receipt] = []
    unauthorised: list[Unauthorised] = []
    for received in batch:
        try:
            receipts.append(verified_receipt(received.event, keys))
        except SignatureError as error:
            unauthorised.append(_unauthorised(received, str(error)))
    await store.record_receipts(pool, receipts, unauthorised)
    if unauthorised:
        log.warning("%d receipts were not signed by routing; see GET /v1/unauthorised", len(unauthorised))


def verified_receipt(event: SentReceipt, keys: TrustedKeys) -> Receipt:
    """Return a receipt that routing signed, or raise SignatureError."""
    keys.verify(event.receipt)
    try:
        receipt = event.receipt.read(Receipt)
        UUID(receipt.message_id)
    except ValueError:
        raise SignatureError("receipt: the signed statement has not the shape of a receipt") from None
    return receipt


def _unauthorised(received: Received[SentReceipt], reason: str) -> Unauthorised:
    record = received.record
    named = next((value for name, value in record.headers if name == "ce_id"), None)
    return Unauthorised(record.topic, record.partition, record.offset, claimed_id(named), reason)


async def on_standings(changes: Sequence[StandingChanged], *, pool: Pool) -> None:
    """Store the present standing of accounts; what names no account of ours is of no use here."""
    usable = [change for change in changes if _is_account_id(change.account_id)]
    if len(usable) < len(changes):
        log.warning("%d standings name no account id and are ignored", len(changes) - len(usable))
    if usable:
        await store.apply_standings(pool, usable)


def _is_account_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False

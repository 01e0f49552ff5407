"""What the vault does with events: a receipt of a hand-over spends its instruction (rule `spent`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.events.routing import Receipt, SentReceipt
from common.ids import claimed_id
from common.security.signing import SignatureError, TrustedKeys
from common.times import parse_rfc3339
from vault import store
from vault.scope import scoped
from vault.store import Spent, Unauthorised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.consumer import Received
    from common.postgres.pool import Pool

_SPENDING = frozenset({"handed_over", "delivered"})


async def on_receipt_issued(batch: Sequence[Received[SentReceipt]], pool: Pool, trusted: TrustedKeys) -> None:
    """Spend what was handed over; count what is not signed by routing and believe none of it."""
    spent: dict[str, Spent] = {}
    unauthorised: list[Unauthorised] = []
    for received in batch:
        found = read_receipt(received, trusted)
        if isinstance(found, Unauthorised):
            unauthorised.append(found)
        elif found is not None:
            spent.setdefault(found.message_id, found)
    if not spent and not unauthorised:
        return
    async with scoped(pool, {one.account_id for one in spent.values()}) as connection:
        if spent:
            await store.spend(connection, list(spent.values()))
        if unauthorised:
            await store.insert_unauthorised(connection, unauthorised)


def read_receipt(received: Received[SentReceipt], trusted: TrustedKeys) -> Spent | Unauthorised | None:
    """Return what a receipt spends, None when it spends nothing, or the count of a record without authority."""
    signed = received.event.receipt
    try:
        trusted.verify(signed)
        receipt = signed.read(Receipt)
        occurred_at = parse_rfc3339(receipt.occurred_at)
    except SignatureError as error:
        return _without_authority(received, str(error))
    except (ValidationError, ValueError):
        return _without_authority(received, "receipt: the signed statement is no receipt")
    if receipt.state not in _SPENDING:
        return None
    return Spent(receipt.account_id, receipt.message_id, receipt.state, receipt.attempt, occurred_at)


def _without_authority(received: Received[SentReceipt], reason: str) -> Unauthorised:
    record = received.record
    header = next((content for name, content in record.headers if name == "ce_id" and content), b"")
    return Unauthorised(record.topic, record.partition, record.offset, claimed_id(header), reason)

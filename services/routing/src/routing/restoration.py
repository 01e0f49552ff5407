"""After this database was put back: deliveries know again what they had told, and nothing is begun before.

Kafka has the verdicts (so every delivery can be planned again) and the receipts (so each knows what had become of it).
What neither has are outcomes that were not told yet when the database was lost. The vault knows which messages it had
disclosed: of those, one whose last attempt no receipt accounts for may have been handed over, and goes in doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.events.routing import Receipt, ReceiptIssued
from common.events.screening import SentVerdict
from common.kafka.replay import replay
from common.security.signing import SignatureError
from routing import store
from routing.domain import OPEN_STATES, AttemptResult, Change, DeliveryState
from routing.receipts import store_changes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.contracts.vault import Unsettled
    from common.http.vault import VaultClient
    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.recovery import Recovery
    from common.security.signing import TrustedKeys
    from routing.domain import Delivery
    from routing.handlers import Planner
    from routing.revisions import Revisions

AT_ONCE_MAX = 500
UNKNOWN_OUTCOME = "disclosed before the database was put back, what came of it is not known"
_RESULTS = {
    DeliveryState.HANDED_OVER: AttemptResult.ACCEPTED,
    DeliveryState.DELIVERED: AttemptResult.ACCEPTED,
    DeliveryState.REFUSED: AttemptResult.REFUSED,
    DeliveryState.IN_DOUBT: AttemptResult.DOUBT,
}


@dataclass(frozen=True, slots=True)
class DeliveriesAgain:
    """Brings deliveries to what Kafka and the vault know of them."""

    planner: Planner
    revisions: Revisions
    access: KafkaAccess
    vault: VaultClient
    receipt_keys: TrustedKeys
    provider: str
    client_id: str

    async def __call__(self, recovery: Recovery) -> None:
        """Plan again, recall what was told, hear what was revised, put what nobody knows in doubt."""
        client_id = f"{self.client_id}-recovery"
        await replay(self.access, SentVerdict, recovery.since, self.planner.plan_again, client_id=client_id)
        await replay(self.access, ReceiptIssued, recovery.since, self._recall, client_id=client_id)
        await self.revisions.recover(self.access, recovery.since, client_id)
        unsettled = await self.vault.unsettled(recovery.since)
        for start in range(0, len(unsettled), AT_ONCE_MAX):
            await self._settle(unsettled[start : start + AT_ONCE_MAX], outcomes_known=recovery.outcomes_known)

    async def _recall(self, batch: Sequence[Received[ReceiptIssued]]) -> None:
        receipts = [one for received in batch if (one := self._verified(received.event)) is not None]
        newest: dict[str, Receipt] = {}
        attempts: dict[tuple[str, int], Receipt] = {}
        for receipt in sorted(receipts, key=lambda one: one.sequence):
            newest[receipt.message_id] = receipt
            if receipt.attempt is not None:
                attempts[receipt.message_id, receipt.attempt] = receipt
        highest = dict(sorted(attempts))
        async with self.planner.pool.acquire() as connection, connection.transaction():
            await store.lock_deliveries(connection, newest)
            await store.recall_attempts(connection, [recalled(one, self.provider) for one in attempts.values()])
            await store.recall_states(connection, list(newest.values()))
            await store.recall_attempt_counts(connection, list(highest.items()))

    async def _settle(self, unsettled: Sequence[Unsettled], *, outcomes_known: bool) -> None:
        planner, now = self.planner, self.planner.now()
        async with planner.pool.acquire() as connection, connection.transaction():
            locked = await store.lock_deliveries(connection, [one.message_id for one in unsettled])
            served = [one for one in unsettled if one.message_id in locked]
            await store.recall_epochs(connection, [(one.message_id, one.epoch) for one in served])
            doubtful = [] if outcomes_known else [one for one in served if is_unknown(locked[one.message_id], one)]
            await store.recall_attempts(connection, [unknown(one, self.provider) for one in doubtful])
            await store.recall_attempt_counts(connection, [(one.message_id, one.attempt) for one in doubtful])
            changes = [in_doubt(locked[one.message_id], one, self.provider, now) for one in doubtful]
            stored = await store_changes(connection, planner.signer, changes, now)
        planner.relay.committed(stored)

    def _verified(self, event: ReceiptIssued) -> Receipt | None:
        try:
            self.receipt_keys.verify(event.receipt)
            return Receipt.model_validate(event.receipt.statement)
        except (SignatureError, ValueError):
            return None


def is_unknown(delivery: Delivery, served: Unsettled) -> bool:
    """Whether the vault disclosed for an attempt that the delivery, after all its receipts, knows nothing of."""
    return delivery.state in OPEN_STATES and served.attempt > delivery.attempts


def recalled(receipt: Receipt, provider: str) -> store.RecalledAttempt:
    """Return the attempt that a receipt tells of."""
    assert receipt.attempt is not None
    result = _RESULTS.get(DeliveryState(receipt.state), AttemptResult.LATER)
    told_by = receipt.provider or provider
    return store.RecalledAttempt(
        receipt.message_id, receipt.attempt, 0, told_by, str(result), receipt.reason, receipt.reply_code
    )


def unknown(served: Unsettled, provider: str) -> store.RecalledAttempt:
    """Return the attempt that the vault disclosed for, with an outcome that nobody knows."""
    result = str(AttemptResult.DOUBT)
    return store.RecalledAttempt(
        served.message_id, served.attempt, served.epoch, provider, result, UNKNOWN_OUTCOME, None
    )


def in_doubt(delivery: Delivery, served: Unsettled, provider: str, now: datetime) -> Change:
    """Return the change that leaves a delivery to a person."""
    return Change(
        delivery,
        DeliveryState.IN_DOUBT,
        UNKNOWN_OUTCOME,
        delivery.sequence + 1,
        delivery.round,
        due_at=now,
        attempt=served.attempt,
        provider=provider,
    )

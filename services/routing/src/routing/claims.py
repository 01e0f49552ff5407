"""Claiming: what is due again, and what a lost worker left (rules openIsDoubt, onlyOpenIsDoubt)."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from common.events.envelope import EventError, decode
from common.events.screening import SentVerdict
from common.security.signing import SignatureError
from routing import store
from routing.domain import Change, DeliveryState, initial_state, joined_state
from routing.leases import Leased
from routing.receipts import store_changes
from routing.stopping import Stop, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from common.events.intake import VerifiedInstruction
    from common.events.screening import VerifiedVerdict
    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer
    from routing.dispatcher import Dispatcher
    from routing.handlers import Authority

CLAIMED_AT_ONCE_MAX = 200
_TYPE_HEADER = (("ce_type", SentVerdict.TYPE.encode()),)

UNVERIFIED_PAUSE = timedelta(minutes=10)

log = logging.getLogger(__name__)


class _Stopped(NamedTuple):
    """A leased delivery that is not handed over now: where it goes instead, why, and when it is due there."""

    message_id: str
    state: DeliveryState
    reason: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims due deliveries for the dispatcher, as many as fit into its memory."""

    pool: Pool
    authority: Authority
    signer: Signer
    relay: OutboxRelay
    dispatcher: Dispatcher
    lease_seconds: float
    now: Callable[[], datetime]

    async def step(self) -> None:
        """Claim one batch, and more at once while batches come full."""
        while (room := min(self.dispatcher.room, CLAIMED_AT_ONCE_MAX)) and await store.any_claimable(self.pool):
            asked_at = time.monotonic()
            async with self.pool.acquire() as connection, connection.transaction():
                free, lost = await store.claimable(connection, room)
                stored = await self._doubt(connection, lost) if lost else []
                rows = await store.lease(connection, free, self.lease_seconds) if free else []
                deadline = self.dispatcher.leases.deadline(asked_at)
                found = [self._leased(row, deadline) for row in rows]
                stored += await self._stop(connection, [one for one in found if isinstance(one, _Stopped)])
            self.relay.committed(stored)
            self.dispatcher.take(one for one in found if isinstance(one, Leased))
            if len(free) + len(lost) < room:
                return

    async def _doubt(self, connection: Connection, message_ids: Sequence[str]) -> list[StoredRecord]:
        await store.doubt_open_attempts(connection, message_ids)
        deliveries = await store.lock_deliveries(connection, message_ids)
        results = await store.attempt_results(connection, message_ids)
        now = self.now()
        changes = [
            Change(
                delivery,
                joined_state(list(results[message_id].values())),
                "the worker was lost during the call",
                delivery.sequence + 1,
                delivery.round,
                due_at=now,
                attempt=max(results[message_id]),
            )
            for message_id, delivery in deliveries.items()
        ]
        return await store_changes(connection, self.signer, changes, now)

    async def _stop(self, connection: Connection, refused: Sequence[_Stopped]) -> list[StoredRecord]:
        if not refused:
            return []
        locked = await store.lock_deliveries(connection, [one.message_id for one in refused])
        stops = [Stop(locked[one.message_id], one.state, one.reason, one.due_at) for one in refused]
        return await store_changes(connection, self.signer, await stopped(connection, stops), self.now())

    def _leased(self, row: store.LeasedRow, deadline: float) -> Leased | _Stopped:
        try:
            instruction, verdict = self._verified(row)
        except (EventError, SignatureError) as error:
            log.error("delivery %s is not handed over, its stored record fails: %s", row.message_id, error)  # noqa: TRY400
            reason = f"the stored record fails: {error}"
            if isinstance(error, SignatureError):  # a key that was taken away may be put back
                return _Stopped(row.message_id, DeliveryState.PLANNED, reason, row.leased_at + UNVERIFIED_PAUSE)
            return _Stopped(row.message_id, DeliveryState.WITHHELD, reason, row.leased_at)
        words, said = instruction.instruction, verdict.verdict
        # What may not be handed over stands where it would if it were planned now.
        state, reason = initial_state(
            action=said.action,
            rules=said.rules,
            standing="good",
            not_before=words.not_before,
            not_after=words.not_after,
            now=row.leased_at,
        )
        if state is DeliveryState.HANDING:
            return Leased(
                instruction, verdict, row.epoch, deadline, row.attempts, row.sequence, traceparent=row.traceparent
            )
        if said.action != "allow" and row.revision_reason is not None:
            reason = row.revision_reason
        elif said.action != "allow":
            log.error("delivery %s is not handed over: it was due, and screening said %s", row.message_id, said.action)
        return _Stopped(row.message_id, state, reason, max(row.leased_at, words.not_before))

    def _verified(self, row: store.LeasedRow) -> tuple[VerifiedInstruction, VerifiedVerdict]:
        """Verify the stored record again: a row alone, whoever wrote it, sends nothing."""
        instruction, verdict = self.authority.verify(decode(SentVerdict, row.event, _TYPE_HEADER))
        if instruction.instruction.message_id != row.message_id:
            raise EventError("it is another message's")
        return instruction, self.authority.revised(verdict, row.revision)

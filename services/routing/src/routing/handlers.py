"""The planner: verdicts become deliveries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from common.events.intake import VerifiedInstruction
from common.events.screening import SentVerdict, VerdictRevised, VerifiedVerdict
from common.ids import claimed_id
from common.security.signing import SignatureError, Signed, raised_or
from routing import store
from routing.domain import Change, Delivery, DeliveryState, initial_state
from routing.leases import Leased
from routing.receipts import store_receipts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from common.kafka.consumer import Received
    from common.outbox import OutboxRelay
    from common.postgres.pool import Pool
    from common.security.signing import Signer, TrustedKeys
    from routing.dispatcher import Dispatcher
    from routing.revisions import Revisions

ROOM_WAIT_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Verified:
    """A record whose instruction and verdict were verified here."""

    instruction: VerifiedInstruction
    verdict: VerifiedVerdict
    event: bytes
    traceparent: bytes | None


_Authorised = tuple[VerifiedInstruction, VerifiedVerdict]


@dataclass(frozen=True, slots=True)
class Authority:
    """The published keys that instructions and verdicts must be signed with."""

    instructions: TrustedKeys
    verdicts: TrustedKeys

    def verify(self, event: SentVerdict) -> _Authorised:
        """Return both, verified, or raise SignatureError with the reason."""
        return raised_or(self.verify_all([event])[0])

    def verify_all(self, events: Sequence[SentVerdict]) -> list[_Authorised | SignatureError]:
        """Return for each what `verify` does, or the error that it raises."""
        instructions = VerifiedInstruction.verify_all([event.message for event in events], self.instructions)
        pairs = [
            (event.verdict, instruction)
            for event, instruction in zip(events, instructions, strict=True)
            if not isinstance(instruction, SignatureError)
        ]
        verdicts = VerifiedVerdict.verify_all(pairs, self.verdicts)
        judged = iter(
            verdict if isinstance(verdict, SignatureError) else (instruction, verdict)
            for (_, instruction), verdict in zip(pairs, verdicts, strict=True)
        )
        return [one if isinstance(one, SignatureError) else next(judged) for one in instructions]

    def revised(self, verdict: VerifiedVerdict, revision: str | None) -> VerifiedVerdict:
        """Return the verdict that holds after the newest signed word on it (JSON); SignatureError with the reason."""
        if revision is None:
            return verdict
        try:
            signed = Signed.model_validate_json(revision)
        except ValueError:
            raise SignatureError("revision: the stored one cannot be read") from None
        return verdict.revised(signed, self.verdicts)


@dataclass(frozen=True, slots=True)
class Planner:
    """Stores a delivery per verdict, holds and blocks too, and passes new leases to the dispatcher in memory."""

    pool: Pool
    authority: Authority
    signer: Signer
    relay: OutboxRelay
    dispatcher: Dispatcher
    lease_seconds: float
    now: Callable[[], datetime]

    async def on_verdict_reached(self, batch: Sequence[Received[SentVerdict]]) -> None:
        """Plan a batch; what was planned before is left as it is (rule newOnly).

        What waits or is leased has nothing to tell and is one statement; holds and ends are stored with their receipts.
        """
        verified, unauthorised = self._verify(batch)
        has_room = await self.dispatcher.wait_for_room(len(verified), ROOM_WAIT_SECONDS)
        asked_at = time.monotonic()
        leased = await self._store(verified, unauthorised, lease=has_room)
        deadline = self.dispatcher.leases.deadline(asked_at)
        self.dispatcher.take(
            Leased(one.instruction, one.verdict, epoch=1, deadline=deadline, attempts=0, traceparent=one.traceparent)
            for one in verified
            if one.instruction.instruction.message_id in leased
        )

    async def plan_again(self, batch: Sequence[Received[SentVerdict]]) -> None:
        """Plan what a database that was put back does not know any more, and leave it waiting."""
        verified, _ = self._verify(batch)
        await self._store(verified, [], lease=False)

    async def _store(
        self, verified: Sequence[Verified], unauthorised: Sequence[store.Unauthorised], *, lease: bool
    ) -> set[str]:
        """Return the message ids of what was not planned before and is leased now."""
        now = self.now()
        standings = await store.know_accounts(self.pool, {one.instruction.instruction.account_id for one in verified})
        planned = sorted(_plan(one, standings, now, lease=lease) for one in verified)
        silent, told = [row for row in planned if not row.sequence], [row for row in planned if row.sequence]
        if told or unauthorised:
            await self._store_told(told, unauthorised, now)
        added = await store.insert_deliveries(self.pool, silent, self.lease_seconds) if silent else set()
        return {row.message_id for row in silent if row.state == DeliveryState.HANDING and row.message_id in added}

    async def _store_told(
        self, planned: Sequence[store.PlannedDelivery], unauthorised: Sequence[store.Unauthorised], now: datetime
    ) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await store.insert_unauthorised(connection, unauthorised)
            added = await store.insert_deliveries(connection, planned, self.lease_seconds) if planned else set()
            changes = [_said(row) for row in planned if row.message_id in added]
            traces = {row.message_id: row.traceparent for row in planned}
            stored = await store_receipts(connection, self.signer, changes, now, traces)
        self.relay.committed(stored)

    def _verify(self, batch: Sequence[Received[SentVerdict]]) -> tuple[list[Verified], list[store.Unauthorised]]:
        verified: dict[str, Verified] = {}
        unauthorised = []
        checked = self.authority.verify_all([received.event for received in batch])
        for received, found in zip(batch, checked, strict=True):
            record = received.record
            if isinstance(found, SignatureError):
                event_id = _claimed_id(received.event)
                unauthorised.append(
                    store.Unauthorised(record.topic, record.partition, record.offset, event_id, str(found))
                )
                continue
            instruction, verdict = found
            one = Verified(instruction, verdict, record.value, received.traceparent)
            verified.setdefault(instruction.instruction.message_id, one)
        return list(verified.values()), unauthorised


async def on_screened(
    batch: Sequence[Received[SentVerdict | VerdictRevised]], planner: Planner, revisions: Revisions
) -> None:
    """Plan verdicts, then apply the revisions: one of the same batch stands behind its verdict."""
    if reached := [received for received in batch if _is_reached(received)]:
        await planner.on_verdict_reached(reached)
    if revised := [received for received in batch if _is_revised(received)]:
        await revisions.on_verdict_revised(revised)


def _is_reached(received: Received[Any]) -> TypeGuard[Received[SentVerdict]]:
    return isinstance(received.event, SentVerdict)


def _is_revised(received: Received[Any]) -> TypeGuard[Received[VerdictRevised]]:
    return isinstance(received.event, VerdictRevised)


def _claimed_id(event: SentVerdict) -> str:
    claims = event.message.instruction.claims()
    return "unknown" if claims is None else claimed_id(claims.get("message_id"))


def _plan(one: Verified, standings: dict[str, str], now: datetime, *, lease: bool) -> store.PlannedDelivery:
    instruction, verdict = one.instruction.instruction, one.verdict.verdict
    state, reason = initial_state(
        action=verdict.action,
        rules=verdict.rules,
        standing=standings[instruction.account_id],
        not_before=instruction.not_before,
        not_after=instruction.not_after,
        now=now,
    )
    if state is DeliveryState.HANDING and not lease:
        state = DeliveryState.PLANNED
    return store.PlannedDelivery(
        message_id=instruction.message_id,
        account_id=instruction.account_id,
        recipient_token=instruction.recipient_token,
        tool=instruction.tool,
        instruction_digest=one.instruction.digest,
        content_digest=instruction.content_digest,
        state=str(state),
        reason=reason,
        sequence=0 if state in {DeliveryState.HANDING, DeliveryState.PLANNED} else 1,
        due_at=max(instruction.not_before, now),
        not_after=instruction.not_after,
        duplicates_allowed=instruction.duplicates_allowed,
        admitted_at=instruction.admitted_at,
        event=one.event,
        traceparent=one.traceparent,
    )


def _said(row: store.PlannedDelivery) -> Change:
    state = DeliveryState(row.state)
    delivery = Delivery(
        row.message_id,
        row.account_id,
        row.recipient_token,
        row.instruction_digest,
        row.content_digest,
        state,
        epoch=0,
        round=0,
        sequence=1,
        attempts=0,
        not_after=row.not_after,
    )
    return Change(delivery, state, row.reason, sequence=1, round=0, due_at=row.due_at)

"""What operators decide: each function is one transaction, told to others only after its commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.outbox import StoredRecord
from enforcement import store
from enforcement.domain import ComplaintDecision, Held, Outcome, StandingChange, decide
from enforcement.errors import (
    account_known,
    account_unknown,
    decided_otherwise,
    not_reconciled,
    unknown_complaint,
)
from enforcement.publishing import standing_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from common.events.enforcement import Standing
    from common.outbox import OutboxRelay
    from common.postgres.pool import Connection, Pool
    from enforcement.domain import Clause, StandingDecision
    from enforcement.store import ComplaintRow


@dataclass(frozen=True, slots=True)
class Bench:
    """What a decision needs: the database, the relay that tells of it, the clock."""

    pool: Pool
    relay: OutboxRelay
    now: Callable[[], datetime]
    reconciled: Callable[[], bool] = lambda: True
    """Whether the revisions on Kafka are known: a decision before that could repeat one of their numbers."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A decision as it was stored; `told` is the outbox row, None when the standing was kept."""

    decision: StandingDecision
    revision: int
    told: StoredRecord | None


async def confirm_complaint(bench: Bench, complaint_id: str, asked: Standing, reason: str) -> ComplaintRow:
    """Confirm a complaint, which tightens the account's standing or keeps it; repeated, it gives the first answer."""
    _require_reconciled(bench)
    async with bench.pool.acquire() as connection, connection.transaction():
        row = await _undecided(connection, complaint_id, "confirmed")
        if row.decision is not None:
            return row
        if row.complaint.account_id is None:
            raise account_unknown()
        change = StandingChange(
            row.complaint.account_id, 0, asked, Outcome.KEPT, "person", row.complaint.clause, reason, complaint_id,
            bench.now(),
        )  # fmt: skip
        applied = await _apply(connection, change, may_loosen=False)
        closed = await store.close_complaint(connection, complaint_id, "confirmed", _ending(change, applied))
    _tell(bench.relay, applied)
    return closed


async def dismiss_complaint(bench: Bench, complaint_id: str, reason: str) -> ComplaintRow:
    """Dismiss a complaint: the standing stays as it is; repeated, it gives the first answer."""
    async with bench.pool.acquire() as connection, connection.transaction():
        row = await _undecided(connection, complaint_id, "dismissed")
        if row.decision is not None:
            return row
        return await store.close_complaint(
            connection, complaint_id, "dismissed", ComplaintDecision(bench.now(), reason)
        )


async def assign_complaint(bench: Bench, complaint_id: str, account_id: str) -> ComplaintRow:
    """Say which account a complaint is about; repeated with the same account, it changes nothing."""
    async with bench.pool.acquire() as connection, connection.transaction():
        row = await store.lock_complaint(connection, complaint_id)
        if row is None:
            raise unknown_complaint()
        if not await store.assign_complaint(connection, complaint_id, account_id):
            raise account_known()
    return replace(row, complaint=replace(row.complaint, account_id=account_id))


async def set_standing(
    bench: Bench, account_id: str, asked: Standing, *, clause: Clause | None, reason: str
) -> StandingChange:
    """Set an account's standing to whatever a person asks for, milder or stricter."""
    _require_reconciled(bench)
    change = StandingChange(account_id, 0, asked, Outcome.KEPT, "person", clause, reason, None, bench.now())
    async with bench.pool.acquire() as connection, connection.transaction():
        applied = await _apply(connection, change, may_loosen=True)
    _tell(bench.relay, applied)
    return replace(change, revision=applied.revision, outcome=applied.decision.outcome)


async def _undecided(connection: Connection, complaint_id: str, wanted: str) -> ComplaintRow:
    """Return the locked complaint: undecided, or decided before in the way that is wanted now."""
    row = await store.lock_complaint(connection, complaint_id)
    if row is None:
        raise unknown_complaint()
    if row.complaint.state not in ("received", wanted):
        raise decided_otherwise(row.complaint.state)
    return row


def _require_reconciled(bench: Bench) -> None:
    if not bench.reconciled():
        raise not_reconciled()


async def _apply(connection: Connection, asked: StandingChange, *, may_loosen: bool) -> Applied:
    held, revision = await store.lock_standing(connection, asked.account_id)
    decision = decide(held, asked.standing, asked.decided_by, may_loosen=may_loosen)
    if not decision.is_new_revision:
        await _keep(connection, asked.account_id, held, decision.held)
        return Applied(decision, revision, None)
    change = replace(asked, revision=revision + 1, standing=decision.held.standing, outcome=decision.outcome)
    record = standing_record(change)
    outbox_id = await store.change_standing(connection, change, decision, record)
    return Applied(decision, change.revision, StoredRecord(outbox_id, record))


async def _keep(connection: Connection, account_id: str, before: Held, after: Held) -> None:
    if after.floor != before.floor:
        await store.raise_floor(connection, account_id, after)


def _ending(change: StandingChange, applied: Applied) -> ComplaintDecision:
    return ComplaintDecision(
        decided_at=change.since,
        reason=change.reason,
        asked=change.standing,
        outcome=applied.decision.outcome,
        standing=applied.decision.held.standing,
        revision=applied.revision,
    )


def _tell(relay: OutboxRelay, applied: Applied) -> None:
    if applied.told is not None:
        relay.committed([applied.told])

"""Rows of this service: each function runs one named query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from common.outbox import outbox_columns
from common.postgres.queries import load_queries
from common.times import parse_rfc3339
from enforcement.arf import FeedbackReport
from enforcement.domain import Complaint, ComplaintDecision, Held, Outcome, StandingChange, StandingDecision
from enforcement.errors import ACCOUNT_COMPLAINTS_MAX, ALL_COMPLAINTS_MAX, UNMATCHED_COMPLAINTS_MAX, RevisionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.events import StandingChanged
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool

QUERIES = load_queries("enforcement")


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of a complaint at the door: `id` is None when a bound was reached."""

    id: str | None
    received_at: datetime
    key_reused: bool = False
    account_is_full: bool = False
    all_is_full: bool = False


@dataclass(frozen=True, slots=True)
class ComplaintRow:
    """A complaint with its decision, if there is one."""

    complaint: Complaint
    decision: ComplaintDecision | None


async def insert_complaint(
    pool: Pool, complaint: Complaint, *, idempotency_digest: bytes | None, request_digest: bytes, storing: bool = True
) -> Filed | None:
    """Store a complaint; None when the same key is being stored by another request right now (ask again).

    Not `storing` it only tells what keeps the complaint from being stored; None when nothing does.
    """
    row = await pool.fetchrow(
        QUERIES["insert_complaint"],
        complaint.id,
        complaint.account_id,
        complaint.clause,
        complaint.category,
        complaint.origin,
        complaint.message_id,
        idempotency_digest,
        request_digest,
        complaint.received_at,
        UNMATCHED_COMPLAINTS_MAX if complaint.account_id is None else ACCOUNT_COMPLAINTS_MAX,
        ALL_COMPLAINTS_MAX,
        *_report_columns(complaint.report),
        storing,
        complaint.complainant_token,
    )
    if row["stored_id"] is not None:
        return Filed(complaint.id, complaint.received_at)
    if row["known_id"] is not None:
        reused = row["known_digest"] != request_digest
        return Filed(str(row["known_id"]), row["known_received_at"], key_reused=reused)
    if row["account_is_full"] or row["all_is_full"]:
        return Filed(None, complaint.received_at, False, row["account_is_full"], row["all_is_full"])
    return None


async def list_complaints(
    pool: Pool, *, state: str | None, account_id: str | None, unmatched: bool | None, after: str | None, limit: int
) -> list[ComplaintRow]:
    """Return one page, oldest first."""
    rows = await pool.fetch(QUERIES["list_complaints"], state, account_id, after, limit, unmatched)
    return [_complaint(row) for row in rows]


async def assign_complaint(connection: Connection, complaint_id: str, account_id: str) -> bool:
    """Say which account a complaint is about; return whether that was still open."""
    return await connection.fetchval(QUERIES["assign_complaint"], complaint_id, account_id) is not None


async def lock_complaint(connection: Connection, complaint_id: str) -> ComplaintRow | None:
    """Return a complaint and keep others from deciding it until the transaction ends."""
    row = await connection.fetchrow(QUERIES["lock_complaint"], complaint_id)
    return None if row is None else _complaint(row)


async def lock_standing(connection: Connection, account_id: str) -> tuple[Held, int]:
    """Return what holds and its revision, and keep others from changing it until the transaction ends."""
    row = cast("Any", await connection.fetchrow(QUERIES["lock_standing"], account_id))
    return Held(row["standing"], row["decided_by"], row["floor"]), row["revision"]


async def change_standing(
    connection: Connection, change: StandingChange, decision: StandingDecision, record: Record
) -> int:
    """Write a new revision with its history and its outbox row; return the outbox row's id."""
    ((topic,), (key,), (value,), (headers,)) = outbox_columns([record])
    outbox_id = await connection.fetchval(
        QUERIES["change_standing"],
        change.account_id,
        change.revision,
        change.standing,
        change.decided_by,
        decision.held.floor,
        change.outcome,
        change.clause,
        change.reason,
        change.complaint_id,
        change.since,
        topic,
        key,
        value,
        headers,
    )
    if outbox_id is None:
        raise RevisionError(f"revision {change.revision} does not follow the present one")
    return int(outbox_id)


async def raise_floor(connection: Connection, account_id: str, held: Held) -> None:
    """Remember what a person asked for although the standing stays."""
    await connection.execute(QUERIES["raise_floor"], account_id, held.floor)


async def close_complaint(
    connection: Connection, complaint_id: str, state: str, decision: ComplaintDecision
) -> ComplaintRow:
    """Write how a locked complaint ended."""
    row = await connection.fetchrow(
        QUERIES["close_complaint"],
        complaint_id,
        state,
        decision.decided_at,
        decision.reason,
        decision.asked,
        decision.outcome,
        decision.standing,
        decision.revision,
    )
    return _complaint(row)


async def list_changes(pool: Pool, account_id: str, limit: int) -> list[StandingChange]:
    """Return the newest revisions of an account's standing, newest first."""
    return [_change(row) for row in await pool.fetch(QUERIES["list_changes"], account_id, limit)]


async def lock_publishing(connection: Connection) -> None:
    """Wait until no other copy of this service publishes; held until the transaction ends."""
    await connection.execute(QUERIES["lock_publishing"])


async def present_standings(connection: Connection, account_ids: Sequence[str]) -> list[StandingChange]:
    """Return the newest revision of each account that has one."""
    return [_change(row) for row in await connection.fetch(QUERIES["present_standings"], list(account_ids))]


async def adopt_standings(pool: Pool, told: Sequence[StandingChanged]) -> int:
    """Take over the revisions that are higher than the present ones; return how many."""
    rows = await pool.fetch(
        QUERIES["adopt_standings"],
        [event.account_id for event in told],
        [event.revision for event in told],
        [event.standing for event in told],
        [event.decided_by for event in told],
        [event.clause for event in told],
        [event.reason for event in told],
        [event.complaint_id for event in told],
        [parse_rfc3339(event.since) for event in told],
    )
    return len(rows)


async def revisions(pool: Pool) -> dict[str, int]:
    """Return the present revision of every account that has one."""
    return {row["account_id"]: row["revision"] for row in await pool.fetch(QUERIES["revisions"])}


def _report_columns(report: FeedbackReport | None) -> tuple[Any, ...]:
    if report is None:
        return (None,) * 5
    return report.feedback_type, report.incidents, report.arrived_at, report.sender_domain, report.original_digest


def _report(row: Any) -> FeedbackReport | None:
    if row["feedback_type"] is None:
        return None
    return FeedbackReport(
        feedback_type=row["feedback_type"],
        incidents=row["incidents"],
        arrived_at=row["arrived_at"],
        message_id=_text(row["message_id"]),
        account_id=row["account_id"],
        sender_domain=row["sender_domain"],
        original_digest=row["original_digest"],
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _complaint(row: Any) -> ComplaintRow:
    complaint = Complaint(
        id=str(row["id"]),
        account_id=row["account_id"],
        clause=row["clause"],
        category=row["category"],
        origin=row["origin"],
        message_id=_text(row["message_id"]),
        state=row["state"],
        received_at=row["received_at"],
        report=_report(row),
        complainant_token=row["complainant_token"],
    )
    if row["decided_at"] is None:
        return ComplaintRow(complaint, None)
    outcome = None if row["outcome"] is None else Outcome(row["outcome"])
    decision = ComplaintDecision(
        row["decided_at"], row["decision_reason"], row["asked"], outcome, row["standing"], row["revision"]
    )
    return ComplaintRow(complaint, decision)


def _change(row: Any) -> StandingChange:
    return StandingChange(
        account_id=row["account_id"],
        revision=row["revision"],
        standing=row["standing"],
        outcome=Outcome(row["outcome"]),
        decided_by=row["decided_by"],
        clause=row["clause"],
        reason=row["reason"],
        complaint_id=_text(row["complaint_id"]),
        since=row["since"],
    )

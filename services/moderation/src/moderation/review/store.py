"""Cases, decisions and revisions in this service's database; one named query per function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from common.outbox import StoredRecord, outbox_columns
from common.postgres.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from common.events.screening import VerdictRevision
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signed
    from moderation.review.cases import ReviewDecision

QUERIES = load_queries("moderation.review")


class NewCase(NamedTuple):
    """A message for people, with its sealed content."""

    case_id: UUID
    message_id: str
    kind: str
    account_id: str
    tool: str
    clauses: str
    severity: int
    likeness: str
    recipient_token: str
    instruction_digest: str
    content_digest: str
    capsule: bytes
    content: bytes
    due_at: datetime
    not_after: datetime
    opened_at: datetime


class Decided(NamedTuple):
    """A person's decision as it is stored."""

    round: int
    reviewer: str
    decision: ReviewDecision
    clause: str | None
    reason: str
    decided_at: datetime


async def insert_cases(connection: Connection, cases: Sequence[NewCase]) -> int:
    """Open cases, those that are not open already, and count what they are like; return how many."""
    if not cases:
        return 0
    columns = [list(column) for column in zip(*cases, strict=True)]
    return int(await connection.fetchval(QUERIES["insert_cases"], *columns))


async def claim_case(pool: Pool, reviewer: str, now: datetime, until: datetime) -> UUID | None:
    """Lease the most urgent case to a reviewer."""
    case_id: UUID | None = await pool.fetchval(QUERIES["claim_case"], reviewer, now, until)
    return case_id


async def case_by_id(connection: Connection | Pool, case_id: UUID) -> Mapping[str, Any] | None:
    """Return one case with its verdict, or None."""
    row: Mapping[str, Any] | None = await connection.fetchrow(QUERIES["case_by_id"], case_id)
    return row


async def lock_verdicts(connection: Connection, message_ids: Iterable[str]) -> None:
    """Lock verdicts: nobody else numbers a revision of them until this transaction ends."""
    await connection.execute(QUERIES["lock_verdicts"], list(message_ids))


async def lock_case(connection: Connection, case_id: UUID) -> Mapping[str, Any] | None:
    """Lock one case, and before it the verdict behind it."""
    await connection.execute(QUERIES["lock_verdict_of_case"], case_id)
    row: Mapping[str, Any] | None = await connection.fetchrow(QUERIES["lock_case"], case_id)
    return row


async def decisions_of(connection: Connection, case_id: UUID) -> list[Decided]:
    """Return the decisions on a case, the first one first."""
    return [Decided(*row) for row in await connection.fetch(QUERIES["decisions_of"], case_id)]


async def insert_decision(connection: Connection, case_id: UUID, decided: Decided) -> None:
    """Store a decision on a locked case."""
    await connection.execute(QUERIES["insert_decision"], case_id, *decided)


async def wait_for_second(connection: Connection, case_id: UUID, reviewer: str, due_at: datetime) -> None:
    """Let a locked case wait for another person."""
    await connection.execute(QUERIES["wait_for_second"], case_id, reviewer, due_at)


async def close_case(connection: Connection, case_id: UUID, reviewer: str, now: datetime) -> None:
    """Close a locked case; its content goes."""
    await connection.execute(QUERIES["close_case"], case_id, reviewer, now)


async def give_back(pool: Pool, case_id: UUID, reviewer: str) -> bool:
    """Give a reviewer's claim back; False when he has none."""
    return await pool.fetchval(QUERIES["give_back"], case_id, reviewer) is not None


async def end_cases(pool: Pool, now: datetime) -> int:
    """End cases that nobody needs to decide any more; return how many."""
    return len(await pool.fetch(QUERIES["end_cases"], now))


async def last_revision(connection: Connection, message_id: UUID) -> int:
    """Return the number of the newest word on a message's verdict, 0 when there is none."""
    return int(await connection.fetchval(QUERIES["last_revision"], message_id))


async def insert_revisions(
    connection: Connection, revisions: Sequence[tuple[VerdictRevision, Signed, datetime]]
) -> set[str]:
    """Store signed revisions; return the messages of those that are new."""
    rows = [
        (
            word.message_id,
            word.revision,
            word.account_id,
            word.action,
            word.cause,
            word.signal,
            orjson.dumps(signed.statement).decode(),
            orjson.dumps(signed.proof.__dict__).decode(),
            revised_at,
        )
        for word, signed, revised_at in revisions
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {row["message_id"] for row in await connection.fetch(QUERIES["insert_revisions"], *columns)}


async def insert_outbox(connection: Connection, records: Sequence[Record]) -> list[StoredRecord]:
    """Store records in the outbox; return them with their ids."""
    rows = await connection.fetch(QUERIES["insert_outbox"], *outbox_columns(records))
    return [StoredRecord(row["id"], record) for row, record in zip(rows, records, strict=True)]


async def close_revised(connection: Connection, message_ids: Iterable[str], now: datetime) -> None:
    """Close cases of messages that were decided on elsewhere."""
    await connection.execute(QUERIES["close_revised"], list(message_ids), now)


async def queue_figures(pool: Pool, now: datetime) -> list[Mapping[str, Any]]:
    """Return what waits by clause."""
    return list(await pool.fetch(QUERIES["queue_figures"], now))


async def decided_figures(pool: Pool, since: datetime) -> list[Mapping[str, Any]]:
    """Return what was decided since then, by decision and clause."""
    return list(await pool.fetch(QUERIES["decided_figures"], since))


async def second_looks(pool: Pool, since: datetime) -> list[Mapping[str, Any]]:
    """Return cases that two people decided, newest first."""
    return list(await pool.fetch(QUERIES["second_looks"], since))

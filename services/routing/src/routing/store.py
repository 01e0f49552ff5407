"""The database of routing: functions over a connection, each running one named query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from common.outbox import StoredRecord, outbox_columns
from common.postgres.queries import load_queries
from routing.domain import AttemptResult, Delivery, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from common.events.enforcement import StandingChanged
    from common.events.routing import Receipt
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool
    from routing.domain import Change

QUERIES = load_queries("routing")


class PlannedDelivery(NamedTuple):
    """A row of `deliveries` with its record, as the planner inserts it."""

    message_id: str
    account_id: str
    recipient_token: str
    tool: str
    instruction_digest: str
    content_digest: str
    state: str
    reason: str
    sequence: int
    due_at: datetime
    not_after: datetime
    duplicates_allowed: bool
    admitted_at: datetime
    event: bytes
    traceparent: bytes | None


class Unauthorised(NamedTuple):
    """A record without a valid instruction and verdict: where it stands and why it is refused."""

    topic: str
    partition: int
    offset: int
    event_id: str | None
    reason: str


class RecordedRevision(NamedTuple):
    """A later word of screening on one message; `signed` is its JSON as it came."""

    message_id: str
    instruction_digest: str
    revision: int
    action: str
    reason: str
    signed: str
    applied: bool


class SettledAttempt(NamedTuple):
    """An attempt's outcome as it is stored; the reply is sealed under the message key."""

    message_id: str
    number: int
    result: str
    reason: str
    reply_code: int | None
    reply_sealed: bytes | None


class AcceptedCall(NamedTuple):
    """An accepted call under a lease of this worker; `sequence` is the number of the change that it makes."""

    message_id: str
    epoch: int
    sequence: int
    number: int
    reason: str
    reply_code: int | None
    reply_sealed: bytes | None


class LeasedRow(NamedTuple):
    """A delivery leased to this worker, with its record as it came over Kafka, None where that is gone.

    `revision` is the newest later word of screening (JSON), `leased_at` the database's time.
    """

    message_id: str
    epoch: int
    sequence: int
    attempts: int
    event: bytes | None
    traceparent: bytes | None
    revision: str | None
    revision_reason: str | None
    leased_at: datetime


async def know_accounts(connection: Connection, account_ids: Iterable[str]) -> dict[str, str]:
    """Return the standing of each account, `good` for those never heard of, who get a row."""
    asked = sorted(account_ids)
    standings = {row["account_id"]: row["standing"] for row in await connection.fetch(QUERIES["read_standings"], asked)}
    if unknown := [account_id for account_id in asked if account_id not in standings]:
        await connection.execute(QUERIES["add_accounts"], unknown)
        rows = await connection.fetch(QUERIES["read_standings"], unknown)
        standings |= {row["account_id"]: row["standing"] for row in rows}
    return standings


async def insert_deliveries(
    connection: Connection, planned: Sequence[PlannedDelivery], lease_seconds: float
) -> set[str]:
    """Insert deliveries, ordered by message; return the message ids of those that are new."""
    columns = _columns(planned, len(PlannedDelivery._fields))
    ((added,),) = await connection.fetch(QUERIES["insert_deliveries"], *columns, lease_seconds)
    return set(added)


async def insert_unauthorised(connection: Connection, found: Sequence[Unauthorised]) -> None:
    """Count records without authority."""
    if found:
        await connection.execute(QUERIES["insert_unauthorised"], *_columns(found, len(Unauthorised._fields)))


async def insert_outbox(connection: Connection, records: Sequence[Record]) -> list[StoredRecord]:
    """Store records in the outbox; return them with their ids."""
    if not records:
        return []
    rows = await connection.fetch(QUERIES["insert_outbox"], *outbox_columns(records))
    return [StoredRecord(row["id"], record) for row, record in zip(rows, records, strict=True)]


async def lock_deliveries(connection: Connection, message_ids: Iterable[str]) -> dict[str, Delivery]:
    """Lock deliveries and return them by message id."""
    rows = await connection.fetch(QUERIES["lock_deliveries"], list(message_ids))
    return {delivery.message_id: delivery for delivery in map(_delivery, rows)}


async def record_revisions(connection: Connection, revisions: Sequence[RecordedRevision]) -> set[str]:
    """Record revisions; return the messages of those that are newer than what was known."""
    ordered = sorted(revisions)
    rows = await connection.fetch(QUERIES["record_revisions"], *_columns(ordered, len(RecordedRevision._fields)))
    return {str(row["message_id"]) for row in rows}


async def waits_of(connection: Connection, message_ids: Iterable[str]) -> dict[str, tuple[str, datetime]]:
    """Return for locked deliveries why they are as they are, and when they are due."""
    rows = await connection.fetch(QUERIES["waits_of"], list(message_ids))
    return {str(row["message_id"]): (row["reason"], row["due_at"]) for row in rows}


async def revised_and_waiting(connection: Connection, limit: int) -> list[tuple[Delivery, str, str, datetime]]:
    """Lock waiting deliveries whose revision was not applied yet, with its action and reason, and when they are due."""
    rows = await connection.fetch(QUERIES["revised_and_waiting"], limit)
    return [(_delivery(row), row["action"], row["why"], row["due_at"]) for row in rows]


async def blocked_by_revision(connection: Connection, message_ids: Iterable[str]) -> dict[str, str]:
    """Return for locked deliveries that the newest later word blocks why it does."""
    rows = await connection.fetch(QUERIES["blocked_by_revision"], list(message_ids))
    return {str(row["message_id"]): row["reason"] for row in rows}


async def any_revision_waits(connection: Connection) -> bool:
    """Tell whether a revision was not applied yet."""
    return bool(await connection.fetchval(QUERIES["any_revision_waits"]))


async def settle_revisions(connection: Connection) -> None:
    """Forget blocks that have nothing to stop any more."""
    await connection.execute(QUERIES["settle_revisions"])


async def attempt_results(connection: Connection, message_ids: Iterable[str]) -> dict[str, dict[int, AttemptResult]]:
    """Return the results of all attempts by message id and number, oldest first."""
    results: dict[str, dict[int, AttemptResult]] = {}
    asked = list(message_ids)
    for row in await connection.fetch(QUERIES["attempt_results"], asked) if asked else ():
        results.setdefault(str(row["message_id"]), {})[row["number"]] = AttemptResult(row["result"])
    return results


async def settle_accepted(
    connection: Connection, accepted: Sequence[AcceptedCall], receipts: Sequence[Record]
) -> tuple[set[str], list[StoredRecord]]:
    """Write accepted calls, ordered by message, with their receipts.

    Return the ids of the deliveries that were as this worker remembers them, and their receipts as stored; nothing is
    changed of the others.
    """
    columns = _columns(accepted, len(AcceptedCall._fields))
    (row,) = await connection.fetch(QUERIES["settle_accepted"], *columns, *outbox_columns(receipts))
    moved = set(row["moved"])
    told = [record for call, record in zip(accepted, receipts, strict=True) if call.message_id in moved]
    return moved, [StoredRecord(id_, record) for id_, record in zip(row["stored"], told, strict=True)]


async def settle_attempts(connection: Connection, settled: Sequence[SettledAttempt]) -> set[tuple[str, int]]:
    """Write outcomes; return those that were still open or in doubt."""
    rows = await connection.fetch(QUERIES["settle_attempts"], *_columns(settled, len(SettledAttempt._fields)))
    return {(str(row["message_id"]), row["number"]) for row in rows}


async def change_deliveries(connection: Connection, changes: Sequence[Change]) -> None:
    """Write the next states of locked deliveries."""
    rows = [
        (change.delivery.message_id, change.state, change.reason, change.sequence, change.round, change.due_at)
        for change in changes
    ]
    if rows:
        await connection.execute(QUERIES["change_deliveries"], *_columns(rows, 6))


async def begin_attempts(
    connection: Connection, wanted: Sequence[tuple[str, int, str]], provider: str
) -> dict[str, int]:
    """Open attempts for (message id, epoch, account id); return the attempt numbers of those that may be called."""
    rows = await connection.fetch(QUERIES["begin_attempts"], *_columns(wanted, 3), provider)
    return {row["message_id"]: row["number"] for row in rows}


async def open_attempts_of(
    connection: Connection, held: Sequence[tuple[str, int]]
) -> dict[str, tuple[int, AttemptResult]]:
    """Return attempts without outcome under these (message id, epoch) leases, open or in doubt, by message id.

    The deliveries must be locked.
    """
    rows = await connection.fetch(QUERIES["attempts_of_epochs"], *_columns(held, 2))
    return {str(row["message_id"]): (row["number"], AttemptResult(row["result"])) for row in rows}


class RecalledAttempt(NamedTuple):
    """An attempt as a receipt or the vault's ledger tells it."""

    message_id: str
    number: int
    epoch: int
    provider: str
    result: str
    reason: str
    reply_code: int | None


async def recall_attempts(connection: Connection, recalled: Sequence[RecalledAttempt]) -> None:
    """Store attempts that this database lost; a known outcome stays."""
    if recalled:
        await connection.execute(QUERIES["recall_attempts"], *_columns(recalled, len(RecalledAttempt._fields)))


async def recall_states(connection: Connection, newest: Sequence[Receipt]) -> None:
    """Bring locked deliveries to their newest receipts."""
    rows = [(one.message_id, one.state, one.reason, one.sequence) for one in newest]
    if rows:
        await connection.execute(QUERIES["recall_states"], *_columns(rows, 4))


async def recall_epochs(connection: Connection, served: Sequence[tuple[str, int]]) -> None:
    """Raise epochs to what the vault has served."""
    await connection.execute(QUERIES["recall_epochs"], *_columns(served, 2))


async def recall_attempt_counts(connection: Connection, served: Sequence[tuple[str, int]]) -> None:
    """Raise numbers of attempts to what the vault has served."""
    await connection.execute(QUERIES["recall_attempt_counts"], *_columns(served, 2))


async def standings_of(connection: Connection, account_ids: Iterable[str]) -> dict[str, str]:
    """Return standings, locked against change until the transaction ends."""
    rows = await connection.fetch(QUERIES["standings_of"], list(account_ids))
    return {row["account_id"]: row["standing"] for row in rows}


async def renew_leases(connection: Connection, held: Sequence[tuple[str, int]], lease_seconds: float) -> set[str]:
    """Renew leases by (message id, epoch); return the ids that are still held."""
    rows = await connection.fetch(QUERIES["renew_leases"], *_columns(held, 2), lease_seconds)
    return {str(row["message_id"]) for row in rows}


async def release_leases(connection: Connection, held: Sequence[tuple[str, int]]) -> None:
    """Give leases back for other workers to claim at once."""
    await connection.execute(QUERIES["release_leases"], *_columns(held, 2))


async def any_claimable(connection: Connection) -> bool:
    """Tell whether anything may be claimed."""
    return bool(await connection.fetchval(QUERIES["any_claimable"]))


async def claimable(connection: Connection, limit: int) -> tuple[list[str], list[str]]:
    """Lock what may be claimed; return the ids without and with an open attempt."""
    rows = await connection.fetch(QUERIES["claimable"], limit)
    free = [str(row["message_id"]) for row in rows if not row["has_open"]]
    return free, [str(row["message_id"]) for row in rows if row["has_open"]]


async def doubt_open_attempts(connection: Connection, message_ids: Sequence[str]) -> None:
    """Put open attempts in doubt."""
    await connection.execute(QUERIES["doubt_open_attempts"], message_ids)


async def lease(connection: Connection, message_ids: Sequence[str], lease_seconds: float) -> list[LeasedRow]:
    """Lease locked deliveries under their next epochs."""
    rows = await connection.fetch(QUERIES["lease"], message_ids, lease_seconds)
    return [LeasedRow(str(row["message_id"]), *row[1:]) for row in rows]


async def oldest_due_seconds(pool: Pool) -> float:
    """Return for how long the delivery that was due first has waited to be leased."""
    return float(await pool.fetchval(QUERIES["oldest_due"]))


async def count_doubts(pool: Pool) -> float:
    """Return how many deliveries are in doubt, up to 100,000."""
    return float(await pool.fetchval(QUERIES["count_doubts"]))


class ToSweep(NamedTuple):
    """Which sweeps have anything to do."""

    windows: bool
    standings: bool
    doubts: bool


async def to_sweep(connection: Connection, rounds_max: int) -> ToSweep:
    """Tell which sweeps have anything to do."""
    return ToSweep(*await connection.fetchrow(QUERIES["to_sweep"], rounds_max))


async def ending(connection: Connection, limit: int) -> list[Delivery]:
    """Lock waiting deliveries whose window has ended."""
    return [_delivery(row) for row in await connection.fetch(QUERIES["ending"], limit)]


async def waiting_against_standing(connection: Connection, limit: int) -> list[tuple[Delivery, str, datetime]]:
    """Lock waiting deliveries with the standing that moves them, and when they are due."""
    rows = await connection.fetch(QUERIES["waiting_against_standing"], limit)
    return [(_delivery(row), row["standing"], row["due_at"]) for row in rows]


async def record_standings(connection: Connection, events: Sequence[StandingChanged]) -> set[str]:
    """Record standings by revision; return the accounts whose standing is new."""
    newest = {event.account_id: event for event in sorted(events, key=lambda event: event.revision)}
    rows = [(event.account_id, event.standing, event.revision) for event in newest.values()]
    found = await connection.fetch(QUERIES["record_standings"], *_columns(rows, 3))
    return {row["account_id"] for row in found}


async def put_standings_in_force(connection: Connection) -> list[str]:
    """Mark suspensions and blocks under which no call is open any more; return their accounts."""
    return [row["account_id"] for row in await connection.fetch(QUERIES["put_standings_in_force"])]


async def resendable_doubts(connection: Connection, rounds_max: int, limit: int) -> list[Delivery]:
    """Lock deliveries in doubt that their instruction allows to be sent once more."""
    return [_delivery(row) for row in await connection.fetch(QUERIES["resendable_doubts"], rounds_max, limit)]


async def doubtful_attempt(connection: Connection, message_id: str) -> int | None:
    """Return the number of the newest doubtful attempt of a delivery in doubt."""
    number = await connection.fetchval(QUERIES["doubtful_attempt"], message_id)
    return None if number is None else int(number)


async def ledger(connection: Connection, account_id: str | None) -> dict[str, dict[str, int]]:
    """Return how many deliveries each account has in each state."""
    counts: dict[str, dict[str, int]] = {}
    for row in await connection.fetch(QUERIES["ledger"], account_id):
        counts.setdefault(row["account_id"], {})[row["state"]] = row["deliveries"]
    return counts


async def present_of(connection: Connection, message_ids: Sequence[str]) -> set[str]:
    """Return which of these messages have a delivery."""
    return {str(row["message_id"]) for row in await connection.fetch(QUERIES["present_of"], message_ids)}


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]


def _delivery(row: Any) -> Delivery:
    return Delivery(
        message_id=str(row["message_id"]),
        account_id=row["account_id"],
        recipient_token=row["recipient_token"],
        instruction_digest=row["instruction_digest"],
        content_digest=row["content_digest"],
        state=DeliveryState(row["state"]),
        epoch=row["epoch"],
        round=row["round"],
        sequence=row["sequence"],
        attempts=row["attempts"],
        not_after=row["not_after"],
    )

"""Deliveries, attempts and outcomes as values; what the attempts of a delivery add up to.

The rules named here are those of the hand-over protocol in docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

RETRY_SECONDS_MAX = 3600.0
ATTEMPTS_MAX = 50


class DeliveryState(StrEnum):
    """Where a delivery stands. Every delivery ends in exactly one of the resting states."""

    PLANNED = "planned"
    HANDING = "handing"
    HELD = "held"
    IN_DOUBT = "in_doubt"
    HANDED_OVER = "handed_over"
    DELIVERED = "delivered"
    REFUSED = "refused"
    WITHHELD = "withheld"
    EXPIRED = "expired"


OPEN_STATES = frozenset({DeliveryState.PLANNED, DeliveryState.HANDING, DeliveryState.HELD})

HELD_BY_SCREENING = "screening"
HELD_BY_STANDING = "standing"


class AttemptResult(StrEnum):
    """What became of one attempt. Every provider answer maps to exactly one."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    LATER = "later"
    UNREACHED = "unreached"
    DOUBT = "doubt"


class Reply(NamedTuple):
    """A provider's answer: numeric code, enhanced status code (RFC 3463) if any, and its text."""

    code: int
    enhanced: str | None
    text: str


class Outcome(NamedTuple):
    """The result of one call, with the reply it rests on and a reason free of personal data."""

    result: AttemptResult
    reason: str
    reply: Reply | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """The mutable part of a delivery, as locked in the database. Times are UTC."""

    message_id: str
    account_id: str
    recipient_token: str
    instruction_digest: str
    content_digest: str
    state: DeliveryState
    epoch: int
    round: int
    sequence: int
    attempts: int
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A delivery's next state. `said` changes carry a receipt, which has the number `sequence`."""

    delivery: Delivery
    state: DeliveryState
    reason: str
    sequence: int
    round: int
    due_at: datetime
    attempt: int | None = None
    provider: str | None = None
    reply_code: int | None = None
    reply_digest: str | None = None


def initial_state(
    *, action: str, rules: Sequence[str], standing: str, not_before: datetime, not_after: datetime, now: datetime
) -> tuple[DeliveryState, str]:
    """Return the state in which a delivery is planned, and why: what is final comes before what holds.

    `handing` is the state of what may be handed over at once.
    """
    if action == "allow" and standing not in {"blocked", "suspended"} and not_before <= now < not_after:
        return DeliveryState.HANDING, "planned"
    found = f"{HELD_BY_SCREENING}: {', '.join(rules)}"
    cases = (
        (action == "block", DeliveryState.REFUSED, found),
        (not_after <= now, DeliveryState.EXPIRED, "the validity window ended"),
        (standing == "blocked", DeliveryState.WITHHELD, f"{HELD_BY_STANDING}: blocked"),
        (action != "allow", DeliveryState.HELD, found),
        (standing == "suspended", DeliveryState.HELD, f"{HELD_BY_STANDING}: suspended"),
        (True, DeliveryState.PLANNED, "waits for its validity window"),
    )
    return next((state, reason) for applies, state, reason in cases if applies)


def joined_state(results: Sequence[AttemptResult]) -> DeliveryState:
    """Return what all attempts add up to, oldest first (rule `join`): one accepted call makes it handed over."""
    if AttemptResult.ACCEPTED in results:
        return DeliveryState.HANDED_OVER
    if AttemptResult.OPEN in results:
        return DeliveryState.HANDING
    if AttemptResult.DOUBT in results:
        return DeliveryState.IN_DOUBT
    if results and results[-1] is AttemptResult.REFUSED:
        return DeliveryState.REFUSED
    return DeliveryState.PLANNED


def may_move(present: DeliveryState, to: DeliveryState) -> bool:
    """Tell whether a state may follow another (rule `lattice`): only upwards, callbacks included."""
    if present in OPEN_STATES:
        return True
    if present is DeliveryState.IN_DOUBT:
        return to not in OPEN_STATES and to is not DeliveryState.IN_DOUBT
    return present is DeliveryState.HANDED_OVER and to is DeliveryState.DELIVERED


def settle(
    delivery: Delivery,
    results: Sequence[AttemptResult],
    outcome: Outcome,
    *,
    attempt: int,
    provider: str,
    reply_digest: str | None,
    now: datetime,
    wait_seconds: float,
) -> Change | None:
    """Return the change that an attempt's outcome makes to its delivery, or None when it makes none.

    `results` are those of all attempts with this outcome in its place; `wait_seconds` is the pause before the next try.
    Attempts that did not reach the provider are bounded by the window alone.
    """
    state = joined_state(results)
    reason = outcome.reason
    answered = sum(result is not AttemptResult.UNREACHED for result in results)
    if state is DeliveryState.PLANNED and answered >= ATTEMPTS_MAX:
        state, reason = DeliveryState.EXPIRED, f"{reason}; {ATTEMPTS_MAX} attempts reached the provider"
    known_at_last = delivery.state is DeliveryState.IN_DOUBT and state is DeliveryState.PLANNED
    if delivery.state is DeliveryState.HELD and state is DeliveryState.PLANNED:
        return None
    if state is DeliveryState.HANDING or not (known_at_last or may_move(delivery.state, state)):
        return None
    wait = timedelta(seconds=max(wait_seconds, outcome.retry_after_seconds or 0.0))
    return Change(
        delivery,
        state,
        reason,
        sequence=delivery.sequence + 1,
        round=delivery.round + known_at_last,
        due_at=now + wait,
        attempt=attempt,
        provider=provider,
        reply_code=outcome.reply.code if outcome.reply else None,
        reply_digest=reply_digest,
    )


def stop(
    delivery: Delivery, results: Sequence[AttemptResult], state: DeliveryState, reason: str, due_at: datetime
) -> Change:
    """Return the change that ends or holds an open delivery without a call.

    A delivery with a doubtful attempt rests in doubt instead: "withheld" or "expired" would be untrue of a message that
    the provider may have accepted (rule `join`).
    """
    if AttemptResult.DOUBT in results and state not in OPEN_STATES:
        state, reason = DeliveryState.IN_DOUBT, f"an earlier attempt is in doubt ({reason})"
    return Change(delivery, state, reason, delivery.sequence + 1, delivery.round, due_at=due_at)


def revise(
    delivery: Delivery, results: Sequence[AttemptResult], action: str, reason: str, due_at: datetime
) -> Change | None:
    """Return what a later word of screening does to a delivery; None where it comes too late, or a call may be open.

    A block stops what is leased and not begun: whoever leased it then finds the lease gone when it begins.
    """
    if action == "allow" and delivery.state is DeliveryState.HELD:
        return Change(delivery, DeliveryState.PLANNED, reason, delivery.sequence + 1, delivery.round, due_at=due_at)
    if action == "block" and delivery.state in OPEN_STATES and AttemptResult.OPEN not in results:
        return stop(delivery, results, DeliveryState.REFUSED, reason, due_at)
    return None


def again(delivery: Delivery, reason: str, now: datetime) -> Change:
    """Return the change that sends a delivery in doubt once more, in a new round; earlier doubts stay in the join."""
    return Change(delivery, DeliveryState.PLANNED, reason, delivery.sequence + 1, round=delivery.round + 1, due_at=now)


def backoff_seconds(attempt: int, first_seconds: float, jitter: float) -> float:
    """Return the pause after the n-th attempt: doubling from `first_seconds`, at most an hour; `jitter` in [0, 1)."""
    pause = min(first_seconds * 2.0 ** min(attempt - 1, 20), RETRY_SECONDS_MAX)
    return pause * (0.75 + 0.5 * jitter)

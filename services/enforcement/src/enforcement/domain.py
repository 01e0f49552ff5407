"""Complaints and standing, without any input or output.

Standing is a ladder: good, warned, limited, suspended, blocked. A confirmed complaint only ever climbs; a person may
set any step; a machine never goes below the step that a person last asked for (the *floor*).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from common.events.enforcement import Standing
    from enforcement.arf import FeedbackReport, FeedbackType

Decider = Literal["person", "machine"]
ComplaintState = Literal["received", "confirmed", "dismissed"]
Clause = Literal["R3.a", "R3.b", "R3.c", "R3.d", "R3.e", "R3.f", "R3.g", "R5.1", "R5.2", "R5.3", "R6"]
Origin = Literal["recipient", "third_party", "provider", "account_user", "operator"]
Category = Literal[
    "unsolicited", "phishing", "malware", "fraud", "threat", "harassment", "hate", "sexual_content", "child_safety",
    "illegal_goods", "self_harm", "copyright", "trademark", "privacy", "impersonation", "other",
]  # fmt: skip

LADDER: tuple[Standing, ...] = ("good", "warned", "limited", "suspended", "blocked")


class Outcome(enum.StrEnum):
    """What a decision did to a standing; all but `kept` make a new revision."""

    TIGHTENED = "tightened"
    LOOSENED = "loosened"
    RESTATED = "restated"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Held:
    """What holds now: the standing, who decided it, and the step that a person last asked for."""

    standing: Standing = "good"
    decided_by: Decider = "machine"
    floor: Standing = "good"


@dataclass(frozen=True, slots=True)
class StandingDecision:
    """What shall hold, and what became of the request."""

    held: Held
    outcome: Outcome

    @property
    def is_new_revision(self) -> bool:
        """Whether there is something to tell others."""
        return self.outcome is not Outcome.KEPT


@dataclass(frozen=True, slots=True)
class Complaint:
    """One complaint as it came in; without an account it waits for a person who finds out whose message it is about.

    Of the person who complained it has the token in the vault, if he said who he is.
    """

    id: str
    account_id: str | None
    clause: Clause
    category: Category
    origin: Origin
    message_id: str | None
    state: ComplaintState
    received_at: datetime
    report: FeedbackReport | None = None
    complainant_token: str | None = None


@dataclass(frozen=True, slots=True)
class ComplaintDecision:
    """How a complaint ended. Without `asked` it was dismissed; `standing` and `revision` are what held afterwards."""

    decided_at: datetime
    reason: str
    asked: Standing | None = None
    outcome: Outcome | None = None
    standing: Standing | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class StandingChange:
    """One revision of an account's standing, as it is kept in its history and told to others."""

    account_id: str
    revision: int
    standing: Standing
    outcome: Outcome
    decided_by: Decider
    clause: Clause | None
    reason: str
    complaint_id: str | None
    since: datetime


def grounds(feedback_type: FeedbackType) -> tuple[Clause, Category]:
    """Return the clause and category under which a feedback report of this type is filed."""
    if feedback_type == "fraud":
        return "R5.2", "fraud"
    if feedback_type == "virus":
        return "R5.3", "malware"
    return "R5.1", "unsolicited" if feedback_type == "abuse" else "other"


def severity(standing: Standing) -> int:
    """How far up the ladder a standing is, from 0."""
    return LADDER.index(standing)


def decide(held: Held, asked: Standing, decider: Decider, *, may_loosen: bool) -> StandingDecision:
    """Return what shall hold when `decider` asks for a standing.

    Args:
        held: what holds now.
        asked: the standing asked for.
        decider: a person or a machine.
        may_loosen: False for a confirmed complaint, which never makes a standing milder.
    """
    floor = _floor(held, asked, decider, may_loosen=may_loosen)
    step = severity(asked) - severity(held.standing)
    if step > 0:
        return StandingDecision(Held(asked, decider, floor), Outcome.TIGHTENED)
    if step == 0 and (decider == "person" or held.decided_by == "machine"):
        return StandingDecision(Held(asked, decider, floor), Outcome.RESTATED)
    if step < 0 and may_loosen and severity(asked) >= severity(floor):
        return StandingDecision(Held(asked, decider, floor), Outcome.LOOSENED)
    return StandingDecision(Held(held.standing, held.decided_by, floor), Outcome.KEPT)


def _floor(held: Held, asked: Standing, decider: Decider, *, may_loosen: bool) -> Standing:
    if decider == "machine":
        return held.floor
    return asked if may_loosen else max(held.floor, asked, key=severity)

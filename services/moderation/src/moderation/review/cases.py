"""Cases as values: how urgent one is, who looks twice, how far people agree. No I/O, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CaseKind = Literal["hold", "report"]
ReviewDecision = Literal["release", "block"]

CLOCK_MINUTES: Mapping[str, int] = MappingProxyType(
    {"R3.b": 60, "R3.c": 60, "R3.g": 60, "R5.2": 120, "R5.3": 120, "R3.a": 240, "R3.d": 480, "R3.e": 480, "R3.f": 480}
)
"""Within how many minutes a case of a clause should be decided."""
CLOCK_MINUTES_DEFAULT = 480
SECOND_HOURS = 72
SEVERITY_UNKNOWN = 3
_NAMESPACE = UUID("6c0f1f0e-5d5b-5c7c-9d2f-3f3f0f0c6a11")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Minutes by clause; a case has the shortest of its clauses."""

    minutes: Mapping[str, int] = field(default_factory=lambda: CLOCK_MINUTES)
    default_minutes: int = CLOCK_MINUTES_DEFAULT

    def due_at(self, clauses: Iterable[str], opened_at: datetime, not_after: datetime) -> datetime:
        """Return until when a case should be decided; after its message's window nobody needs to."""
        minutes = min((self.minutes.get(clause, self.default_minutes) for clause in clauses), default=None)
        return min(opened_at + timedelta(minutes=self.default_minutes if minutes is None else minutes), not_after)


def case_id_of(message_id: str, kind: CaseKind) -> UUID:
    """Return the id of a message's case: the same whenever the case is opened again (UUID version 5)."""
    return uuid5(_NAMESPACE, f"{kind}:{message_id}")


def likeness_of(account_id: str, rules: Iterable[str], evidence_digests: Iterable[str]) -> str:
    """Return what messages of an account have in common that were held for the same words, links or files."""
    told = "\n".join([account_id, *sorted(set(rules)), *sorted(set(evidence_digests))])
    return sha256(told.encode()).hexdigest()[:32]


def severity_of(rules: Iterable[str], severities: Mapping[str, int]) -> int:
    """Return the severity of the worst rule; where no rule applied (nothing could be read) it is unknown."""
    return max((severities.get(rule, SEVERITY_UNKNOWN) for rule in rules), default=SEVERITY_UNKNOWN)


def is_sampled(case_id: UUID, share: float) -> bool:
    """Whether a case is looked at by a second person, who does not know it: told by its digest, not by chance."""
    drawn = int.from_bytes(sha256(b"second review\x00" + case_id.bytes).digest()[:8], "big")
    return drawn < share * 2**64


class Agreement(NamedTuple):
    """How far two people agree: share of equal decisions, and Cohen's kappa; None where it cannot be told."""

    pairs: int
    agreed: int
    raw: float | None
    kappa: float | None


def agreement(pairs: Sequence[tuple[ReviewDecision, ReviewDecision]]) -> Agreement:
    """Return raw agreement and Cohen's kappa (Cohen 1960) of first and second decisions.

    Kappa is None when chance alone would agree always: both always said the same one thing.
    """
    count = len(pairs)
    if not count:
        return Agreement(0, 0, None, None)
    agreed = sum(first == second for first, second in pairs)
    by_chance = math.fsum(
        sum(first == one for first, _ in pairs) * sum(second == one for _, second in pairs) / count**2
        for one in ("release", "block")
    )
    raw = agreed / count
    kappa = None if math.isclose(by_chance, 1.0) else (raw - by_chance) / (1 - by_chance)
    return Agreement(count, agreed, raw, kappa)

"""The life of policies: what the states that were signed put in force. No I/O, no clock.

A draft is a file; its own tests run when it is read, a backtest whenever its author likes. From then on it has states:
shadow (counted, does nothing), active, rolled back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from common.events.screening import PolicyState, PolicyStatus
    from moderation.policy.document import Bound

_Z = 2.807
"""Of the normal distribution, for 99.5 % on both sides."""


@dataclass(slots=True)
class PolicyTable:
    """The newest state of each policy by its name; `unusable` names those that this version cannot run."""

    states: dict[str, PolicyState] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)

    def apply(self, state: PolicyState) -> bool:
        """Note a state; False when one that is as new or newer is known."""
        known = self.states.get(state.policy)
        if known is not None and known.revision >= state.revision:
            return False
        self.states[state.policy] = state
        return True

    @property
    def revision(self) -> int:
        """The highest revision of all."""
        return max((state.revision for state in self.states.values()), default=0)

    @property
    def active(self) -> PolicyState | None:
        """What is in force; None: the policy of the file."""
        return self._newest("active")

    @property
    def shadow(self) -> PolicyState | None:
        """What is counted beside it."""
        return self._newest("shadow")

    def refusal(self, state: PolicyState) -> str | None:
        """Return why a state cannot follow now; None when it can."""
        known = self.states.get(state.policy)
        if state.revision != self.revision + 1:
            return f"the revision must be {self.revision + 1}: somebody was faster, look at the policies again"
        if state.status == "active" and (known is None or known.status != "shadow"):
            return "only a policy in shadow becomes active: put it in shadow first"
        if state.status == "rolled-back" and (known is None or known.status == "rolled-back"):
            return "it is neither in shadow nor active"
        return None

    def _newest(self, status: PolicyStatus) -> PolicyState | None:
        found = (s for s in self.states.values() if s.status == status and s.policy not in self.unusable)
        return max(found, key=lambda state: (state.revision, state.policy), default=None)


@dataclass(slots=True)
class Rates:
    """How many of the last messages each bounded rule applied to: this stretch of messages and the one before."""

    stretch_messages: int = 50_000
    _now: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    _before: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    def add(self, asked: Iterable[str], applied: Iterable[str]) -> None:
        """Count one message for the rules that were asked, and those that applied to it."""
        messages, hits = self._now
        for rule in asked:
            messages[rule] = messages.get(rule, 0) + 1
        for rule in applied:
            hits[rule] = hits.get(rule, 0) + 1
        if messages and max(messages.values()) >= self.stretch_messages:
            self._before, self._now = self._now, ({}, {})

    def of(self, rule: str) -> tuple[int, int]:
        """Return the hits and the messages of a rule."""
        return (
            self._now[1].get(rule, 0) + self._before[1].get(rule, 0),
            self._now[0].get(rule, 0) + self._before[0].get(rule, 0),
        )


def outside(bound: Bound, hits: int, messages: int) -> bool:
    """Whether a rule's share of messages has left its bound, with 99.5 % confidence (Wilson's score interval)."""
    if messages < bound.messages_min:
        return False
    low, high = wilson(hits, messages)
    return low > bound.share_max or high < bound.share_min


def wilson(hits: int, messages: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927)."""
    share, square = hits / messages, _Z * _Z
    centre = share + square / (2 * messages)
    reach = _Z * math.sqrt(share * (1 - share) / messages + square / (4 * messages * messages))
    return (centre - reach) / (1 + square / messages), (centre + reach) / (1 + square / messages)


def newest_first(table: PolicyTable) -> Iterator[PolicyState]:
    """Yield all states, the newest first."""
    yield from sorted(table.states.values(), key=lambda state: state.revision, reverse=True)

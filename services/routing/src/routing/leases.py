"""The deliveries that this worker has leased: what it may hand over, under which epoch, until when.

Deadlines are on the worker's own monotonic clock, which is read before the lease is asked for; with a margin they end
before the lease does in the database (rule deadline).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.events.intake import VerifiedInstruction
    from common.events.screening import VerifiedVerdict


@dataclass(slots=True, eq=False)
class Leased:
    """One leased delivery in memory. `sequence` numbers its last receipt; `calling` once its attempt has begun."""

    instruction: VerifiedInstruction
    verdict: VerifiedVerdict
    epoch: int
    deadline: float
    attempts: int
    sequence: int = 0
    calling: bool = False
    traceparent: bytes | None = None
    taken_at: float = field(default_factory=time.monotonic)
    message_id: str = field(init=False)
    account_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.message_id = self.instruction.instruction.message_id
        self.account_id = self.instruction.instruction.account_id


@dataclass(slots=True)
class Leases:
    """All leases held in memory, by message id."""

    lease_seconds: float
    margin_seconds: float
    _held: dict[str, Leased] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._held)

    def deadline(self, asked_at: float) -> float:
        """Return the monotonic time until which a lease asked for at `asked_at` may be relied upon."""
        return asked_at + self.lease_seconds - self.margin_seconds

    def hold(self, leased: Leased) -> None:
        """Remember a lease; a newer epoch replaces an older one."""
        self._held[leased.message_id] = leased

    def drop(self, leased: Leased) -> None:
        """Forget a lease, unless a newer epoch has taken its place."""
        if self._held.get(leased.message_id) is leased:
            del self._held[leased.message_id]

    def holds(self, leased: Leased) -> bool:
        """Tell whether this very lease is still held."""
        return self._held.get(leased.message_id) is leased

    def oldest_seconds(self) -> float:
        """Return for how long the lease that was taken first has been held."""
        first = next(iter(self._held.values()), None)
        return 0.0 if first is None else time.monotonic() - first.taken_at

    def epochs(self) -> list[tuple[str, int]]:
        """Return (message id, epoch) of all that is held."""
        return [(message_id, leased.epoch) for message_id, leased in self._held.items()]

    def ending(self, now: float) -> list[tuple[str, int]]:
        """Return (message id, epoch) of what has used up half of its lease at the monotonic time `now`."""
        soon = now + self.lease_seconds / 2 - self.margin_seconds
        return [(message_id, leased.epoch) for message_id, leased in self._held.items() if leased.deadline <= soon]

    def renewed(self, asked: Iterable[tuple[str, int]], kept: set[str], asked_at: float) -> None:
        """Extend what the database renewed and forget what it did not, except calls that are under way."""
        for message_id, epoch in asked:
            leased = self._held.get(message_id)
            if leased is None or leased.epoch != epoch:
                continue
            if message_id in kept:
                leased.deadline = self.deadline(asked_at)
            elif not leased.calling:
                del self._held[message_id]

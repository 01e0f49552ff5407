"""What readiness and metrics know of one subscription."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import ConsumerRecord


@dataclass(slots=True)
class ConsumerHealth:
    """What readiness and lag reports need of one subscription."""

    group: str
    topic: str
    handled: int = 0
    dead_lettered: int = 0
    deleted_unread: int = 0
    """Records that were gone before the group read them, as seen when this copy took their partitions over."""
    failing_since: float | None = None
    last_error: str | None = None
    assigned: bool = False
    in_hand_since: float | None = None
    oldest_in_hand_at: float | None = None
    """When Kafka stored the oldest record in hand, seconds since 1970."""
    behind_since: float | None = None
    """Since when records have been seen to wait without any being handled (monotonic)."""
    commits_refused: int = 0
    """In a row: since Kafka last took offsets of what was handled."""
    commit_error: str | None = None

    def begin(self, records: Sequence[ConsumerRecord]) -> None:
        """Note the batch in hand; one that comes again after a failure is as old as before."""
        self.in_hand_since = time.monotonic()
        self.oldest_in_hand_at = min((record.timestamp for record in records), default=0) / 1000 or None

    def done(self, records: int) -> None:
        """Note that the batch in hand is handled and committed."""
        self.handled += records
        self.forget()

    def failed(self, error: str) -> bool:
        """Note that the batch in hand will be read again; tell whether that is news."""
        news = self.failing_since is None
        self.last_error, self.in_hand_since = error, None
        self.failing_since = time.monotonic() if self.failing_since is None else self.failing_since
        return news

    def well_again(self) -> None:
        """Note that what failed no longer does."""
        self.failing_since = self.last_error = None

    def forget(self) -> None:
        """Begin anew with other partitions: what was seen of the earlier ones is another copy's matter now."""
        self.failing_since = self.last_error = self.in_hand_since = self.oldest_in_hand_at = self.behind_since = None

    def not_committed(self, error: str) -> None:
        """Note that Kafka did not take the offsets of what was handled."""
        self.commits_refused, self.commit_error = self.commits_refused + 1, error

    def committed(self) -> None:
        """Note that it did."""
        self.commits_refused, self.commit_error = 0, None

    def oldest_seconds(self) -> float:
        """Return how long the oldest record has waited that is known to wait; 0 when none is."""
        if self.oldest_in_hand_at is not None:
            return max(0.0, time.time() - self.oldest_in_hand_at)
        return 0.0 if self.behind_since is None else time.monotonic() - self.behind_since

    def stuck_seconds(self) -> float:
        """Return for how long records have waited while none was handled; 0 when none waits."""
        since = [moment for moment in (self.in_hand_since, self.behind_since) if moment is not None]
        return time.monotonic() - min(since) if since else 0.0

"""What enforcement tells: an account's present standing."""

from __future__ import annotations

from typing import ClassVar, Literal

from common.events.envelope import Event

Standing = Literal["good", "warned", "limited", "suspended", "blocked"]


class StandingChanged(Event):
    """The present standing of an account; of two records the one with the higher `revision` holds.

    `suspended` holds queued messages, `blocked` withholds them, the others let them pass.
    """

    TYPE: ClassVar[str] = "enforcement.standing.changed.v1"
    TOPIC: ClassVar[str] = "enforcement.standings"
    SOURCE: ClassVar[str] = "waystation/enforcement"

    account_id: str
    standing: Standing
    revision: int
    clause: str | None
    reason: str
    complaint_id: str | None
    decided_by: Literal["person", "machine"]
    since: str

    @property
    def event_id(self) -> str:
        """Account and revision."""
        return f"{self.account_id}.{self.revision}"

    @property
    def key(self) -> str:
        """The account's id."""
        return self.account_id

    @property
    def time(self) -> str:
        """Since when it holds."""
        return self.since

"""Fakes that keep what they were asked, in place of Kafka and the vault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.contracts.vault import OpenAnswer
from common.http.problems import TYPE_PREFIX
from common.kafka.publisher import PublishError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.contracts.vault import OpenCall, OpenItem
    from common.kafka.records import Record
    from common.outbox.relay import StoredRecord
    from common.testing.admitted import Admitted


@dataclass(slots=True)
class FakePublisher:
    """Keeps records in the order of publishing; `failing` makes it lose the next so many calls."""

    records: list[Record] = field(default_factory=list)
    failing: int = 0

    async def publish(self, records: Sequence[Record]) -> None:
        if self.failing:
            self.failing -= 1
            raise PublishError(f"Kafka did not acknowledge {len(records)} records: fake")
        self.records += records

    def committed(self, records: Iterable[StoredRecord]) -> None:
        self.records += [stored.record for stored in records]

    def take(self) -> list[Record]:
        taken, self.records = self.records, []
        return taken


@dataclass(slots=True)
class FakeVault:
    """Opens what `knows` told it, for the token and capsule of that message only; keeps every item it was asked for.

    `problems` maps a message id to the slug of the problem that it answers; `outage` is raised instead of any answer.
    """

    problems: dict[str, str] = field(default_factory=dict)
    outage: Exception | None = None
    asked: list[OpenItem] = field(default_factory=list)
    opened: list[OpenCall] = field(default_factory=list)
    calls: int = 0
    _known: dict[str, tuple[str, bytes, bytes]] = field(default_factory=dict)

    def knows(self, messages: Iterable[Admitted]) -> None:
        for message in messages:
            token = message.event.key
            self._known[message.message_id] = (token, message.event.sealed.capsule, message.message_key)

    async def open(self, call: OpenCall) -> Sequence[OpenAnswer]:
        self.calls += 1
        if self.outage is not None:
            raise self.outage
        self.opened.append(call)
        self.asked += call.items
        return [self._answer(item) for item in call.items]

    def _answer(self, item: OpenItem) -> OpenAnswer:
        if item.message_id in self.problems:
            return _problem(self.problems[item.message_id], 410)
        token, capsule, key = self._known.get(item.message_id, ("", b"", b""))
        if token != item.token:
            return _problem("unknown-recipient", 404)
        if capsule != item.capsule:
            return _problem("bad-capsule", 422)
        return OpenAnswer(message_key=key)


def _problem(slug: str, status: int) -> OpenAnswer:
    problem: dict[str, Any] = {"type": TYPE_PREFIX + slug, "status": status, "title": slug, "detail": "fake"}
    return OpenAnswer(problem=problem)

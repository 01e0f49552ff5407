"""Two policies on the same messages: what would newly be stopped or passed, by clause and account; and their texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moderation.domain import Decision
    from moderation.policy.document import Rule
    from moderation.policy.reading import Policy

EXAMPLES_MAX = 20
_STOPPED = ("hold", "block")


class Judged(NamedTuple):
    """What a comparison needs to know of a decision."""

    action: str
    clauses: tuple[str, ...]
    rules: tuple[str, ...]
    shadow: tuple[str, ...] = ()

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """Return this much of a decision."""
        return cls(decision.action, decision.clauses, decision.rules, decision.shadow)


@dataclass(slots=True)
class Backtest:
    """Counts over a slice of messages; `newly_stopped` and `newly_passed` by clause and by account."""

    messages: int = 0
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    newly_stopped: Counter[tuple[str, str]] = field(default_factory=Counter)
    newly_passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    shadow_hits: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, identity: str, account: str, before: Judged, after: Judged) -> list[tuple[str, str]]:
        """Count what two policies decided of one message; return what changed, by clause."""
        self.messages += 1
        self.before[before.action] += 1
        self.after[after.action] += 1
        self.hits.update(after.rules)
        self.shadow_hits.update(after.shadow)
        if (before.action in _STOPPED) == (after.action in _STOPPED):
            return []
        stopped = after.action in _STOPPED
        counts, clauses = (self.newly_stopped, after.clauses) if stopped else (self.newly_passed, before.clauses)
        changed = clauses or ("-",)
        counts.update((clause, account) for clause in changed)
        if identity and len(self.examples) < EXAMPLES_MAX:
            rules = after.rules if stopped else before.rules
            self.examples.append(f"{identity}: {before.action} -> {after.action} ({', '.join(rules)})")
        return [("newly-stopped" if stopped else "newly-passed", clause) for clause in changed]

    def lines(self) -> Iterator[str]:
        """Yield the result for people."""
        yield f"messages      {self.messages:,}"
        for title, counts in (("before", self.before), ("after", self.after)):
            yield f"{title:<13} " + ", ".join(f"{action} {counts[action]:,}" for action in ("allow", "hold", "block"))
        for title, changes in (("newly stopped", self.newly_stopped), ("newly passed", self.newly_passed)):
            yield f"{title:<13} {changes.total():,} by clause and account"
            for (clause, account), count in changes.most_common():
                yield f"  {clause:<5} {account}  {count:,}"
        if self.shadow_hits:
            yield "shadow rules  " + ", ".join(f"{rule} {count:,}" for rule, count in self.shadow_hits.most_common())
        yield from (f"  {line}" for line in self.examples)


def policy_changes(old: Policy, new: Policy) -> Iterator[str]:
    """Yield, for people, which rules, banks, thresholds and signals differ."""
    yield f"{old.name}\n-> {new.name}"
    before, after = ({rule.id: rule for rule in policy.document.rules} for policy in (old, new))
    yield from (
        f"+ rule {name}: {after[name].description} ({after[name].action})" for name in after if name not in before
    )
    yield from (f"- rule {name}: {before[name].description}" for name in before if name not in after)
    for name in before.keys() & after.keys():
        if fields := list(_changed(before[name], after[name])):
            yield f"~ rule {name}: {', '.join(fields)}"
    for section in ("hosts", "signatures", "banks", "definitions", "thresholds", "signals"):
        if getattr(old.document, section) != getattr(new.document, section):
            yield f"~ {section}: {', '.join(_keys(getattr(old.document, section), getattr(new.document, section)))}"


def _changed(old: Rule, new: Rule) -> Iterable[str]:
    return (name for name in type(old).model_fields if getattr(old, name) != getattr(new, name))


def _keys(old: object, new: object) -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return sorted(str(key) for key in {*old, *new} if old.get(key) != new.get(key))
    return ["changed"]

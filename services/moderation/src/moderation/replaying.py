"""Decisions reached again: from the features that a verdict kept (exactly), and from content (features within 1e-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moderation.domain import ENGINE, ERASED, decide, from_ten_thousandths, scores_in_ten_thousandths, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moderation.features import Value
    from moderation.policy.reading import Policy

TOLERANCE = 1e-3
_WEIGHT = {"allow": 0, "hold": 1, "block": 2}
_UNREADABLE = "nothing-readable"


class ReplayError(Exception):
    """A verdict that cannot be replayed here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What came out again, and each difference from what was signed; none is the same decision."""

    differences: tuple[str, ...]


def replay(statement: Mapping[str, Any], policy: Policy) -> Replay:
    """Decide again from a verdict's own features; raise ReplayError when policy or engine are not the verdict's."""
    if statement["policy"] != policy.name:
        raise ReplayError(f"the verdict rests on {statement['policy']}, this is {policy.name}")
    if statement["engine"] != ENGINE:
        raise ReplayError(f"the verdict was reached by {statement['engine']}, this is {ENGINE}")
    if ERASED in statement["degraded"]:
        return Replay(())
    values = values_of(from_ten_thousandths(statement["features"]), policy)
    outcome = decide(values, policy, statement["tool"])
    rules = [policy.document.rules[number] for number in outcome.applied]
    least = "hold" if _UNREADABLE in statement["degraded"] else "allow"
    again = {
        "action": max([least, *outcome.actions], key=_WEIGHT.__getitem__),
        "clauses": sorted({rule.clause for rule in rules}),
        "rules": sorted(rule.id for rule in rules),
        "heads": list(outcome.heads),
        "scores": scores_in_ten_thousandths(outcome.scores),
    }
    return Replay(
        tuple(f"{name}: signed {statement[name]}, now {now}" for name, now in again.items() if statement[name] != now)
    )


def feature_differences(signed: Mapping[str, int | str], now: Mapping[str, Value]) -> Iterator[str]:
    """Yield each feature that content gives otherwise than the verdict kept it, beyond TOLERANCE."""
    then = from_ten_thousandths(signed)
    for name in sorted({*then, *now}):
        one, other = then.get(name, 0), now.get(name, 0)
        if isinstance(one, str) or isinstance(other, str) or one is None or other is None:
            if one != other:
                yield f"{name}: signed {one}, now {other}"
        elif abs(one - other) > TOLERANCE:
            yield f"{name}: signed {one:.4f}, now {other:.4f}"

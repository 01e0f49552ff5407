"""Decisions reached again: from the features that a verdict kept (exactly), and from content (features within 1e-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moderation.domain import ENGINE, ERASED, decide, from_ten_thousandths, scores_in_ten_thousandths, values_of
from moderation.examination import Case
from moderation.screening import BUSY, Screener

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moderation.features import Value
    from moderation.mail import MailParts
    from moderation.policy.document import Rule
    from moderation.policy.reading import Policy
    from moderation.screening import Scorer

TOLERANCE = 1e-3
_BESIDE_CONTENT = (
    "velocity.", "capped.", "clamd.", "rspamd.", "mail.authentication_failed", "links.listed", "attachments.listed",
)  # fmt: skip
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


def content_differences(
    statement: Mapping[str, Any], parts: MailParts, policy: Policy, scorer: Scorer | None
) -> list[str]:
    """Return which features the content gives otherwise than they were kept; scores only by the same model.

    What was known beside the content goes into the scores as it was kept.
    """
    same_model = statement["model"] == (None if scorer is None else scorer.digest) and BUSY not in statement["degraded"]
    screening = Screener(policy, scorer if same_model else None).begin([Case(parts, statement["tool"])])
    kept = statement["features"]
    beside = _beside_content(kept, policy)
    screening.take_as_kept(0, beside, from_ten_thousandths(kept))
    (found,) = screening.decisions()
    if same_model:
        return list(feature_differences(kept, found.features))
    return list(feature_differences(_without_scores(kept), _without_scores(found.features)))


def _without_scores(features: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if not name.startswith("score.")}


def _beside_content(kept: Mapping[str, Any], policy: Policy) -> Iterator[str]:
    """Yield the names of features that content alone does not give, among them matches of what was on a list."""
    yield from (name for name in policy.compiled.names if name.startswith(_BESIDE_CONTENT))
    if "links.listed" in kept:
        yield from (f"match.{rule.id}" for _, rule in policy.link_rules if "listed" in _kinds(rule))
    if "attachments.listed" in kept:
        yield from (f"match.{rule.id}" for _, rule in policy.attachment_rules if "listed" in _kinds(rule))


def _kinds(rule: Rule) -> tuple[str, ...]:
    """Return the kinds of links or files that a rule matches."""
    match = rule.match
    if match is None:
        return ()
    if match.links is not None:
        return match.links.hosts
    return () if match.attachments is None else match.attachments.any


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

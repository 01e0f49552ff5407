"""A decision for people: what applied, which feature met which bound, and what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moderation.domain import values_of
from moderation.features import HEADS
from moderation.policy.expressions import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.domain import Decision, Evidence
    from moderation.examination import Case
    from moderation.mail import MailParts
    from moderation.policy.reading import Policy

_SHOWN_CHARACTERS_MAX = 80
_SCORE_SHOWN = 0.05


def explain(identity: Any, case: Case, decision: Decision, policy: Policy, problem: str | None = None) -> str:
    """Return lines that tell why; what matched is quoted from the message that the reader gave."""
    return "\n".join(_lines(identity, case, decision, policy, problem)) + "\n\n"


def _lines(identity: Any, case: Case, decision: Decision, policy: Policy, problem: str | None) -> Iterator[str]:
    clauses = f"  clauses {', '.join(decision.clauses)}" if decision.clauses else ""
    yield f"{identity if identity is not None else '-'}: {decision.action.upper()}{clauses}"
    if problem:
        yield f"  input: {problem}"
    values = values_of(decision.features, policy)
    rules = {rule.id: (number, rule) for number, rule in enumerate(policy.document.rules)}
    names = dict(enumerate(policy.compiled.names))
    for rule_id in decision.rules:
        number, rule = rules[rule_id]
        yield f"  {rule_id} ({rule.clause}, {rule.action}): {rule.description}"
        node = policy.compiled.stages[case.tool].nodes[number]
        for test, value, outcome in explained(node, values, names):
            if not test.startswith("match."):
                yield f"    {'yes' if outcome else 'unknown' if outcome is None else 'no'}: {test}  (is {value})"
        for item in decision.evidence:
            if item.rule == rule_id:
                yield f"    {item.part} {item.start}-{item.end}: {_quoted(item, case.parts)}"
    scores = [
        f"{head} {score:.2f}" for head, score in zip(HEADS, decision.scores, strict=True) if score >= _SCORE_SHOWN
    ]
    yield f"  scores: {', '.join(scores) or 'none above 0.05'}  tiers: {', '.join(decision.tiers)}"
    for title, names_of in (("unsure", decision.unsure), ("shadow", decision.shadow), ("degraded", decision.degraded)):
        if names_of:
            yield f"  {title}: {', '.join(names_of)}"


def _quoted(item: Evidence, parts: MailParts) -> str:
    text = part_text(item.part, parts)
    if text is None:
        return f"sha256 {item.digest[:16]}"
    found = " ".join(text[item.start : item.end].split())
    return repr(found if len(found) <= _SHOWN_CHARACTERS_MAX else f"{found[:_SHOWN_CHARACTERS_MAX]}...")


def part_text(part: str, parts: MailParts) -> str | None:
    """Return the text of a part by its name in evidence; None for attachments."""
    kind, _, number = part.rstrip("]").partition("[")
    match kind:
        case "subject":
            return parts.subject
        case "text" | "html":
            return parts.texts[int(number)].text
        case "link":
            return parts.links[int(number)].url
        case "filename":
            return parts.attachments[int(number)].filename
    return None

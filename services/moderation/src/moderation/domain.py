"""What follows from a message and a policy: allow, hold or block, with clauses, rules and evidence. No I/O, no clock.

`screen` is the whole of it: `examine` (tier 0: features and places), scores of models if there are any, `judge` (the
policy's signals, thresholds and rules). The service and `waystation screen` both call it.
"""

from __future__ import annotations

import math
import operator
from hashlib import sha256
from itertools import compress, count
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from moderation.examination import NOTHING_CARRIED, NOTHING_KNOWN, TEXTS, Carried, Examination, examine
from moderation.features import FILES_AT, HEADS, LINKS_AT, SCORES_AT, SCORES_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from common.events.intake import Tool
    from common.events.screening import Action
    from moderation.examination import Context
    from moderation.features import Value
    from moderation.mail import MailParts
    from moderation.policy.document import Rule, RuleAction
    from moderation.policy.reading import Policy

ENGINE = "waystation-screening/6"
"""Changes whenever the same content and policy could lead to another decision."""

EVIDENCE_MAX = 32
ERASED = "content-erased"
TIER0 = "tier0"
_NO_PASSAGES: Mapping[str, str] = MappingProxyType({})
_UNREADABLE = "nothing-readable"
_EMPTY = "empty"
_WEIGHT: dict[Action, int] = {"allow": 0, "hold": 1, "block": 2}
_EDGE = 1e-6
_DECIMALS = 4
TEN_THOUSANDTHS = 10_000
_BY_NAME = sorted((head, number) for number, head in enumerate(HEADS))


class Evidence(NamedTuple):
    """Where a rule matched: part of the mail, span, SHA-256 (hexadecimal) of what stands there; never the text.

    Spans count characters in texts, links and names, bytes in attachments.
    """

    rule: str
    part: str
    start: int
    end: int
    digest: str


class Decision(NamedTuple):
    """The outcome of screening one message.

    `degraded` names what could not be evaluated, `unsure` rules that hang on something unknown, `shadow` rules that
    would have applied were they active, `capped` rules that did less than their own because the day's cap is reached.
    `scores` are in the order of HEADS; `features` the values that are not as in an
    empty message, from which the decision is reproduced; `carried` what is kept as hashes for re-judgement.
    """

    action: Action
    clauses: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    degraded: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    tiers: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    capped: tuple[str, ...] = ()
    language: str | None = None
    features: Mapping[str, Value] = MappingProxyType({})
    carried: Carried = NOTHING_CARRIED


def screen(parts: MailParts, policy: Policy, tool: Tool = "email", context: Context = NOTHING_KNOWN) -> Decision:
    """Judge a message by tier 0 alone. Never raises, whatever it holds."""
    return judge(examine(parts, policy, tool, context), policy)


class Opinion(NamedTuple):
    """An examination and, where models have spoken, their probabilities by head.

    `passages` of the normalised text, by head, are evidence for the rules that ask for the head's score.
    """

    found: Examination
    scores: Mapping[str, float] | None = None
    tiers: tuple[str, ...] = ()
    passages: Mapping[str, str] = _NO_PASSAGES


def judge(found: Examination, policy: Policy, scores: Mapping[str, float] | None = None) -> Decision:
    """Return what follows from an examination and, where models have spoken, their probabilities by head."""
    return judge_all([Opinion(found, scores)], policy)[0]


def judge_all(opinions: Sequence[Opinion], policy: Policy) -> list[Decision]:
    """Return what follows from each; step by step, as `examine_all`."""
    outcomes = decide_all([Decidable(of.found.values, of.found.tool, of.scores) for of in opinions], policy)
    features = [kept_features(of.found.values, policy) for of in opinions]
    return [
        _decision(opinion, policy, outcome, kept)
        for opinion, outcome, kept in zip(opinions, outcomes, features, strict=True)
    ]


def _decision(opinion: Opinion, policy: Policy, outcome: Outcome, features: Mapping[str, Value]) -> Decision:
    found = opinion.found
    degraded = found.degraded
    readable = bool(found.places or found.parts.attachments)
    least: Action = "allow"
    if degraded and not readable:
        degraded = degraded | {_UNREADABLE}
        least = "hold"
    elif not readable:
        degraded = {_EMPTY}
    applied = [policy.document.rules[number] for number in outcome.applied]
    return Decision(
        max((least, *outcome.actions), key=_WEIGHT.__getitem__) if applied else least,
        tuple(sorted({rule.clause for rule in applied})) if applied else (),
        tuple(sorted(rule.id for rule in applied)) if applied else (),
        _evidence(found, policy, outcome.applied, opinion.passages) if applied else (),
        tuple(sorted(degraded)) if degraded else (),
        outcome.heads,
        outcome.scores,
        (TIER0, *opinion.tiers),
        outcome.unsure,
        outcome.shadow,
        outcome.capped,
        found.language,
        features,
        found.carried,
    )


def erased_decision() -> Decision:
    """Return what is decided of content that nobody can open any more: a person looks, nothing is handed over."""
    return Decision("hold", degraded=(ERASED,))


class Outcome(NamedTuple):
    """What the compiled policy says of a list of features: numbers of rules, final scores, heads over threshold.

    `actions` are those of the rules that applied, in their order; a rule over its day's cap has another than its own.
    """

    applied: tuple[int, ...]
    actions: tuple[RuleAction, ...]
    shadow: tuple[str, ...]
    unsure: tuple[str, ...]
    capped: tuple[str, ...]
    scores: tuple[float, ...]
    heads: tuple[str, ...]


class Decidable(NamedTuple):
    """Features, the tool, and probabilities of models by head."""

    values: list[Value]
    tool: Tool
    model: Mapping[str, float] | None = None


def decide(values: list[Value], policy: Policy, tool: Tool) -> Outcome:
    """Run signals and rules over features; the scores in `values` are filled in (kept features already have them)."""
    return decide_all([Decidable(values, tool)], policy)[0]


def decide_all(asked: Sequence[Decidable], policy: Policy) -> list[Outcome]:
    """Run signals and rules over the features of each, step by step; the scores in them are filled in."""
    stages = policy.compiled.stages
    for values, tool, model in asked:
        if None in (kept := values[SCORES_AT:SCORES_END]):
            told = _combined(stages[tool].signals(values), policy, model)
            values[SCORES_AT:SCORES_END] = [new if old is None else old for old, new in zip(kept, told, strict=True)]
    met: list[tuple[list[int], list[int]]] = [([], []) for _ in asked]
    for (values, tool, _), (found, unsure) in zip(asked, met, strict=True):
        stages[tool].rules(values, found.append, unsure.append)
    return [_outcome(one, policy, *numbers) for one, numbers in zip(asked, met, strict=True)]


def _outcome(asked: Decidable, policy: Policy, found: Sequence[int], unsure: Sequence[int]) -> Outcome:
    (values, tool, _), rules = asked, policy.document.rules
    over = _over_cap(found, policy, values) if policy.compiled.capped else ()
    effects = dict(_effects(found, policy, over)) if found else {}
    scores, heads = _heads(values[SCORES_AT:SCORES_END], [rules[number] for number in effects], policy, tool)
    return Outcome(
        tuple(effects),
        tuple(effects.values()),
        tuple([rules[number].id for number in found if rules[number].status == "shadow"]),
        tuple([rules[number].id for number in unsure]),
        tuple([rules[number].id for number in over]),
        scores,
        heads,
    )


def _over_cap(found: Iterable[int], policy: Policy, values: list[Value]) -> tuple[int, ...]:
    """Return the rules that apply and whose cap is reached; the feature that tells so stays with these only."""
    capped = policy.compiled.capped
    over = tuple(number for number in found if number in capped and values[capped[number]])
    for number, place in capped.items():
        if number not in over:
            values[place] = 0
    return over


def _effects(found: Iterable[int], policy: Policy, over: Sequence[int]) -> Iterator[tuple[int, RuleAction]]:
    """Yield the active rules that apply with what they do; one over a cap that is then to allow does nothing."""
    for number in found:
        rule = policy.document.rules[number]
        if rule.status != "active":
            continue
        if number not in over:
            yield number, rule.action
        elif rule.cap is not None and rule.cap.then == "hold":
            yield number, "hold"


def _combined(signals: Sequence[float], policy: Policy, model: Mapping[str, float] | None) -> list[float | None]:
    """Return a probability per head: the model's moved by tier 0's evidence, or tier 0's own; unknown without both."""
    compiled = policy.compiled
    if model is not None and len(model) < len(HEADS):
        alone = _combined(signals, policy, None)
        return [
            _moved(model[head], share * log_odds) if head in model else own
            for head, log_odds, share, own in zip(HEADS, signals, compiled.shares, alone, strict=True)
        ]
    if model is not None:
        return [
            _moved(model[head], share * log_odds) if log_odds else round(model[head], _DECIMALS)
            for head, log_odds, share in zip(HEADS, signals, compiled.shares, strict=True)
        ]
    return [
        None if bias is None else _probability(bias + log_odds)
        for log_odds, bias in zip(signals, compiled.biases, strict=True)
    ]


def _moved(probability: float, log_odds: float) -> float:
    bounded = _EDGE if probability < _EDGE else min(probability, 1 - _EDGE)
    return _probability(math.log(bounded / (1 - bounded)) + log_odds)


def _probability(log_odds: float) -> float:
    bounded = -30.0 if log_odds < -30.0 else min(log_odds, 30.0)
    return round(1 / (1 + math.exp(-bounded)), _DECIMALS)


def _heads(
    found: Sequence[Value], applied: Sequence[Rule], policy: Policy, tool: Tool
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return all scores, raised where a rule of a head applies, and the heads over their threshold."""
    scores = [value if isinstance(value, float) else 0.0 for value in found]
    limits = policy.thresholds[tool]
    for rule in applied:
        if rule.head is not None:
            place = HEADS.index(rule.head)
            scores[place] = max(scores[place], limits[place])
    return tuple(scores), tuple(compress(HEADS, map(operator.ge, scores, limits)))


def kept_features(values: Sequence[Value], policy: Policy) -> dict[str, Value]:
    """Return by name what differs from an empty message: enough to decide again."""
    names, template, rules_at = policy.compiled.names, policy.compiled.template, policy.compiled.matched_at
    if values[rules_at:] == template[rules_at:]:  # mostly no rule's pattern matched: seen at once
        values = values[:rules_at]
    return {names[number]: values[number] for number in compress(count(), map(operator.ne, values, template))}


def values_of(features: Mapping[str, Value], policy: Policy) -> list[Value]:
    """Return the list behind kept features; names that this policy does not have are left out."""
    values = list(policy.compiled.template)
    for number, name in enumerate(policy.compiled.names):
        if name in features:
            values[number] = features[name]
    return values


def in_ten_thousandths(features: Mapping[str, Value]) -> dict[str, int | str]:
    """Return features as a statement holds them; unknown ones are left out (they are unknown in an empty message)."""
    return {
        name: value if isinstance(value, str) else round(value * TEN_THOUSANDTHS)
        for name, value in sorted(features.items())
        if value is not None
    }


def from_ten_thousandths(features: Mapping[str, int | str]) -> dict[str, Value]:
    """Return features as the engine reads them."""
    return {name: value if isinstance(value, str) else value / TEN_THOUSANDTHS for name, value in features.items()}


def scores_in_ten_thousandths(scores: Sequence[float]) -> dict[str, int]:
    """Return by head, in the order of their names, the scores that are not nought."""
    whole = [round(score * TEN_THOUSANDTHS) for score in scores]
    return {head: score for head, number in _BY_NAME if number < len(whole) and (score := whole[number])}


def _evidence(
    found: Examination, policy: Policy, applied: Sequence[int], passages: Mapping[str, str]
) -> tuple[Evidence, ...]:
    evidence = [item for number in applied for item in _evidence_of(found, policy, number)]
    evidence += [item for number in applied for item in _evidence_of_scores(found, policy, number, passages)]
    unique = list(dict.fromkeys(evidence))[:EVIDENCE_MAX]
    return tuple(sorted(unique, key=lambda item: (item.rule, item.part, item.start)))


def _evidence_of(found: Examination, policy: Policy, number: int) -> Iterator[Evidence]:
    rule, compiled = policy.document.rules[number], policy.compiled
    asked = compiled.asked.get(number, frozenset())
    hits = list(found.rule_hits.get(number, ()))
    for bank, bank_hits in found.bank_hits.items():
        if compiled.banks_at + bank in asked:
            hits += bank_hits
    for place, hit in hits:
        start, end = place.normal.byte_span(hit.start, hit.end)
        yield _evidence_item(rule, place.name, start, end, _utf8(place.normal.source[start:end]))
    for place in dict.fromkeys([*found.rule_links.get(number, ()), *_links_asked(found, asked)]):
        url = found.parts.links[place].url
        yield _evidence_item(rule, f"link[{place}]", 0, len(url), _utf8(url))
    kinds = rule.match.attachments.any if rule.match and rule.match.attachments else ()
    for part, finding in found.files:
        if finding.kind in kinds or FILES_AT[finding.kind] in asked:
            yield _evidence_item(rule, part, finding.start, finding.end, finding.matched)


def _evidence_of_scores(
    found: Examination, policy: Policy, number: int, passages: Mapping[str, str]
) -> Iterator[Evidence]:
    asked = policy.compiled.asked.get(number, frozenset())
    for head, passage in passages.items():
        if SCORES_AT + HEADS.index(head) not in asked:
            continue
        for place in found.places:
            at = place.normal.text.find(passage) if place.kind in TEXTS else -1
            if at >= 0:
                start, end = place.normal.span(at, at + len(passage))
                rule = policy.document.rules[number]
                yield _evidence_item(rule, place.name, start, end, _utf8(place.normal.source[start:end]))
                break


def _links_asked(found: Examination, asked: frozenset[int]) -> Iterator[int]:
    for place, kinds in enumerate(found.kinds):
        if any(LINKS_AT[kind] in asked for kind in kinds):
            yield place


def _evidence_item(rule: Rule, part: str, start: int, end: int, matched: bytes) -> Evidence:
    return Evidence(rule.id, part, start, end, sha256(matched).hexdigest())


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")

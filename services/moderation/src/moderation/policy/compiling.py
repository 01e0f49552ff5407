"""Rules and signals as Python functions: generated source over a list of features, from nodes of a closed kind only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from moderation.features import FEATURES, HEADS, INDEX, Feature
from moderation.policy.expressions import (
    Comparison,
    ExpressionError,
    Group,
    Node,
    Vocabulary,
    features_of,
    nullable,
    parse,
    python,
    refuse_large,
    unknown_and,
    unknown_not,
    unknown_or,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moderation.features import Value
    from moderation.policy.document import PolicyDocument, Rule, RuleTool
    from moderation.policy.steps import Steps

_OPEN_MAX = 16
TOOLS: tuple[RuleTool, ...] = ("email", "telephony", "widget", "form")
_WORDS = {
    "unknown_and": unknown_and,
    "unknown_or": unknown_or,
    "unknown_not": unknown_not,
    "__builtins__": {"any": any},
}


class PlacedError(ValueError):
    """Something in the document is wrong; `place` is the way to it."""

    def __init__(self, place: tuple[str | int, ...], reason: str, column: int = 0) -> None:
        super().__init__(reason)
        self.place = place
        self.column = column


@dataclass(frozen=True, slots=True)
class Stage:
    """All rules for one tool: `rules(values, applies, unsure)` calls back with their numbers, `signals` gives log-odds.

    `nodes` keeps each rule's predicate for explanations and the second evaluator.
    """

    rules: Callable[[list[Value], Callable[[int], None], Callable[[int], None]], None]
    signals: Callable[[list[Value]], tuple[float, ...]]
    nodes: Mapping[int, Node]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the engine runs, by tool; `names` are the features in the order of the list, the policy's own at its end.

    `capped` leads from a rule's number to the feature that tells that its day's cap is reached. `shares` and `biases`
    are those of the signals, by head.
    """

    stages: Mapping[RuleTool, Stage]
    names: tuple[str, ...]
    template: list[Value]
    banks_at: int
    matched_at: int
    capped: Mapping[int, int]
    asked: Mapping[int, frozenset[int]]
    heads_with_signals: frozenset[str]
    shares: tuple[float, ...]
    biases: tuple[float | None, ...]


def compiling(document: PolicyDocument) -> Steps[Compiled]:
    """Compile rules and signals for each tool; raise PlacedError for what is wrong in an expression."""
    banks_at = len(FEATURES)
    matched_at = banks_at + len(document.banks)
    own = [Feature(f"bank.{name}", "number", unknown=False, meaning="") for name in document.banks]
    own += [Feature(f"match.{rule.id}", "number", unknown=False, meaning="") for rule in document.rules]
    with_cap = [number for number, rule in enumerate(document.rules) if rule.cap is not None]
    capped = {number: banks_at + len(own) + place for place, number in enumerate(with_cap)}
    own += [Feature(f"capped.{document.rules[n].id}", "number", unknown=False, meaning="") for n in with_cap]
    features = {**{f.name: (n, f) for n, f in enumerate((*FEATURES, *own))}}
    stages: dict[RuleTool, Stage] = {}
    asked: dict[int, frozenset[int]] = {}
    for tool in TOOLS:
        nodes = _rule_nodes(document, tool, features, matched_at)
        asked |= {number: features_of(node) for number, node in nodes.items()}
        yield
        rules = _rules_function(nodes, matched_at)
        yield
        stages[tool] = Stage(rules, _signals_function(document, tool, features), nodes)
        yield
    return Compiled(
        stages,
        tuple(features),
        [None if feature.unknown else 0 for _, feature in features.values()],
        banks_at,
        matched_at,
        capped,
        asked,
        frozenset(document.signals),
        shares=tuple(of.share if (of := document.signals.get(head)) else 0.0 for head in HEADS),
        biases=tuple(of.bias if (of := document.signals.get(head)) else None for head in HEADS),
    )


class _Definitions:
    """Named expressions, each parsed where it is used; a circle is an error."""

    def __init__(self, document: PolicyDocument, tool: RuleTool, features: Mapping[str, tuple[int, Feature]]) -> None:
        self._texts = document.definitions
        self._open: list[str] = []
        self._done: dict[str, Node] = {}
        thresholds: dict[str, float] = {head: document.threshold(head, tool) for head in HEADS}
        self.vocabulary = Vocabulary(features, thresholds, self.get)

    def get(self, name: str) -> Node | None:
        if name not in self._texts:
            return None
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise PlacedError(("definitions", name), f"definitions in a circle: {circle}")
        if name not in self._done:
            if len(self._open) >= _OPEN_MAX:
                reason = f"more than {_OPEN_MAX} definitions in one another, each before the one that it names"
                raise PlacedError(("definitions", name), reason)
            self._open.append(name)
            self._done[name] = self.parse(self._texts[name], ("definitions", name))
            self._open.pop()
        return self._done[name]

    def parse(self, text: str, place: tuple[str | int, ...]) -> Node:
        try:
            node = parse(text, self.vocabulary)
            refuse_large(node)
        except ExpressionError as error:
            raise PlacedError(place, str(error), error.column) from None
        return node


def _rule_nodes(
    document: PolicyDocument, tool: RuleTool, features: Mapping[str, tuple[int, Feature]], matched_at: int
) -> dict[int, Node]:
    definitions = _Definitions(document, tool, features)
    for name in document.definitions:
        definitions.get(name)
    nodes: dict[int, Node] = {}
    for number, rule in enumerate(document.rules):
        if rule.status == "draft":
            continue
        node = _rule_node(rule, number, definitions, matched_at)
        if tool in rule.tools:
            nodes[number] = node
    return nodes


def _rule_node(rule: Rule, number: int, definitions: _Definitions, matched_at: int) -> Node:
    matched = _matched(number, matched_at)
    if rule.when is None:
        return matched
    when = definitions.parse(rule.when, ("rules", number, "when"))
    return when if rule.match is None else Group("and", (matched, when))


def _matched(number: int, matched_at: int) -> Node:
    return Comparison(matched_at + number, unknown=False, operator=">", constant=0)


def _rules_function(nodes: Mapping[int, Node], matched_at: int) -> Any:
    """Return the rules in their order; neighbours that need a match are passed over together where none has one."""
    lines = ["def run(f, applies, unsure):", "    pass"]
    for need_match, together in groupby(nodes.items(), key=lambda item: _needs_match(item[0], item[1], matched_at)):
        rules = dict(together)
        if need_match:
            lines.append(f"    if any(f[{matched_at + min(rules)}:{matched_at + max(rules) + 1}]):")
        indent = "        " if need_match else "    "
        lines += [indent + line for number, node in rules.items() for line in _rule_lines(number, node)]
    return _function(lines)


def _needs_match(number: int, node: Node, matched_at: int) -> bool:
    matched = _matched(number, matched_at)
    return node == matched or (isinstance(node, Group) and node.kind == "and" and matched in node.operands)


def _rule_lines(number: int, node: Node) -> list[str]:
    if not nullable(node):
        return [f"if {python(node)}: applies({number})"]
    return [f"r = {python(node)}", f"if r: applies({number})", f"elif r is None: unsure({number})"]


def _signals_function(
    document: PolicyDocument, tool: RuleTool, features: Mapping[str, tuple[int, Feature]]
) -> Callable[[list[Value]], tuple[float, ...]]:
    definitions = _Definitions(document, tool, features)
    sums: list[str] = []
    for head in HEADS:
        signals = document.signals.get(head)
        terms = ["0.0"]
        for number, weight in enumerate(signals.weights if signals else ()):
            node = definitions.parse(weight.when, ("signals", head, "weights", number, "when"))
            terms.append(f"({weight.weight!r} if {python(node)} else 0.0)")
        sums.append(" + ".join(terms))
    function: Callable[[list[Value]], tuple[float, ...]] = _function(
        ["def run(f):", f"    return ({', '.join(sums)},)"]
    )
    return function


def _function(lines: Sequence[str]) -> Any:
    space: dict[str, Any] = dict(_WORDS)
    exec(compile("\n".join(lines), "<policy>", "exec"), space)  # noqa: S102  the source is ours, made from nodes
    return space["run"]


assert INDEX["score.hate"] + len(HEADS) == len(FEATURES), "the scores are the last features"

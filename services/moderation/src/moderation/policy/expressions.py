"""Predicates over named features: `bank.lure and links.count >= 1 and not mail.free_sender`.

The syntax is Python's for `and`, `or`, `not`, comparisons and `in`; nothing else is taken. A number alone means that
it is above nought. Logic is Kleene's: what hangs on an unknown feature is unknown, unless the rest decides it.

An expression becomes one of nine kinds of nodes, and a node becomes Python source (for the engine) or JSONLogic (for
explanations and as the oracle of the tests).
"""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moderation.features import Feature

_NODES_MAX = 200
_DEPTH_MAX = 20
_EXPANDED_NODES_MAX = 2_000
_EXPANDED_DEPTH_MAX = 50
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
}  # fmt: skip
_JSON_LOGIC = {"==": "===", "!=": "!=="}


class ExpressionError(ValueError):
    """An expression that is not taken; `column` counts characters from 0."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True, slots=True)
class Comparison:
    """A feature against a constant; `in` takes a tuple."""

    feature: int
    unknown: bool
    operator: str
    constant: float | str | tuple[float | str, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; unknown stays unknown."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Group:
    """All of, or any of."""

    kind: Literal["and", "or"]
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Always:
    """True or false, whatever the message."""

    value: bool


Node = Comparison | Not | Group | Always


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What names mean: features by name with their number, thresholds of `over.<head>`, definitions."""

    features: Mapping[str, tuple[int, Feature]]
    thresholds: Mapping[str, float]
    definition: Callable[[str], Node | None]


def parse(text: str, vocabulary: Vocabulary) -> Node:
    """Return the tree of an expression; raise ExpressionError with the place and what is wrong."""
    try:
        tree = ast.parse(text.replace("\n", " "), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(max(0, (getattr(error, "offset", 1) or 1) - 1), "not an expression") from None
    if sum(1 for _ in ast.walk(tree)) > _NODES_MAX:
        raise ExpressionError(0, f"more than {_NODES_MAX} parts; use definitions")
    return _node(tree.body, vocabulary, 0)


def _node(part: ast.expr, vocabulary: Vocabulary, depth: int) -> Node:
    if depth > _DEPTH_MAX:
        raise ExpressionError(part.col_offset, f"nested more than {_DEPTH_MAX} deep; use definitions")
    match part:
        case ast.BoolOp():
            kind: Literal["and", "or"] = "and" if isinstance(part.op, ast.And) else "or"
            return Group(kind, tuple(_node(value, vocabulary, depth + 1) for value in part.values))
        case ast.UnaryOp(op=ast.Not()):
            return Not(_node(part.operand, vocabulary, depth + 1))
        case ast.Constant(value=bool(value)):
            return Always(value)
        case ast.Compare(ops=[sign], comparators=[constant]):
            return _comparison(part.left, sign, constant, vocabulary)
        case ast.Name() | ast.Attribute():
            return _alone(part, vocabulary)
    raise ExpressionError(part.col_offset, f"{ast.unparse(part)!r} is none of: and, or, not, a comparison, a name")


def _name(part: ast.expr) -> str:
    match part:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=attribute):
            return f"{_name(inner)}.{attribute}"
    raise ExpressionError(part.col_offset, f"{ast.unparse(part)!r} is no name of a feature")


def _alone(part: ast.expr, vocabulary: Vocabulary) -> Node:
    name = _name(part)
    prefix, _, head = name.partition(".")
    if prefix == "over" and head in vocabulary.thresholds:
        number, _feature = vocabulary.features[f"score.{head}"]
        return Comparison(number, True, ">=", vocabulary.thresholds[head])
    if (known := vocabulary.features.get(name)) is not None:
        number, feature = known
        if feature.kind == "text":
            raise ExpressionError(part.col_offset, f"{name} is a text: compare it, as in {name} == 'en'")
        return Comparison(number, feature.unknown, ">", 0)
    if "." not in name and (node := vocabulary.definition(name)) is not None:
        return node
    raise ExpressionError(part.col_offset, f"unknown feature {name!r}{_nearest(name, vocabulary)}")


def _nearest(name: str, vocabulary: Vocabulary) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  for errors only

    names = [*vocabulary.features, *(f"over.{head}" for head in vocabulary.thresholds)]
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else "; `waystation policy features` lists them"


def _comparison(left: ast.expr, sign_of: ast.cmpop, constant: ast.expr, vocabulary: Vocabulary) -> Node:
    name = _name(left)
    known = vocabulary.features.get(name)
    if known is None:
        raise ExpressionError(left.col_offset, f"unknown feature {name!r}{_nearest(name, vocabulary)}")
    number, feature = known
    sign = _COMPARISONS.get(type(sign_of))
    if sign is None:
        raise ExpressionError(left.col_offset, "comparisons are ==, !=, <, <=, >, >= and in")
    value = _constant(constant, many=sign == "in")
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(one, str) != (feature.kind == "text") for one in values):
        raise ExpressionError(constant.col_offset, f"{name} is a {feature.kind}")
    if feature.kind == "text" and sign not in ("==", "!=", "in"):
        raise ExpressionError(left.col_offset, f"{name} is a text: texts have no order")
    return Comparison(number, feature.unknown, sign, value)


def _constant(part: ast.expr, *, many: bool) -> float | str | tuple[float | str, ...]:
    try:
        value = ast.literal_eval(part)
    except ValueError:
        raise ExpressionError(part.col_offset, "the right side is a constant") from None
    if many:
        if not isinstance(value, (tuple, list)) or not value:
            raise ExpressionError(part.col_offset, "`in` takes a list, as in language in ('en', 'de')")
        return tuple(_scalar(one, part) for one in value)
    return _scalar(value, part)


def _scalar(value: object, part: ast.expr) -> float | str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value in (float("inf"), -float("inf")):
        raise ExpressionError(part.col_offset, "a constant is a finite number or a text")
    return value


def refuse_large(node: Node) -> None:
    """Raise ExpressionError for a node that has too many parts, or too deep ones, with its definitions in it."""
    waiting, parts = [(node, 1)], 0
    while waiting:
        inner, depth = waiting.pop()
        parts += 1
        if parts > _EXPANDED_NODES_MAX:
            raise ExpressionError(0, f"more than {_EXPANDED_NODES_MAX:,} parts with its definitions")
        if depth > _EXPANDED_DEPTH_MAX:
            raise ExpressionError(0, f"nested more than {_EXPANDED_DEPTH_MAX} deep with its definitions")
        operands = inner.operands if isinstance(inner, Group) else (inner.operand,) if isinstance(inner, Not) else ()
        waiting += [(operand, depth + 1) for operand in operands]


def nullable(node: Node) -> bool:
    """Whether the node may come out unknown."""
    match node:
        case Comparison():
            return node.unknown
        case Not():
            return nullable(node.operand)
        case Group():
            return any(map(nullable, node.operands))
    return False


def features_of(node: Node) -> frozenset[int]:
    """Return the numbers of the features that a node asks for."""
    match node:
        case Comparison():
            return frozenset([node.feature])
        case Not():
            return features_of(node.operand)
        case Group():
            return frozenset().union(*map(features_of, node.operands))
    return frozenset()


def python(node: Node) -> str:
    """Return the source of an expression over the list `f` that gives True, False or None (unknown)."""
    match node:
        case Always():
            return repr(node.value)
        case Comparison():
            test = f"(f[{node.feature}] {node.operator} {node.constant!r})"
            return f"(None if f[{node.feature}] is None else {test})" if node.unknown else test
        case Not():
            inner = python(node.operand)
            return f"unknown_not({inner})" if nullable(node.operand) else f"(not {inner})"
    # What is always known goes first: it decides without a look at the rest.
    known = [python(operand) for operand in node.operands if not nullable(operand)]
    unsure = [python(operand) for operand in node.operands if nullable(operand)]
    if not unsure:
        return f"({f' {node.kind} '.join(known)})"
    rest = unsure[0] if len(unsure) == 1 else f"unknown_{node.kind}({', '.join(unsure)})"
    return f"({f' {node.kind} '.join([*known, rest])})"


def unknown_not(value: bool | None) -> bool | None:
    """Kleene's not."""
    return None if value is None else not value


def unknown_and(*values: bool | None) -> bool | None:
    """Kleene's and: false decides, then unknown."""
    return False if False in values else None if None in values else True


def unknown_or(*values: bool | None) -> bool | None:
    """Kleene's or: true decides, then unknown."""
    return True if True in values else None if None in values else False


def json_logic(node: Node, names: Mapping[int, str], *, outcome: bool = True) -> Any:
    """Return, as JSONLogic over an object of the known features, whether the node surely comes out as `outcome`.

    What is in the object neither surely true nor surely false is unknown.
    """
    match node:
        case Always():
            return node.value is outcome
        case Comparison():
            sign = _JSON_LOGIC.get(node.operator, node.operator)
            constant = list(node.constant) if isinstance(node.constant, tuple) else node.constant
            variable = {"var": [names[node.feature]]}
            test: Any = {sign: [variable, constant]}
            return {"and": [{"!==": [variable, None]}, test if outcome else {"!": [test]}]}
        case Not():
            return json_logic(node.operand, names, outcome=not outcome)
    kind = node.kind if outcome else {"and": "or", "or": "and"}[node.kind]
    return {kind: [json_logic(operand, names, outcome=outcome) for operand in node.operands]}


def explained(node: Node, values: list[Any], names: Mapping[int, str]) -> list[tuple[str, Any, bool | None]]:
    """Return each comparison with the value it met and how it came out, in the order of writing."""
    match node:
        case Comparison():
            value = values[node.feature]
            outcome = None if value is None else _compare(value, node.operator, node.constant)
            return [(f"{names[node.feature]} {node.operator} {node.constant!r}", value, outcome)]
        case Not():
            return explained(node.operand, values, names)
        case Group():
            return [line for operand in node.operands for line in explained(operand, values, names)]
    return []


def _compare(value: Any, sign: str, constant: Any) -> bool:
    return bool(_OPERATORS[sign](value, constant))


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "in": lambda value, constants: value in constants,
}  # fmt: skip

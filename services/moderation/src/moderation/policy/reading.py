"""Reads a policy file: YAML, the closed schema, patterns that compile; errors name line and column."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import yaml
from publicsuffixlist import PublicSuffixList
from pydantic import ValidationError

from moderation.features import HEADS
from moderation.lists import HashLists
from moderation.matching import PatternBank, PatternError, remember
from moderation.policy.compiling import TOOLS, PlacedError, compiling
from moderation.policy.document import PolicyDocument
from moderation.policy.errors import PolicyError
from moderation.policy.steps import finished, in_slices
from moderation.signatures import SignatureBank, SignatureError
from moderation.sites import Sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from moderation.matching import Backend
    from moderation.policy.compiling import Compiled
    from moderation.policy.document import Rule, RuleTool
    from moderation.policy.steps import Steps

Place = tuple[str | int, ...]


# The loader in C is twenty times faster; a platform without it has the same one in Python.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NESTING_MAX = 30
NODES_MAX = 200_000
"""Values of a file, those behind an alias counted wherever it stands."""
Numbered = tuple[int, "Rule"]
NO_LISTS = HashLists()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy ready to screen with: its content-addressed name, its rules, its patterns in one bank.

    `text_rules`, `near_rules` and `bank_patterns` lead from a pattern's number to the rules and banks that use it.
    """

    name: str
    document: PolicyDocument
    compiled: Compiled
    bank: PatternBank
    text_rules: Mapping[int, tuple[Numbered, ...]]
    near_rules: Mapping[int, tuple[Numbered, ...]]
    bank_patterns: Mapping[int, tuple[int, ...]]
    link_rules: tuple[Numbered, ...]
    attachment_rules: tuple[Numbered, ...]
    places: frozenset[str]
    sites: Sites
    signatures: SignatureBank | None
    lists: HashLists
    thresholds: Mapping[RuleTool, tuple[float, ...]]
    text: str


def read_policy(path: Path, backend: Backend | None = None) -> Policy:
    """Read and compile a policy file; raise PolicyError when it cannot be used."""
    try:
        return parse_policy(path.read_bytes(), backend)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read ({error.strerror}); set MODERATION_POLICY_FILE") from error
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from error


def parse_policy(data: bytes, backend: Backend | None = None) -> Policy:
    """Compile the bytes of a policy file; raise PolicyError naming line and column."""
    text = canonical_text(data)
    root = _compose(text)
    values = None if root is None else _values(root)
    try:
        document = PolicyDocument.model_validate(values)
    except ValidationError as error:
        raise PolicyError("; ".join(_complaints(root, error))) from None
    return policy_of(document, text, root, backend)


def policy_of(
    document: PolicyDocument, text: str, root: yaml.Node | None = None, backend: Backend | None = None
) -> Policy:
    """Compile a document; raise PolicyError with the place in its nodes, where they are given."""
    try:
        compiled = finished(compiling(document))
        bank = PatternBank(list(_numbers(document)), backend)
        signatures = _signatures(document)
    except PlacedError as error:
        raise _placed(root, error.place, f"{error}", error.column) from None
    except PatternError as error:
        raise _placed(root, next(islice(_numbers(document).values(), error.index, None)), str(error)) from None
    except SignatureError as error:
        raise _placed(root, ("signatures",), str(error)) from None
    return _policy(document, text, compiled, bank, signatures)


async def assembled(document: PolicyDocument, text: str) -> Policy:
    """Return the policy of a document that was tried before, in slices between which the event loop turns."""
    await in_slices(_remembering(document))
    compiled = await in_slices(compiling(document))
    # What is left here is to load the compiled patterns or, where they cannot be kept, to compile them without Python.
    bank = await asyncio.to_thread(PatternBank, list(_numbers(document)))
    signatures = _signatures(document)
    await asyncio.sleep(0)
    return _policy(document, text, compiled, bank, signatures)


def _remembering(document: PolicyDocument) -> Steps[None]:
    for pattern in _numbers(document):
        remember(pattern)
        yield


def name_of(document: PolicyDocument, text: str) -> str:
    """Return the content-addressed name of a policy."""
    return f"{document.id}@sha256:{sha256(text.encode()).hexdigest()}"


def canonical_text(data: bytes) -> str:
    """Return the text that the policy's name is the digest of: UTF-8 without mark, lines ended by LF."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PolicyError(f"byte {error.start}: not UTF-8; save the file as UTF-8") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        _refuse_deep_nesting(text)
        root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _not_yaml(error, text) from None
    if root is not None:
        _size(root, {})
    return root


def _refuse_deep_nesting(text: str) -> None:
    """Raise PolicyError for what the loader in C would leave its stack with."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > NESTING_MAX:
                raise PolicyError(f"{_position(event.start_mark)}: nested more than {NESTING_MAX} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _not_yaml(error: yaml.YAMLError, text: str) -> PolicyError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = _position(mark) if mark else "somewhere"
        return PolicyError(f"{place}: not YAML: {error.problem or error.context}")
    if isinstance(error, yaml.reader.ReaderError):
        before = text.encode("utf-8", "replace")[: error.position].decode("utf-8", "ignore")
        lines = before.split("\n")
        return PolicyError(f"line {len(lines)}, column {len(lines[-1]) + 1}: not YAML: {error.reason}")
    return PolicyError(f"not YAML: {error}")


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node holds; raise PolicyError for too many, a repeated key, or a node inside itself."""
    if (known := sizes.get(id(node))) is not None:
        if known == _OPEN:
            raise PolicyError(f"{_position(node.start_mark)}: this holds itself by an alias")
        return known
    sizes[id(node)] = _OPEN
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, sizes) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError(f"{_position(key.start_mark)}: a key is a text")
            if key.value in seen:
                raise PolicyError(f"{_position(key.start_mark)}: {key.value!r} is given twice")
            seen.add(key.value)
            size += _size(value, sizes)
    if size > NODES_MAX:
        raise PolicyError(f"{_position(node.start_mark)}: more than {NODES_MAX:,} values, aliases counted")
    sizes[id(node)] = size
    return size


_OPEN = 0


class _Constructor(yaml.SafeLoader):
    """Makes values of nodes; what is no value of its kind is told with its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _NO_VALUE as error:
            kind = node.tag.rpartition(":")[2]
            raise PolicyError(f"{_position(node.start_mark)}: not a value of the kind {kind}: {error}") from None


_NO_VALUE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What the constructors of YAML raise for a date, a number or whatever a tag asks for that is none."""


def _values(root: yaml.Node) -> Any:
    try:
        return _Constructor("").construct_document(root)
    except yaml.YAMLError as error:
        raise _not_yaml(error, "") from None


def _complaints(root: yaml.Node | None, error: ValidationError) -> Iterator[str]:
    details = error.errors(include_input=False, include_context=False, include_url=False)
    for detail in details:
        # What is wrong inside a list leaves it without that item; that it is then too short says nothing more.
        if detail["type"] == "too_short" and any(_is_inside(other["loc"], detail["loc"]) for other in details):
            continue
        field = ".".join(str(part) for part in detail["loc"]) or "the file"
        yield f"{_locate(root, detail['loc'])}: {field}: {detail['msg'].removeprefix('Value error, ')}"


def _is_inside(place: Place, around: Place) -> bool:
    return len(place) > len(around) and place[: len(around)] == around


def _locate(root: yaml.Node | None, place: Place) -> str:
    """Return line and column of the deepest node on the way to a field; what the schema adds to the way is skipped."""
    mark = None if root is None else root.start_mark
    node = root
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    node, mark = value, key.start_mark
                    break
    return "line 1, column 1" if mark is None else _position(mark)


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _signatures(document: PolicyDocument) -> SignatureBank | None:
    return SignatureBank(document.signatures) if document.signatures else None


def _policy(
    document: PolicyDocument, text: str, compiled: Compiled, bank: PatternBank, signatures: SignatureBank | None
) -> Policy:
    uses: dict[str, dict[int, list[Any]]] = {"text": {}, "near": {}, "bank": {}}
    numbers = {pattern: number for number, pattern in enumerate(_numbers(document))}
    for _place, user, pattern, table in _patterns(document):
        uses[table].setdefault(numbers[pattern], []).append(user)
    rules = tuple((n, rule) for n, rule in enumerate(document.rules) if rule.status != "draft" and rule.match)
    return Policy(
        name=name_of(document, text),
        document=document,
        compiled=compiled,
        bank=bank,
        text_rules=_frozen(uses["text"]),
        near_rules=_frozen(uses["near"]),
        bank_patterns=_frozen(uses["bank"]),
        link_rules=tuple((n, rule) for n, rule in rules if rule.match and rule.match.links is not None),
        attachment_rules=tuple((n, rule) for n, rule in rules if rule.match and rule.match.attachments is not None),
        places=frozenset(_places(document.rules)),
        sites=Sites(document.hosts, _suffixes(), NO_LISTS),
        signatures=signatures,
        lists=NO_LISTS,
        thresholds={tool: tuple(document.threshold(head, tool) for head in HEADS) for tool in TOOLS},
        text=text,
    )


def with_lists(policy: Policy, lists: HashLists) -> Policy:
    """Return the policy with other lists of bad addresses and files beside it."""
    return replace(policy, lists=lists, sites=Sites(policy.document.hosts, _suffixes(), lists))


@cache
def _suffixes() -> PublicSuffixList:
    """Return the list of public suffixes; reading it is a good part of compiling a policy."""
    return PublicSuffixList()


def _frozen(table: Mapping[int, list[Any]]) -> dict[int, tuple[Any, ...]]:
    return {number: tuple(users) for number, users in table.items()}


def _placed(root: yaml.Node | None, place: Place, reason: str, column: int = 0) -> PolicyError:
    field = ".".join(str(part) for part in place)
    inside = _inside(root, place, column)
    if inside is not None:
        return PolicyError(f"{inside}: {field}: {reason}")
    beside = f" (character {column + 1})" if column else ""
    return PolicyError(f"{_locate(root, place)}: {field}{beside}: {reason}")


def _inside(root: yaml.Node | None, place: Place, column: int) -> str | None:
    """Return where a character of a text stands in the file, if the text stands there as it is, in one line."""
    node = root
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        else:
            return None
    if not column or not isinstance(node, yaml.ScalarNode) or node.start_mark.line != node.end_mark.line:
        return None
    quote = 1 if node.style in {"'", '"'} else 0
    if node.end_mark.column - node.start_mark.column != len(node.value) + 2 * quote:
        return None
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + quote + column + 1}"


def _numbers(document: PolicyDocument) -> dict[str, Place]:
    """Return each pattern once, in the order of their numbers, with the first place where it stands."""
    places: dict[str, Place] = {}
    for place, _user, pattern, _table in _patterns(document):
        places.setdefault(pattern, place)
    return places


def _patterns(document: PolicyDocument) -> Iterator[tuple[Place, Any, str, str]]:
    for number, (name, patterns) in enumerate(document.banks.items()):
        for index, pattern in enumerate(patterns):
            yield ("banks", name, index), number, pattern, "bank"
    for number, rule in enumerate(document.rules):
        if rule.match is None or rule.status == "draft":
            continue
        user = (number, rule)
        if rule.match.patterns is not None:
            for index, pattern in enumerate(rule.match.patterns.any):
                yield ("rules", number, "match", "patterns", "any", index), user, pattern, "text"
        if rule.match.links is not None:
            for index, pattern in enumerate(rule.match.links.near):
                yield ("rules", number, "match", "links", "near", index), user, pattern, "near"


def _places(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules:
        if rule.match is not None and rule.match.patterns is not None:
            yield from rule.match.patterns.places
        if rule.match is not None and rule.match.links is not None and rule.match.links.near:
            yield from ("subject", "text", "html")

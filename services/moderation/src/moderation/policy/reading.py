"""Reads a policy file: YAML, the closed schema, patterns that compile; errors name line and column."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import yaml
from publicsuffixlist import PublicSuffixList
from pydantic import ValidationError

from moderation.errors import PolicyError
from moderation.matching import PatternBank, PatternError
from moderation.policy.document import PolicyDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from moderation.links import SuffixList
    from moderation.matching import Backend
    from moderation.policy.document import Rule

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy ready to screen with: its content-addressed name, its rules, its patterns in one bank.

    `text_rules` and `near_rules` lead from a pattern's number in the bank to the rules that use it.
    """

    name: str
    document: PolicyDocument
    bank: PatternBank
    text_rules: Mapping[int, tuple[Rule, ...]]
    near_rules: Mapping[int, tuple[Rule, ...]]
    link_rules: tuple[Rule, ...]
    attachment_rules: tuple[Rule, ...]
    places: frozenset[str]
    suffixes: SuffixList


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
    try:
        document = PolicyDocument.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise PolicyError("; ".join(_complaints(root, error))) from None
    return _compile(document, f"{document.id}@sha256:{sha256(text.encode()).hexdigest()}", root, backend)


def canonical_text(data: bytes) -> str:
    """Return the text that the policy's name is the digest of: UTF-8 without mark, lines ended by LF."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PolicyError(f"byte {error.start}: not UTF-8; save the file as UTF-8") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _position(mark) if mark else "somewhere"
        raise PolicyError(f"{place}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise PolicyError(f"not YAML: {error}") from None
    if root is not None:
        _refuse_repeated_keys(root)
    return root


def _refuse_repeated_keys(node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise PolicyError(f"{_position(key.start_mark)}: {key.value!r} is given twice")
            seen.add(key.value)
            _refuse_repeated_keys(value)


def _complaints(root: yaml.Node | None, error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_input=False, include_context=False, include_url=False):
        field = ".".join(str(part) for part in detail["loc"]) or "the file"
        yield f"{_locate(root, detail['loc'])}: {field}: {detail['msg'].removeprefix('Value error, ')}"


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


def _compile(document: PolicyDocument, name: str, root: yaml.Node | None, backend: Backend | None) -> Policy:
    numbers: dict[str, int] = {}
    places: list[Place] = []
    text_rules: dict[int, list[Rule]] = {}
    near_rules: dict[int, list[Rule]] = {}
    for place, rule, pattern, table in _patterns(document, text_rules, near_rules):
        if pattern not in numbers:
            numbers[pattern] = len(numbers)
            places.append(place)
        table.setdefault(numbers[pattern], []).append(rule)
    try:
        bank = PatternBank(list(numbers), backend)
    except PatternError as error:
        place = places[error.index]
        field = ".".join(str(part) for part in place)
        raise PolicyError(f"{_locate(root, place)}: {field}: {error}") from None
    return Policy(
        name=name,
        document=document,
        bank=bank,
        text_rules={number: tuple(rules) for number, rules in text_rules.items()},
        near_rules={number: tuple(rules) for number, rules in near_rules.items()},
        link_rules=tuple(rule for rule in document.rules if rule.match.links is not None),
        attachment_rules=tuple(rule for rule in document.rules if rule.match.attachments is not None),
        places=frozenset(_places(document.rules)),
        suffixes=PublicSuffixList(),
    )


def _patterns(
    document: PolicyDocument, text_rules: dict[int, list[Rule]], near_rules: dict[int, list[Rule]]
) -> Iterator[tuple[Place, Rule, str, dict[int, list[Rule]]]]:
    for number, rule in enumerate(document.rules):
        if rule.match.patterns is not None:
            for index, pattern in enumerate(rule.match.patterns.any):
                yield ("rules", number, "match", "patterns", "any", index), rule, pattern, text_rules
        if rule.match.links is not None:
            for index, pattern in enumerate(rule.match.links.near):
                yield ("rules", number, "match", "links", "near", index), rule, pattern, near_rules


def _places(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules:
        if rule.match.patterns is not None:
            yield from rule.match.patterns.places
        if rule.match.links is not None and rule.match.links.near:
            yield from ("subject", "text", "html")

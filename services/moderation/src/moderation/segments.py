"""Patterns taken apart at their gaps: what stands on both sides of a `.{0,60}` must occur, wherever it does.

Two alternations with a gap between make an automaton of the product's size, which takes seconds to compile for a
hundred patterns; their sides alone take a tenth of that. Of the sides the one that letters of every day have least is
enough to look for: the other is often `you` or `now`, and each place where a part ends costs a microsecond.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_GAP = re.compile(r"\.(?:\*|\{0,\d+\})")
# Bounded repeats; a wider pattern finds more candidates and misses none.
_FROM_NONE = re.compile(r"(?<!\\)\{0,\d+\}")
_FROM_ONE = re.compile(r"(?<!\\)\{1,\d+\}")
_BORDER = re.compile(r"(?<!\\)((?:\\\\)*)\\b")
_ONE_CHARACTER = re.compile(r"\[\^|\\[WSDx]|(?<!\\)\.(?![*+])")

WHITE_SPACE = r"(?:[ \t\r\n\f]+)"
"""What a space of a pattern stands for; to the segments it is spaces, see `flat`."""

_FLAT = bytes.maketrans(b"\t\r\n\f", b"    ")


def flat(data: bytes) -> bytes:
    """Return a text with all white space as spaces: what segments are looked for in."""
    return data.translate(_FLAT)


def segments(pattern: str) -> tuple[str, ...]:
    """Return patterns that each occur in every text in which the whole one does."""
    found = tuple(_widened(part) for part in _split(pattern) if part)
    return found or (_widened(pattern),)


def _widened(pattern: str) -> str:
    return _BORDER.sub(r"\1", _FROM_ONE.sub("+", _FROM_NONE.sub("*", pattern))).replace(WHITE_SPACE, "(?: +)")


def bytes_suffice(pattern: str) -> bool:
    """Whether a pattern means the same for octets as for characters, which makes its automaton far smaller."""
    return pattern.isascii() and _ONE_CHARACTER.search(pattern) is None


def _split(pattern: str) -> Iterator[str]:
    """Yield what stands between gaps outside groups; the whole pattern when it is an alternation."""
    depth = start = at = 0
    parts: list[str] = []
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 2
            continue
        if character == "[":
            at = _class_end(pattern, at)
            continue
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 and character == "|":
            yield pattern
            return
        gap = _GAP.match(pattern, at) if depth == 0 else None
        if gap is not None:
            parts.append(pattern[start:at])
            start = at = gap.end()
            continue
        at += 1
    yield from (*parts, pattern[start:])


def _class_end(pattern: str, at: int) -> int:
    """Return the place after a class that opens at `at`."""
    end = at + 2 if pattern[at + 1 : at + 2] in ("]", "\\") else at + 1
    if pattern[at + 1 : at + 2] == "\\":
        end = at + 3
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1

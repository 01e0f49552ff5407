"""Patterns taken apart at their gaps: what stands on both sides of `.{0,60}` or `[^.!?]{0,60}` must occur.

Two alternations with a gap between make an automaton of the product's size, which takes seconds to compile for a
hundred patterns; their sides alone take a tenth of that. Of the sides the one that letters of every day have least is
enough to look for: the other is often `you` or `now`, and each place where a part ends costs a microsecond.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import re2

if TYPE_CHECKING:
    from collections.abc import Iterator

_GAP = re.compile(r"(?:\.|\[\^(?:\\.|[^\]\\])+\])(?:\*|\{0,\d+\})")
_TOKEN = re.compile(
    r"\\x\{[^}]*\}|\\x..|\\[pP]\{[^}]*\}|\\[pP].|\\."
    r"|\[\^?\]?(?:\\.|\[:[^:]*:\]|[^\]\\])*\]|\(\?[^):<]*[:)]|\(\?P?<[^>]*>|.",
    re.DOTALL,
)
_REPEAT = re.compile(r"(?:([?*])|\+|\{(\d+)(?:,\d*)?\})?\??")
_STRUCTURE = ("(", ")", "|", "^", "$", "\\A", "\\z")
_ONE_CHARACTER = re.compile(r"\[\^|\\[WSDx]|(?<!\\)\.(?![*+])")

WHITE_SPACE = r"(?:[ \t\r\n\f]+)"
"""What a space of a pattern stands for; to the segments it is one space, see `flat`."""

_FLAT = bytes.maketrans(b"\t\r\n\f", b"    ")


def flat(data: bytes) -> bytes:
    """Return a text with one space for each run of white space: what segments are looked for in."""
    data = data.translate(_FLAT)
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


class Segment(NamedTuple):
    """A part of a pattern, widened for flat texts, and the border of a word that it ends at, if it does.

    Without the border `confirme` is looked for in each `confirmed`; one anywhere else costs more than it spares.
    """

    widened: str
    border: Literal["", "\\b"]


def segments(pattern: str) -> tuple[Segment, ...]:
    """Return patterns that each occur in every text in which the whole one does."""
    found = tuple(_widened(part) for part in _split(pattern) if part)
    return found or (_widened(pattern),)


def _widened(pattern: str) -> Segment:
    """Return a pattern for flat texts that finds more and misses none: repeats without bounds, no borders of words.

    Of what stands for white space side by side only one finds any in a flat text. So a space must be there only where
    a character that is none surely comes before it, and what may be white space may be left out.
    """
    pattern = pattern.replace(WHITE_SPACE, " ")
    out: list[str] = []
    at, after_character = 0, False
    border: Literal["", "\\b"] = ""
    groups: list[tuple[bool, bool]] = []  # of each open one: is it after such a character, do its branches end with one
    while (token := _TOKEN.match(pattern, at)) is not None:
        repeat = _REPEAT.match(pattern, token.end())
        assert repeat is not None, "a repeat may be empty"
        at, kind, optional = repeat.end(), token[0], bool(repeat[1] or repeat[2] == "0")
        border = "\\b" if kind == "\\b" and not repeat[0] else ""
        if kind in {"\\b", "\\B"}:
            continue
        structure = kind.startswith(_STRUCTURE)
        white = not structure and _may_be_white(kind)
        if white and (kind != " " or repeat[0] or not after_character):
            out.append(kind + ("?" if repeat[0] in {"", "?"} else "*"))
        else:
            out.append(kind + {"0": "*", "1": "+"}.get(repeat[2], repeat[0]))
        if kind == ")" and groups:
            before, ends = groups.pop()
            after_character = after_character and ends and (before or not optional)
        elif structure:
            if kind == "|" and groups:
                groups[-1] = groups[-1][0], groups[-1][1] and after_character
            elif kind[0] == "(" and kind[-1] != ")":
                groups.append((after_character, True))
            after_character = False
        else:
            after_character = not (white or optional)
    return Segment("".join(out), border)


@cache
def _may_be_white(token: str) -> bool:
    return re2.search(token, " \t\r\n\f") is not None


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
        gap = _GAP.match(pattern, at) if depth == 0 else None
        if gap is not None:
            parts.append(pattern[start:at])
            start = at = gap.end()
            continue
        if character == "[":
            at = _class_end(pattern, at)
            continue
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 and character == "|":
            yield pattern
            return
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

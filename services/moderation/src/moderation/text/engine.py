"""RE2 without the Python around it, which takes longer than a search in a short text."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import re2

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNANCHORED = re2._re2.RE2.Anchor.UNANCHORED  # noqa: SLF001  what `search` asks


@cache
def engine(expression: str) -> re2._Regexp:
    """Return a compiled expression without groups; bytes are UTF-8."""
    options = re2.Options()
    options.never_capture = True
    return re2.compile(expression.encode(), options)


def occurs(pattern: re2._Regexp, data: bytes) -> bool:
    """Whether a pattern occurs."""
    return bool(pattern._regexp.Match(_UNANCHORED, data, 0, len(data))[0][0] >= 0)  # noqa: SLF001


def place(pattern: re2._Regexp, data: bytes, begin: int = 0) -> tuple[int, int] | None:
    """Return where a pattern occurs first from `begin` on: the bytes from where to where."""
    span: tuple[int, int] = pattern._regexp.Match(_UNANCHORED, data, begin, len(data))[0]  # noqa: SLF001
    return None if span[0] < 0 else span


def places(pattern: re2._Regexp, data: bytes, most: int) -> Iterator[tuple[int, int]]:
    """Yield where a pattern that is never empty occurs, at most so many times."""
    end = 0
    while most > 0 and (found := place(pattern, data, end)) is not None:
        yield found
        end, most = found[1], most - 1

"""Edits of a text, and the way from a place in the edited text back to the original."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Edit(NamedTuple):
    """`start:end` of the text before is `replacement` after."""

    start: int
    end: int
    replacement: str


class Step(NamedTuple):
    """One round of edits: from `at[n]` on the text stood at `origin[n]` before, letter by letter or as one piece."""

    at: tuple[int, ...]
    origin: tuple[int, ...]
    whole: tuple[bool, ...]

    def start_before(self, place: int) -> int:
        """Return where what begins at a place began."""
        number = bisect_right(self.at, place) - 1
        return self.origin[number] if self.whole[number] else self.origin[number] + place - self.at[number]

    def end_before(self, place: int) -> int:
        """Return where what ends with the character before a place ended."""
        number = bisect_right(self.at, place - 1) - 1
        if self.whole[number]:
            return self.origin[number + 1]
        return self.origin[number] + place - self.at[number]


def edited(text: str, edits: Iterable[Edit]) -> tuple[str, Step]:
    """Return the text after edits, which are in order and apart, and the way back; linear in the text."""
    pieces: list[str] = []
    at: list[int] = []
    origin: list[int] = []
    whole: list[bool] = []
    done = length = 0
    for start, end, replacement in edits:
        if start > done:
            pieces.append(text[done:start])
            at.append(length)
            origin.append(done)
            whole.append(False)
            length += start - done
        if replacement:
            pieces.append(replacement)
            at.append(length)
            origin.append(start)
            whole.append(len(replacement) != end - start)
            length += len(replacement)
        done = end
    pieces.append(text[done:])
    return "".join(pieces), Step((*at, length), (*origin, done), (*whole, False))

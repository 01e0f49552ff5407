"""A text in the one form that terms, patterns and models read, with offsets back to what was written.

In order: shapes of letters (NFKC, full-width, mathematical, emoji letters), invisible characters, look-alike letters
in disguised words, lower case, letters apart, digits and signs for letters. ASCII text without a disguise costs two
scans in C. All of it is linear in the text; nothing raises.
"""

from __future__ import annotations

from typing import NamedTuple

from moderation.text.letters import EDITS_MAX, has_other_shapes, letter_edits, reshaped, word_edits
from moderation.text.offsets import Step, edited
from moderation.text.words import apart_edits, looks_disguised, spelling_edits

TEXT_CHARACTERS_MAX = 1_000_000
FOREIGN_CHARACTERS_MAX = 250_000
"""What stands beyond is not read (texts of ASCII alone have the larger limit); `complete` tells."""

_CONTROLS = bytes((*range(9), *range(0x0E, 0x20), 0x7F))
_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_TO_LOWER = bytes.maketrans(_CONTROLS + _CAPITALS, bytes(len(_CONTROLS)) + _CAPITALS.lower())
"""Small letters for capitals, and nought for what is not seen."""


class Signs(NamedTuple):
    """How many characters (`leet`: words) were disguised, by kind; honest text has none or a few."""

    invisible: int = 0
    lookalikes: int = 0
    leet: int = 0
    spaced: int = 0


NO_SIGNS = Signs()


class NormalisedText(NamedTuple):
    """`text` in lower case with disguises undone; `data` is its UTF-8; `source` is what was written."""

    source: str
    text: str
    data: bytes
    signs: Signs = NO_SIGNS
    steps: tuple[Step, ...] = ()
    complete: bool = True

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters of `source` that stand behind the characters `start:end` of `text`."""
        for step in reversed(self.steps):
            first = step.start_before(start)
            start, end = first, step.end_before(end) if end > 0 else first
        return start, max(start, end)

    def byte_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters of `source` that stand behind the bytes `start:end` of `data`."""
        if len(self.data) == len(self.text):
            return self.span(start, end)
        first = len(self.data[:start].decode("utf-8", "replace"))
        return self.span(first, first + len(self.data[start:end].decode("utf-8", "replace")))


def normalise(source: str) -> NormalisedText:
    """Return the text in its normal form; what is beyond the limits is cut and `complete` is false."""
    text = source[:TEXT_CHARACTERS_MAX]
    if text.isascii():
        data = text.encode().translate(_TO_LOWER)
        if 0 not in data:
            text = data.decode("ascii")
            complete = len(text) == len(source)
            if not looks_disguised(data):
                return NormalisedText(source, text, data, complete=complete)
            return _undisguised(source, text, _no_counts(), [], complete=complete)
    return _foreign(source, text[:FOREIGN_CHARACTERS_MAX])


def _foreign(source: str, text: str) -> NormalisedText:
    complete = len(text) == len(source)
    counts = _no_counts()
    steps: list[Step] = []
    data = text.encode("utf-8", "replace")
    text = data.decode()
    if has_other_shapes(data):
        text = reshaped(text, counts)
        if edits := list(letter_edits(text, counts)):
            if len(edits) >= EDITS_MAX:
                text, complete = text[: edits[-1].end], False
            text, step = edited(text, edits)
            steps.append(step)
        if edits := list(word_edits(text, counts)):
            text, step = edited(text, edits)
            steps.append(step)
    text = text.lower()
    data = text.encode()
    if looks_disguised(data):
        return _undisguised(source, text, counts, steps, complete=complete)
    return NormalisedText(source, text, data, Signs(**counts), tuple(steps), complete)


def _undisguised(
    source: str, text: str, counts: dict[str, int], steps: list[Step], *, complete: bool
) -> NormalisedText:
    for find in (apart_edits, spelling_edits):
        if edits := list(find(text, counts)):
            text, step = edited(text, edits)
            steps.append(step)
    return NormalisedText(source, text, text.encode(), Signs(**counts), tuple(steps), complete)


def _no_counts() -> dict[str, int]:
    return dict.fromkeys(Signs._fields, 0)

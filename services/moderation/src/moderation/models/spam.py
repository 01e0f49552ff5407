"""Spam by a linear model of its own, for texts that tier 1 does not find harmless: letters apart from short texts.

What is spam among letters is none among text messages, so each kind has its column; texts that are not in English have
a third one, whose weights learnt from honest letters in many languages that a language is no offer. Beside tier 1 it
reads whether a feature occurs in a text, not how often, and has room for more of them: both cost more, so few texts get
here.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from moderation.models.features import Hasher
from moderation.models.linear import PASS_CHARACTERS, RepeatedLines, letters_of, lines_of, passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from moderation.models.manifest import SpamFigures

WORD_BITS, CHARACTER_BITS = 17, 18
LETTERS, SHORT, FOREIGN = 0, 1, 2
_SHORT_CHARACTERS_MAX = 320

Rows = tuple["NDArray[np.integer]", "NDArray[np.integer]"]
"""Rows of words, and of runs."""


class SpamModel:
    """Weights [2^17 + 2^18, 3] with a scale and a bias per column."""

    def __init__(
        self, table: NDArray[np.int8], scale: NDArray[np.float32], bias: NDArray[np.float32], figures: SpamFigures
    ) -> None:
        """Keep the table, by column; its rows are `Reader`'s words, then its runs."""
        columns = np.ascontiguousarray(table.T)
        self._words, self._runs = columns[:, : 1 << WORD_BITS], columns[:, 1 << WORD_BITS :]
        self._scale, self._bias = scale, bias
        self._own, self._linear, self._offset = (
            np.array(part, np.float32) for part in (figures.own, figures.linear, figures.offset)
        )
        self._reader = Reader()
        self._gate = figures.gate

    @classmethod
    def load(cls, file: Path, figures: SpamFigures) -> SpamModel:
        """Read `table` (int8), `scale` and `bias` (float32 per column) of a .npz file."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(arrays["table"], arrays["scale"], arrays["bias"], figures)

    def wanted(self, text: str, linear: float) -> bool:
        """Whether a text of which tier 1 said `linear` is to be read."""
        return linear >= self._gate[_column_of(text)]

    def logits(
        self, texts: Sequence[str], linear: NDArray[np.float32], column: NDArray[np.intp] | None = None
    ) -> NDArray[np.float32]:
        """Return log-odds for normalised texts of which tier 1 said `linear`; none depends on its neighbours.

        By default the texts are in English, and `column` is what `columns_of` says.
        """
        column = columns_of(texts) if column is None else column
        sums, counts = np.zeros((2, len(texts))), np.ones((2, len(texts)), np.int64)
        for number, (kind, features) in enumerate(zip(column.tolist(), self._reader.read(texts), strict=True)):
            for place, (table, rows) in enumerate(zip((self._words, self._runs), features, strict=True)):
                if len(rows):
                    sums[place, number], counts[place, number] = table[kind].take(rows).sum(), len(rows)
        found = self._bias[column].astype(np.float64)
        for of_kind, count in zip(sums, counts, strict=True):
            found += of_kind * self._scale[column] / np.sqrt(count)
        mixed: NDArray[np.float64] = found * self._own[column] + linear * self._linear[column] + self._offset[column]
        return mixed.astype(np.float32)


class Reader:
    """Tells which rows of both tables a text has."""

    def __init__(self) -> None:
        self._hasher = Hasher(PASS_CHARACTERS, WORD_BITS, CHARACTER_BITS)
        self._lines = RepeatedLines[Rows]()
        self._word_seen, self._run_seen = (np.zeros(1 << bits, np.int32) for bits in (WORD_BITS, CHARACTER_BITS))

    def read(self, texts: Sequence[str]) -> Iterator[Rows]:
        """Yield for each text the rows that it has, each once, in no order."""
        lines = [lines_of(text) for text in texts]
        rows = self._of_lines(list(dict.fromkeys(chain.from_iterable(lines))))
        for of_text in lines:
            words, runs = zip(*[rows[line] for line in of_text], strict=True)
            yield _once(words, self._word_seen), _once(runs, self._run_seen)

    def _of_lines(self, lines: Sequence[str]) -> dict[str, Rows]:
        known = self._lines.known
        new = [line for line in lines if line not in known]
        found = {line: known[line] for line in lines if line in known} | dict(zip(new, self._of_new(new), strict=True))
        for _, line in self._lines.again(new):
            words, runs = found[line]
            known[line] = words.astype(np.int32), runs.astype(np.int32)
        return found

    def _of_new(self, lines: Sequence[str]) -> Iterator[Rows]:
        for some in passes(letters_of(lines)) if lines else ():
            read = self._hasher.read(some)
            for words, runs in zip(read.word_spans.tolist(), read.run_spans.tolist(), strict=True):
                yield read.words[slice(*words)], read.runs[slice(*runs)]


def columns_of(texts: Sequence[str]) -> NDArray[np.intp]:
    """Return the column of each English text: what has lines, or is longer than two text messages, is a letter."""
    return np.array([_column_of(text) for text in texts])


def _column_of(text: str) -> int:
    return SHORT if len(text) <= _SHORT_CHARACTERS_MAX and "\n" not in text else LETTERS


def _once(parts: Sequence[NDArray[np.integer]], seen: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return each row once: of equal ones that whose number stays in `seen`. Sorting takes five times as long."""
    rows = np.concatenate(parts, dtype=np.int64)
    numbers = np.arange(len(rows), dtype=np.int32)
    seen[rows] = numbers
    once: NDArray[np.int64] = rows[seen[rows] == numbers]
    return once

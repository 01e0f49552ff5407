"""Spam by a linear model of its own, for texts that tier 1 does not find harmless: letters apart from short texts.

What is spam among letters is none among text messages, so each kind has its column. Beside tier 1 it reads whether a
feature occurs in a text, not how often, and has room for more of them: both cost more, so few texts get here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moderation.models.features import Hasher
from moderation.models.linear import PASS_CHARACTERS, letters_of, lines_of, passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from moderation.models.manifest import SpamFigures

WORD_BITS, CHARACTER_BITS = 17, 18
LETTERS, SHORT = 0, 1
_SHORT_CHARACTERS_MAX = 320
_TEXT_SHIFT = 32


class SpamModel:
    """Weights [2^17 + 2^18, 2] with a scale and a bias per column."""

    def __init__(
        self, table: NDArray[np.int8], scale: NDArray[np.float32], bias: NDArray[np.float32], figures: SpamFigures
    ) -> None:
        """Keep the table; its rows are `present`'s words, then its runs."""
        self._words, self._runs = table[: 1 << WORD_BITS], table[1 << WORD_BITS :]
        self._scale, self._bias = scale, bias
        self._own, self._linear, self._offset = (
            np.array(pair, np.float32) for pair in (figures.own, figures.linear, figures.offset)
        )
        self._hasher = hasher()
        self._gate = figures.gate

    @classmethod
    def load(cls, file: Path, figures: SpamFigures) -> SpamModel:
        """Read `table` (int8), `scale` and `bias` (float32 per column) of a .npz file."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(arrays["table"], arrays["scale"], arrays["bias"], figures)

    def wanted(self, text: str, linear: float) -> bool:
        """Whether a text of which tier 1 said `linear` is to be read."""
        return linear >= self._gate[_column_of(text)]

    def logits(self, texts: Sequence[str], linear: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds for normalised texts of which tier 1 said `linear`; none depends on its neighbours."""
        column = columns_of(texts)
        found = self._bias[column].astype(np.float64)
        for table, keys in zip((self._words, self._runs), present(self._hasher, texts), strict=True):
            text, row = apart(keys)
            sums = np.bincount(text, table[row, column[text]], len(texts))
            found += sums * self._scale[column] / np.sqrt(np.maximum(np.bincount(text, minlength=len(texts)), 1))
        mixed: NDArray[np.float64] = found * self._own[column] + linear * self._linear[column] + self._offset[column]
        return mixed.astype(np.float32)


def hasher() -> Hasher:
    """Return the hasher of this model's tables."""
    return Hasher(PASS_CHARACTERS, WORD_BITS, CHARACTER_BITS)


def columns_of(texts: Sequence[str]) -> NDArray[np.intp]:
    """Return the column of each text: what has lines, or is longer than two text messages, is a letter."""
    return np.array([_column_of(text) for text in texts])


def _column_of(text: str) -> int:
    return SHORT if len(text) <= _SHORT_CHARACTERS_MAX and "\n" not in text else LETTERS


def present(hasher: Hasher, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which rows of words, and of runs, each text has: its number above 32 bits, the row below, in order."""
    lines = [lines_of(text) for text in texts]
    owner = np.repeat(np.arange(len(texts)) << _TEXT_SHIFT, list(map(len, lines)))
    words, runs, first = [], [], 0
    for some in passes(letters_of([line for of_text in lines for line in of_text])):
        read = hasher.read(some)
        owned = owner[first : first + len(some)]
        words.append(_owned(read.words, read.word_spans, owned))
        runs.append(_owned(read.runs, read.run_spans, owned))
        first += len(some)
    return _once(words), _once(runs)


def apart(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of the text and the row of each key of `present`."""
    return keys >> _TEXT_SHIFT, keys & ((1 << _TEXT_SHIFT) - 1)


def _once(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return what is in any of them, in order; `np.unique` takes four times as long."""
    every = np.sort(np.concatenate(keys))
    once: NDArray[np.int64] = every[np.append(True, every[1:] != every[:-1])[: len(every)]]
    return once


def _owned(rows: NDArray[np.int64], spans: NDArray[np.intp], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = spans[:, 1] - spans[:, 0]
    places = np.arange(lengths.sum()) + np.repeat(spans[:, 0] - np.cumsum(lengths) + lengths, lengths)
    owned: NDArray[np.int64] = rows[places] + np.repeat(owner, lengths)
    return owned

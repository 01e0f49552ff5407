"""Tier 1: a linear model over hashed words and character runs, one column of weights per head, eight bits each.

A text is the sum of its lines, in whole numbers, so what a line adds may be kept: mails of a campaign share most of
theirs. Kept are only lines that came at least twice; one that is in one message alone is known by its hash at most.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from moderation.models.features import WORD_BITS, Hasher
from moderation.models.wordpiece import plain_letters
from moderation.text import swapped_back

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")

TEXT_CHARACTERS_MAX = 3_000
"""Of a longer text the first two thirds and the last third of this many are read."""
LINE_CHARACTERS_MAX = 200
"""A longer line is read as several: up to the end of a sentence behind 40 characters, else up to a space."""
PASS_CHARACTERS = 1 << 14
KEPT_LINES_MAX = 4_096
_KEPT_CHARACTERS_MAX = 1 << 20
_SEEN_MAX = 1 << 16
_LANE_BITS, _PER_LANE = 21, 3
_MIDDLE = 128
_PIECE = re.compile(r"(.{40,200}?[.!?;:](?= )|.{1,200}(?= |$)|\S+) *", re.DOTALL)


class Readings(NamedTuple):
    """Logits [texts, columns]; the lines of all texts, one after the other, with theirs [lines, columns]."""

    of_texts: NDArray[np.float32]
    lines: list[str]
    of_lines: NDArray[np.float32]
    counts: NDArray[np.intp]
    """How many lines each text has."""


class LinearModel:
    """Weights [2^17, columns] with a scale and a bias per column: the ten heads and, last, the gate of tier 2."""

    def __init__(self, table: NDArray[np.int8], scale: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Keep the table; its rows are `Hasher`'s words, then its runs."""
        self._scale, self._bias = scale, bias
        self._lines = _Lines(table)

    @classmethod
    def load(cls, file: Path) -> LinearModel:
        """Read `table` (int8), `scale` and `bias` (float32 per column) of a .npz file."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(arrays["table"], arrays["scale"], arrays["bias"])

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [texts, columns] for normalised texts; a text's line does not depend on its neighbours."""
        return self.read(texts).of_texts

    def read(self, texts: Sequence[str]) -> Readings:
        """Return what `logits` does, and what each line alone would say."""
        if not texts:
            none = np.zeros((0, len(self._bias)), np.float32)
            return Readings(none, [], none, np.zeros(0, np.intp))
        lines = [lines_of(text) for text in texts]
        counts = np.fromiter(map(len, lines), np.intp, len(lines))
        flat = [line for of_text in lines for line in of_text]
        sums = self._lines.sums(flat)
        totals = np.add.reduceat(sums, np.cumsum(counts) - counts, axis=0)
        return Readings(self._said(totals), flat, self._said(sums), counts)

    def _said(self, sums: NDArray[np.int32]) -> NDArray[np.float32]:
        totals = sums.astype(np.float32)
        columns = len(self._bias)
        words, runs = totals[:, :columns], totals[:, columns:-2]
        factors = (1 / np.sqrt(np.maximum(totals[:, -2:], 1))).astype(np.float32)
        said: NDArray[np.float32] = (words * factors[:, :1] + runs * factors[:, 1:]) * self._scale + self._bias
        return said


class RepeatedLines(Generic[T]):
    """What is `known` of lines that came at least twice; it begins anew when the room is full."""

    def __init__(self) -> None:
        self.known: dict[str, T] = {}
        self._characters = 0
        self._seen: set[int] = set()

    def again(self, lines: Sequence[str]) -> list[tuple[int, str]]:
        """Return which of some new lines came before, with their places, and make room for them."""
        if len(self.known) + len(lines) > KEPT_LINES_MAX or self._characters > _KEPT_CHARACTERS_MAX:
            self.known.clear()
            self._characters = 0
        if len(self._seen) > _SEEN_MAX:
            self._seen.clear()
        again = [(place, line) for place, line in enumerate(lines[:KEPT_LINES_MAX]) if hash(line) in self._seen]
        self._seen.update(map(hash, lines))
        self._characters += sum(len(line) for _, line in again)
        return again


class _Lines:
    """What lines add to a text: [lines, 2 * columns + 2], sums over words, over runs, and how many of each."""

    def __init__(self, table: NDArray[np.int8]) -> None:
        self._columns = table.shape[1]
        words, runs = table[: 1 << WORD_BITS], table[1 << WORD_BITS :]
        self._words, self._runs = _packed(words), _packed(runs)
        self._hasher = Hasher(PASS_CHARACTERS)
        self._numbers = RepeatedLines[int]()
        self._kept = np.zeros((KEPT_LINES_MAX, 2 * self._columns + 2), np.int32)

    def sums(self, lines: Sequence[str]) -> NDArray[np.int32]:
        new: dict[str, int] = {}
        known = self._numbers.known
        numbers = np.array([known[line] if line in known else ~new.setdefault(line, len(new)) for line in lines])
        found = self._kept.take(numbers, axis=0, mode="clip")
        if new:
            fresh = numbers < 0
            of_new = self._of_new(list(new))
            found[fresh] = of_new[~numbers[fresh]]
            again = self._numbers.again(list(new))
            begin = len(known)
            self._kept[begin : begin + len(again)] = of_new[[place for place, _ in again]]
            known.update((line, number) for number, (_, line) in enumerate(again, begin))
        return found

    def _of_new(self, lines: Sequence[str]) -> NDArray[np.int32]:
        return np.concatenate([self._of_pass(some) for some in passes(letters_of(lines))])

    def _of_pass(self, lines: Sequence[str]) -> NDArray[np.int32]:
        read = self._hasher.read(lines)
        words, of_words = self._pooled(self._words, read.words, read.word_spans)
        runs, of_runs = self._pooled(self._runs, read.runs, read.run_spans)
        return np.concatenate((words, runs, of_words, of_runs), axis=1)

    def _pooled(
        self, table: NDArray[np.uint64], rows: NDArray[np.int64], spans: NDArray[np.intp]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        counts = spans[:, 1:] - spans[:, :1]
        # Sums in lanes are exact in any order; one more row is there for spans that end with the array.
        lanes = table.take(np.append(rows, 0), axis=0, mode="clip")
        sums = np.add.reduceat(lanes, spans.ravel(), axis=0)[0::2]
        unpacked = np.empty((len(spans), lanes.shape[1], _PER_LANE), np.int32)
        for place in range(_PER_LANE):
            unpacked[:, :, place] = (sums >> np.uint64(place * _LANE_BITS)) & np.uint64((1 << _LANE_BITS) - 1)
        plain = unpacked.reshape(len(spans), -1)[:, : self._columns] - _MIDDLE * counts
        return np.where(counts > 0, plain, 0).astype(np.int32), counts.astype(np.int32)


def _packed(table: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Return three columns in each whole number of 64 bits: a line's 2^13 rows of eight bits fit into 21."""
    lanes = -(-table.shape[1] // _PER_LANE)
    packed = np.zeros((len(table), lanes), np.uint64)
    for column in range(table.shape[1]):
        shift = np.uint64(column % _PER_LANE * _LANE_BITS)
        packed[:, column // _PER_LANE] |= (table[:, column].astype(np.int64) + _MIDDLE).astype(np.uint64) << shift
    return packed


def lines_of(text: str) -> list[str]:
    """Return the lines of a normalised text that are read, long ones in pieces."""
    if len(text) > TEXT_CHARACTERS_MAX:
        text = f"{text[: TEXT_CHARACTERS_MAX * 2 // 3]}\n{text[-TEXT_CHARACTERS_MAX // 3 :]}"
    lines = text.split("\n")
    if len(text) <= LINE_CHARACTERS_MAX or max(map(len, lines)) <= LINE_CHARACTERS_MAX:
        return lines
    return [piece for line in lines for piece in _pieces(line)]


def _pieces(line: str) -> list[str]:
    return [line] if len(line) <= LINE_CHARACTERS_MAX else _PIECE.findall(line)


def letters_of(lines: Sequence[str]) -> list[str]:
    """Return lines as they are hashed: without accents, emoji by name, swapped letters put right."""
    return swapped_back([line if line.isascii() else plain_letters(line) for line in lines])


def passes(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield lines in runs that the hasher takes at once."""
    begin, cost = 0, 0
    for number, line in enumerate(lines):
        cost += Hasher.cost(line)
        if cost > PASS_CHARACTERS and number > begin:
            yield lines[begin:number]
            begin, cost = number, Hasher.cost(line)
    yield lines[begin:]

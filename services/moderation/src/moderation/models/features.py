"""What the linear model reads: words, pairs of words and runs of 3 to 5 characters, hashed; all texts in one pass.

The hash of a run is a polynomial over its characters modulo 2^64. Prefix sums give every run's hash by one subtraction,
and as the base is odd its powers can be undone, so no step loops over characters in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WORD_BITS = 16
CHARACTER_BITS = 16
RUNS = (3, 4, 5)
CHARACTERS_MAX = 3_000
"""Of a longer text the first two thirds and the last third of this many are read."""
_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_BREAK = "\n  \n"
"""One character shorter than the longest run, so that no run reaches from one text into the next."""
_SPACE, _ZERO, _NINE = 32, 48, 57


class Features(NamedTuple):
    """Rows of the weight table per text, in one line; `starts` says where each text's rows begin."""

    words: NDArray[np.int32]
    word_starts: NDArray[np.intp]
    runs: NDArray[np.int32]
    run_starts: NDArray[np.intp]


class Hasher:
    """Turns texts into rows of a table of 2^16 words and word pairs, then 2^16 character runs."""

    def __init__(self, characters_max: int = 1 << 18) -> None:
        """Prepare powers of the base for batches of so many characters; longer ones are cut into several passes."""
        self.characters_max = characters_max
        self._powers = _powers(_BASE, characters_max)
        self._inverse = _powers(pow(_BASE, -1, 1 << 64), characters_max)

    def read(self, texts: Sequence[str]) -> Features:
        """Hash texts of together at most `characters_max` characters (see `cost`)."""
        code, word_like, begin = _characters(texts)
        sums = np.zeros(len(code) + 1, np.uint64)
        np.cumsum((code + np.uint64(1)) * self._powers[: len(code)], out=sums[1:])
        edges = np.flatnonzero(word_like[1:] != word_like[:-1]) + 1
        firsts, lasts = edges[0::2], edges[1::2]
        words = (sums[lasts] - sums[firsts]) * self._inverse[firsts]
        owner = np.searchsorted(firsts, begin)
        pairs = words[:-1] * np.uint64(31) + words[1:]
        pairs[owner[1:][(owner[1:] > 0) & (owner[1:] <= len(pairs))] - 1] = 0
        both = np.empty(2 * len(words), np.uint64)
        both[0::2] = words
        both[1::2] = np.append(pairs, np.uint64(0))[: len(words)]
        runs = [(sums[n:] - sums[:-n]) * self._inverse[: len(code) - n + 1] + np.uint64(n) for n in RUNS]
        length = len(code) - len(_BREAK)
        line = np.empty((length, len(RUNS)), np.uint64)
        for column, run in enumerate(runs):
            line[:, column] = run[:length]
        return Features(
            _rows(both, WORD_BITS, 0),
            2 * owner,
            _rows(line.ravel(), CHARACTER_BITS, 1 << WORD_BITS),
            begin * len(RUNS),
        )

    @staticmethod
    def cost(text: str) -> int:
        """Return how many characters of a batch a text takes."""
        return min(len(text), CHARACTERS_MAX) + 2 * len(_BREAK)


def _characters(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.intp]]:
    """Return all characters in a line (digits as one sign), which are parts of words, and where each text begins."""
    shortened = [_BREAK + _shorten(text) for text in texts]
    raw = np.frombuffer("".join([*shortened, _BREAK]).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, shortened), np.intp, len(shortened))
    begin = np.concatenate((np.zeros(1, np.intp), np.cumsum(lengths)[:-1]))
    code = raw.astype(np.uint64)
    code[(raw >= _ZERO) & (raw <= _NINE)] = _ZERO
    letters = ((raw | 32) >= 97) & ((raw | 32) <= 122)
    word_like = (
        letters | ((raw >= _ZERO) & (raw <= _NINE)) | ((raw >= 0xC0) & (raw < 0x2000)) | (raw == 39) | (raw > 0x3000)
    )
    return code, word_like, begin


def _shorten(text: str) -> str:
    if len(text) <= CHARACTERS_MAX:
        return text
    return text[: CHARACTERS_MAX * 2 // 3] + " " + text[-(CHARACTERS_MAX // 3) + 1 :]


def _rows(hashes: NDArray[np.uint64], bits: int, offset: int) -> NDArray[np.int32]:
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_MIX)
    return (mixed >> np.uint64(64 - bits)).astype(np.int32) + np.int32(offset)


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count + 1, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)

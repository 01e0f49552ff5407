"""What the linear model reads: words, pairs of words and runs of 3 to 5 characters of each line, hashed in one pass.

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
LINE_CHARACTERS_MAX = 2_700
"""Of a longer line the first characters are read."""
_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_BEFORE, _AFTER = "\n", "\n   "
"""What stands around a line, so long that no run that begins in it reaches the next."""
_ZERO = 48


class Features(NamedTuple):
    """Rows of both weight tables, line after line; `spans` are where each line's own begin and end, one pair a line.

    What stands between spans belongs to no line.
    """

    words: NDArray[np.int64]
    word_spans: NDArray[np.intp]
    runs: NDArray[np.int64]
    run_spans: NDArray[np.intp]


class Hasher:
    """Turns lines into rows of a table of words and word pairs, 2^16 if not told otherwise, and of character runs."""

    def __init__(
        self, characters_max: int = 1 << 15, word_bits: int = WORD_BITS, character_bits: int = CHARACTER_BITS
    ) -> None:
        """Prepare powers of the base for so many characters at once (see `cost`)."""
        self._word_shift, self._run_shift = np.uint64(64 - word_bits), np.uint64(64 - character_bits)
        self._powers = _powers(_BASE, characters_max)
        self._inverse = _powers(pow(_BASE, -1, 1 << 64), characters_max)
        self._mixed = self._inverse * np.uint64(_MIX)

    def read(self, lines: Sequence[str]) -> Features:
        """Hash lines of together at most `characters_max` characters."""
        code, word_like, begins, ends = _characters(lines)
        code += np.uint64(1)
        code *= self._powers[: len(code)]
        sums = np.zeros(len(code) + 1, np.uint64)
        np.cumsum(code, out=sums[1:])
        words, word_spans = self._words(sums, word_like, begins)
        runs = np.empty((int(ends[-1]), len(RUNS)), np.uint64)
        for column, length in enumerate(RUNS):
            run = sums[length : length + len(runs)] - sums[: len(runs)]
            run *= self._mixed[: len(runs)]
            run += np.uint64(length * _MIX % (1 << 64))
            np.right_shift(run, self._run_shift, out=runs[:, column])
        words *= np.uint64(_MIX)
        words >>= self._word_shift
        run_spans = np.stack((begins, ends), 1) * len(RUNS)
        return Features(words.view(np.int64), word_spans, runs.ravel().view(np.int64), run_spans)

    def _words(
        self, sums: NDArray[np.uint64], word_like: NDArray[np.bool_], begins: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
        """Return words and pairs in turn, and the spans of lines: a line's last word has no pair with the next."""
        edges = np.flatnonzero(word_like[1:] != word_like[:-1]) + 1
        firsts, lasts = edges[0::2], edges[1::2]
        words = (sums[lasts] - sums[firsts]) * self._inverse[firsts]
        both = np.zeros(2 * len(words), np.uint64)
        both[0::2] = words
        both[1:-1:2] = words[:-1] * np.uint64(31) + words[1:]
        owned = np.append(np.searchsorted(firsts, begins), len(firsts))
        return both, np.stack((2 * owned[:-1], np.maximum(2 * owned[1:] - 1, 2 * owned[:-1])), 1)

    @staticmethod
    def cost(line: str) -> int:
        """Return how many characters of a pass a line takes."""
        return min(len(line), LINE_CHARACTERS_MAX) + len(_BEFORE) + len(_AFTER)


_IS_WORD = bytes(
    48 <= code <= 57 or 65 <= code <= 90 or 97 <= code <= 122 or code == 39 for code in range(256)
)  # the apostrophe is part of a word
_DIGITS_ALIKE = bytes(_ZERO if 48 <= code <= 57 else code for code in range(256))


def _characters(
    lines: Sequence[str],
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Return all characters (digits as one sign), which are parts of words, where each line's runs begin and end."""
    cut = [line[:LINE_CHARACTERS_MAX] for line in lines]
    joined = _BEFORE + f"{_AFTER}{_BEFORE}".join(cut) + _AFTER
    lengths = np.fromiter(map(len, cut), np.intp, len(cut)) + len(_BEFORE)
    ends = np.cumsum(lengths + len(_AFTER)) - len(_AFTER)
    begins = ends - lengths
    if joined.isascii():
        data = joined.encode("ascii")
        code = np.frombuffer(data.translate(_DIGITS_ALIKE), np.uint8).astype(np.uint64)
        return code, np.frombuffer(data.translate(_IS_WORD), np.bool_), begins, ends
    raw = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    code = raw.astype(np.uint64)
    digits = (raw >= _ZERO) & (raw <= _ZERO + 9)
    code[digits] = _ZERO
    letters = ((raw | 32) >= 97) & ((raw | 32) <= 122)
    word_like = letters | digits | ((raw >= 0xC0) & (raw < 0x2000)) | (raw == 39) | (raw > 0x3000)
    return code, word_like, begins, ends


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count + 1, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)

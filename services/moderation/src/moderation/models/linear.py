"""Tier 1: a linear model over hashed words and character runs, one column of weights per head, eight bits each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moderation.models.features import Features, Hasher
from moderation.models.wordpiece import plain_letters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_BATCH_CHARACTERS = 1 << 16


class LinearModel:
    """Weights [features, columns] with a bias per column: the ten heads and, last, the gate of the second tier."""

    def __init__(self, table: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Keep the table; its rows are those of `Hasher`."""
        self._table = np.vstack((table, np.zeros((1, table.shape[1]), np.float32)))
        self._bias = bias
        self._hasher = Hasher()

    @classmethod
    def load(cls, file: Path) -> LinearModel:
        """Read `table` (int8), `scale` and `bias` (float32 per column) of a .npz file."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(arrays["table"].astype(np.float32) * arrays["scale"], arrays["bias"])

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [texts, columns]; a text's line does not depend on its neighbours."""
        if not texts:
            return np.zeros((0, len(self._bias)), np.float32)
        return np.concatenate([self._score(batch) for batch in _batches([plain_letters(text) for text in texts])])

    def _score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        read = self._hasher.read(texts)
        sums = self._pool(read.words, read.word_starts) + self._pool(read.runs, read.run_starts)
        return sums + self._bias

    def _pool(self, rows: NDArray[np.int32], starts: NDArray[np.intp]) -> NDArray[np.float32]:
        counts = np.diff(starts, append=len(rows))
        rows = np.append(rows, np.int32(len(self._table) - 1))
        sums = np.add.reduceat(self._table.take(rows, axis=0), starts, axis=0)
        factors = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0).astype(np.float32)
        return sums * factors[:, None]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin, cost = 0, 0
    for number, text in enumerate(texts):
        cost += Hasher.cost(text)
        if cost > _BATCH_CHARACTERS and number > begin:
            yield texts[begin:number]
            begin, cost = number, Hasher.cost(text)
    yield texts[begin:]


__all__ = ["Features", "LinearModel"]

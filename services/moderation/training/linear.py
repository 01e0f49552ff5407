"""Train tier 1: masked logistic regression on all heads at once, full-batch L-BFGS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, sparse

from moderation.models.features import CHARACTER_BITS, WORD_BITS, Hasher
from moderation.models.linear import PASS_CHARACTERS, letters_of, lines_of, passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROWS = (1 << WORD_BITS) + (1 << CHARACTER_BITS)
L2 = 3e-6
STEPS = 90


def matrix(texts: Sequence[str]) -> sparse.csr_matrix:
    """Return [texts, rows]: how often each feature occurs over the root of how many there are of its kind."""
    hasher = Hasher(PASS_CHARACTERS)
    parts = []
    for text in texts:
        read = [hasher.read(lines) for lines in passes(letters_of(lines_of(text)))]
        words = np.concatenate([_own(some.words, some.word_spans) for some in read])
        runs = np.concatenate([_own(some.runs, some.run_spans) for some in read])
        value = np.concatenate([np.full(len(kind), 1 / max(len(kind), 1) ** 0.5, np.float32) for kind in (words, runs)])
        parts.append((np.concatenate((words, runs + (1 << WORD_BITS))).astype(np.int32), value))
    starts = np.concatenate(([0], np.cumsum([len(row) for row, _ in parts])))
    table = sparse.csr_matrix(
        (np.concatenate([value for _, value in parts]), np.concatenate([row for row, _ in parts]), starts),
        shape=(len(texts), ROWS),
    )
    table.sum_duplicates()
    return table


def _own(rows: NDArray[np.int64], spans: NDArray[np.intp]) -> NDArray[np.int64]:
    return np.concatenate([rows[begin:end] for begin, end in spans])


def fit(
    features: sparse.csr_matrix, labels: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights [rows, columns] and biases; label weights of 0 are unknown labels."""
    columns = labels.shape[1]
    total = weights.sum(0, keepdims=True)
    share = weights / total
    turned = features.T.tocsr()

    def cost(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = flat[: ROWS * columns].reshape(ROWS, columns).astype(np.float32)
        logits = features @ table + flat[ROWS * columns :].astype(np.float32)
        error = (1 / (1 + np.exp(-logits)) - labels) * share
        loss = (share * (np.logaddexp(0, logits) - labels * logits)).sum() + L2 * float(
            (table.astype(np.float64) ** 2).sum()
        ) / 2
        slope = turned @ error + L2 * table
        return float(loss), np.concatenate((slope.ravel(), error.sum(0))).astype(np.float64)

    begin = np.zeros((ROWS + 1) * columns)
    found = optimize.minimize(cost, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "maxcor": 6})
    table = found.x[: ROWS * columns].reshape(ROWS, columns).astype(np.float32)
    return table, found.x[ROWS * columns :].astype(np.float32)


def save(file: Path, table: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Write eight bits a weight, with a scale per column."""
    scale = np.abs(table).max(0) / 127
    np.savez_compressed(file, table=np.round(table / scale).astype(np.int8), scale=scale.astype(np.float32), bias=bias)

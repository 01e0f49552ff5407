"""Train tier 1: a logistic regression per head on the rows whose label is known, full-batch L-BFGS."""

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
STEPS = 60
LEAST = 0.3
"""What a feature that both kinds of text have alike gets, against the ratios of others in `_telling`."""


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
    features: sparse.csr_matrix,
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    pull: float,
    by_telling: Sequence[bool],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights [rows, columns] and biases; label weights of 0 are unknown labels, `pull` draws weights to zero.

    Columns are fitted one by one: together, in as many steps, none of them comes to its end. Those that `by_telling`
    names draw less where a feature tells more.
    """
    lines = [
        _fit_column(features, labels[:, column], weights[:, column], pull, telling)
        for column, telling in enumerate(by_telling)
    ]
    return np.stack([line[:-1] for line in lines], 1), np.array([line[-1] for line in lines], np.float32)


def _fit_column(
    features: sparse.csr_matrix,
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    pull: float,
    telling: bool,
) -> NDArray[np.float32]:
    known = weights > 0
    part, label = features[known], labels[known]
    share = weights[known] / weights[known].sum()
    scale = _telling(part, label, share) if telling else np.ones(part.shape[1], np.float32)
    part = (part @ sparse.diags(scale)).tocsr()
    turned = part.T.tocsr()

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = line[:-1].astype(np.float32)
        logits = part @ table + np.float32(line[-1])
        error = (1 / (1 + np.exp(-np.clip(logits, -60, 60))) - label) * share
        loss = (share * (np.logaddexp(0, logits) - label * logits)).sum() + pull * float(line[:-1] @ line[:-1]) / 2
        return float(loss), np.append(turned @ error + pull * table, error.sum()).astype(np.float64)

    begin = np.zeros(part.shape[1] + 1)
    found = optimize.minimize(cost, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "maxcor": 6})
    return np.append(found.x[:-1] * scale, found.x[-1]).astype(np.float32)


def _telling(
    features: sparse.csr_matrix, labels: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return how freely each weight may grow: by how much more often one kind of text has the feature than the other.

    The ratio of naive Bayes as a prior (Wang and Manning 2012); it costs nothing where the model is run.
    """
    present = features.copy()
    present.data = np.ones_like(present.data)
    counts = len(labels) * share
    with_it = [present.T @ (counts * kind) + 1 for kind in (labels, 1 - labels)]
    all_of_it = [(counts * kind).sum() + 1 for kind in (labels, 1 - labels)]
    ratio = np.abs(np.log(with_it[0] / all_of_it[0]) - np.log(with_it[1] / all_of_it[1])) + LEAST
    return np.asarray(ratio / ratio.mean(), np.float32)


def save(file: Path, table: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Write eight bits a weight, with a scale per column."""
    scale = np.abs(table).max(0) / 127
    np.savez_compressed(file, table=np.round(table / scale).astype(np.int8), scale=scale.astype(np.float32), bias=bias)

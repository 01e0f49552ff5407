"""Fits the lines that turn logits into probabilities, on the calibration split, known labels only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize

from moderation.models.heads import HEADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from training.corpus import Row

SPAM_SCALE = 0.5
"""Spam's log-odds are made smaller, in both tiers: scores have four decimals, so those near 1 would be equal."""
_PULL = 1e-3


def platt(logits: NDArray[np.float32], rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Return slope and offset per head."""
    lines = [line(logits[:, [head]], _labels(rows, name)) for head, name in enumerate(HEADS)]
    return [float(line[0]) for line in lines], [float(line[-1]) for line in lines]


def mix(linear: NDArray[np.float32], encoder: NDArray[np.float32], rows: Sequence[Row]) -> list[list[float]]:
    """Return weights of tier 1, of tier 2, and offsets, per head."""
    lines = [
        line(np.stack((linear[:, head], encoder[:, head]), 1), _labels(rows, name)) for head, name in enumerate(HEADS)
    ]
    return [[float(line[place]) for line in lines] for place in range(3)]


def _labels(rows: Sequence[Row], head: str) -> NDArray[np.int8]:
    return np.array([row.label(head) for row in rows], np.int8)


def line(columns: NDArray[np.float32], labels: NDArray[np.int8]) -> NDArray[np.float64]:
    """Fit a logistic line with weights that are not negative."""
    known = labels >= 0
    x, y = columns[known].astype(np.float64), labels[known].astype(np.float64)
    width = x.shape[1]

    def cost(line: NDArray[np.float64]) -> float:
        logits = x @ line[:width] + line[width]
        return float((np.logaddexp(0, logits) - y * logits).mean() + _PULL * ((line[:width] - 1 / width) ** 2).sum())

    bounds = [(0.05, 5.0)] * width + [(-15.0, 15.0)]
    return np.asarray(optimize.minimize(cost, np.array([1 / width] * width + [-1.0]), bounds=bounds).x)

"""Propose thresholds: `python -m training.limits --data FOLDER --weights FOLDER`, on the calibration split."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moderation.models import HEADS, ModelBank
from moderation.models.thresholds import THRESHOLDS_FILE, TOOLS
from training.corpus import read_rows
from training.evaluate import is_clean, score, tool_of
from training.synthesis import synthetic_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLEAN_SHARE = dict.fromkeys(HEADS, 0.0002) | {"spam": 0.003}
"""How much of clean business text may be over each threshold."""
LEAST, MOST = 0.3, 0.97
STEP = 0.01


def main() -> None:
    """Per head: the threshold with the fewest errors, raised until clean business text stays below it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    given = parser.parse_args()
    rows = [row for row in [*read_rows(given.data), *synthetic_rows()] if row.split == "calibrate"]
    scored, _ = score(ModelBank.load(given.weights), [row.text for row in rows])
    clean = np.array([is_clean(row) for row in rows])
    found: dict[str, dict[str, float]] = {}
    for place, head in enumerate(HEADS):
        labels = np.array([row.label(head) for row in rows])
        scores = scored[:, place]
        floor = float(np.quantile(scores[clean], 1 - CLEAN_SHARE[head])) + STEP
        tools = {}
        for tool in TOOLS:
            here = (
                np.array([tool_of(row) == tool for row in rows])
                if head in {"spam", "phish"}
                else np.ones(len(rows), bool)
            )
            best = _fewest_errors(labels[here & (labels >= 0)], scores[here & (labels >= 0)])
            tools[tool] = round(min(max(best, floor, LEAST), MOST), 2)
        found[head] = tools
        print(head, f"clean below {floor:.3f}", tools)
    text = json.dumps(found, indent=1)
    (given.weights / THRESHOLDS_FILE).write_text(text + "\n", encoding="utf-8")


def _fewest_errors(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    """Return the threshold with the best balanced share of right answers; 0.5 where there is little to go by."""
    if min((labels == 1).sum(), (labels == 0).sum()) < 10:
        return 0.5
    tries = np.arange(LEAST, MOST, STEP)
    true, false = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    caught = 1 - np.searchsorted(true, tries) / len(true)
    alarms = 1 - np.searchsorted(false, tries) / len(false)
    return float(tries[np.argmax(caught - 2 * alarms)])


if __name__ == "__main__":
    main()

"""Train the model of spam and put it beside tier 1: `python -m training.spam --data FOLDER --weights FOLDER`."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from moderation.models.heads import HEADS
from moderation.models.linear import LinearModel
from moderation.models.spam import CHARACTER_BITS, LETTERS, SHORT, WORD_BITS, Reader, columns_of
from training import linear
from training.calibrate import SPAM_SCALE, line
from training.corpus import is_clean, read_rows
from training.reading import as_read
from training.synthesis import FOREIGN_SOURCE, foreign_rows, synthetic_rows, texting_rows
from training.tier1 import SOCIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.corpus import Row

PULL = 3e-6
WEIGHTS = {"tg_spam": 0.5, "youtube_spam": 0.5, "clinc150": 0.3, "banking77": 0.3, "synthetic": 0.1}
WEIGHT_OF_TALK = 0.01
FOREIGN_WEIGHTS = (0.2, 0.1)
"""Of honest texts in other languages and of spam, which only the third column learns from, beside all letters."""
LINEAR_SHARE = 0.2
"""How much tier 1 counts beside it: a text message of several lines is read as a letter, and tier 1 knows both."""
CLEAN_SHARES = (0.1, 0.25)
"""Share of clean business text that is read: as if all were letters, and as if all were short texts."""
_BATCH = 1000


def main() -> None:
    """Fit the columns on the training split, calibrate on the calibration split, complete the manifest."""
    parser = argparse.ArgumentParser()
    for name in ("data", "weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    spam = HEADS.index("spam")
    rows = [*read_rows(given.data), *synthetic_rows(), *texting_rows(), *foreign_rows()]
    rows = [row for row in rows if row.label("spam") >= 0]
    train, held = ([row for row in rows if row.split == split] for split in ("train", "calibrate"))
    texts = [as_read(row.text) for row in train]
    foreign, kinds = np.array([row.source == FOREIGN_SOURCE for row in train]), columns_of(texts)
    read_by = np.stack([(kinds == LETTERS) & ~foreign, (kinds == SHORT) & ~foreign, (kinds == LETTERS) | foreign], 1)
    weights = np.array([weight_of(row) for row in train], np.float32)
    labels = np.array([row.label("spam") for row in train], np.float32)
    table, bias = linear.fit(
        matrix(texts), np.stack([labels] * 3, 1), np.where(read_by, weights[:, None], 0), PULL, [True] * 3
    )
    file = given.weights / "spam.npz"
    linear.save(file, table, bias)
    texts = [as_read(row.text) for row in held]
    of_linear = LinearModel.load(given.weights / "linear.npz").logits(texts)[:, spam]
    mixed = (1 - LINEAR_SHARE) * (matrix(texts) @ table + bias) + LINEAR_SHARE * of_linear[:, None]
    labels = np.array([row.label("spam") for row in held])
    real = np.array([row.source not in {*SOCIAL, FOREIGN_SOURCE} for row in held])
    some = [real & (columns_of(texts) == kind) for kind in (LETTERS, SHORT, LETTERS)]
    slopes, offsets = zip(
        *(line(mixed[chosen, [column]][:, None], labels[chosen]).tolist() for column, chosen in enumerate(some)),
        strict=True,
    )
    clean = of_linear[[is_clean(row) for row in held]]
    manifest = json.loads((given.weights / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["spam"] = {
        "gate": [round(float(np.quantile(clean, 1 - share)), 4) for share in CLEAN_SHARES],
        "own": [(1 - LINEAR_SHARE) * slope for slope in slopes],
        "linear": [LINEAR_SHARE * slope for slope in slopes],
        "offset": offsets,
    }
    manifest["linear"]["slope"][spam], manifest["linear"]["offset"][spam] = SPAM_SCALE, 0.0
    (given.weights / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def weight_of(row: Row) -> float:
    """Return how much a row counts."""
    if row.source == FOREIGN_SOURCE:
        return FOREIGN_WEIGHTS["spam" in row.positive]
    return WEIGHT_OF_TALK if row.source in SOCIAL else WEIGHTS.get(row.source, 1.0)


def matrix(texts: Sequence[str]) -> sparse.csr_matrix:
    """Return [texts, rows]: which features occur, over the root of how many of their kind do."""
    reader = Reader()
    return sparse.vstack(
        [_part(reader, texts[begin : begin + _BATCH]) for begin in range(0, len(texts), _BATCH)]
    ).tocsr()


def _part(reader: Reader, texts: Sequence[str]) -> sparse.csr_matrix:
    tables = []
    for rows, bits in zip(zip(*reader.read(texts), strict=True), (WORD_BITS, CHARACTER_BITS), strict=True):
        counts = np.array([len(of_text) for of_text in rows])
        text = np.repeat(np.arange(len(texts)), counts)
        value = (1 / np.sqrt(np.maximum(counts, 1)))[text].astype(np.float32)
        tables.append(sparse.csr_matrix((value, (text, np.concatenate(rows))), (len(texts), 1 << bits)))
    return sparse.hstack(tables).tocsr()


if __name__ == "__main__":
    main()

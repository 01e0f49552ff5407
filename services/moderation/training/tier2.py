"""Put the trained encoder beside tier 1: `python -m training.tier2 --data FOLDER --weights FOLDER --work FOLDER`."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from moderation.models.bank import with_spam
from moderation.models.calibration import sigmoid
from moderation.models.encoder import Encoder
from moderation.models.heads import HEADS
from moderation.models.linear import LinearModel
from moderation.models.manifest import SpamFigures
from moderation.models.spam import SpamModel
from training.calibrate import SPAM_SCALE, mix
from training.corpus import is_clean, read_rows
from training.encoder import installed_minilm, vocabulary
from training.export import export
from training.reading import as_read
from training.synthesis import synthetic_rows

TOKENS_MAX = 96
SPAM_BESIDE = 0.7
"""Of spam the encoder's log-odds are added, by so much, to those of a model that has the word: it reads too little of a
long mail."""
GATES = {"spam": 0.85}
"""Heads whose gate is set by hand, higher than by the share of clean text: tier 2 has little to add to them."""
CLEAN_PER_HEAD = dict.fromkeys(HEADS, 0.001) | {"hate": 0.008, "threat": 0.004, "sexual": 0.002, "phish": 0.01}
CLEAN_BY_NEED = 0.012
"""Share of clean business text that each head's gate, and the column of need, may send to tier 2."""


def main() -> None:
    """Export, mix the tiers on the calibration split, set the gate, complete the manifest."""
    parser = argparse.ArgumentParser()
    for name in ("data", "weights", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, default=None)
    parser.add_argument("--state", default="distilled.pt")
    given = parser.parse_args()
    pieces, _ = vocabulary(given.minilm or installed_minilm())
    (given.weights / "vocabulary.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    state = torch.load(given.work / given.state)
    export({name: weight.numpy() for name, weight in state.items()}, given.weights / "encoder.onnx")
    rows = [row for row in [*read_rows(given.data), *synthetic_rows()] if row.split == "calibrate"]
    texts = [as_read(row.text) for row in rows]
    linear = LinearModel.load(given.weights / "linear.npz").logits(texts)
    columns, need = linear[:, : len(HEADS)], linear[:, len(HEADS)]
    manifest = json.loads((given.weights / "manifest.json").read_text(encoding="utf-8"))
    spam = SpamFigures.model_validate(manifest["spam"])
    with_spam(SpamModel.load(given.weights / "spam.npz", spam), columns, texts)
    second = Encoder.load(given.weights, TOKENS_MAX).logits(texts)
    linear_weight, encoder_weight, offset = mix(columns, second, rows)
    place = HEADS.index("spam")
    linear_weight[place], encoder_weight[place], offset[place] = SPAM_SCALE, SPAM_BESIDE * SPAM_SCALE, 0.0
    alone = sigmoid(columns * np.array(manifest["linear"]["slope"]) + np.array(manifest["linear"]["offset"]))
    clean = np.array([is_clean(row) for row in rows])
    gate = [np.quantile(column, 1 - CLEAN_PER_HEAD[head]) for head, column in zip(HEADS, alone[clean].T, strict=True)]
    for head, least in GATES.items():
        gate[HEADS.index(head)] = least
    limit = float(np.quantile(need[clean], 1 - CLEAN_BY_NEED))
    passed = (alone >= gate).any(1) | (need >= limit)
    for head in HEADS:
        true = np.array([row.label(head) == 1 for row in rows])
        print(f"{head}: {passed[true].mean():.1%} of {true.sum()} reach tier 2")
    print(f"clean: {passed[clean].mean():.1%} of {clean.sum()} reach tier 2")
    manifest["encoder"] = {
        "gate": [round(float(value), 4) for value in gate],
        "need": round(limit, 4),
        "tokens_max": TOKENS_MAX,
        "linear_weight": linear_weight,
        "encoder_weight": encoder_weight,
        "offset": offset,
    }
    for name in ("encoder.onnx", "vocabulary.txt"):
        manifest["files"][name] = hashlib.sha256((given.weights / name).read_bytes()).hexdigest()
    (given.weights / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

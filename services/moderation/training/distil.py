"""Let the encoder learn from its teacher: `python -m training.distil --data FOLDER --work FOLDER [--start FILE]`.

It goes on from where `training.encoder` ended (or from a shipped `encoder.onnx`) for two more passes. Of a head that a
source speaks of it is told the mean of the label and of what the teacher thinks, of the others what the teacher thinks
alone, with less weight (Hinton et al. 2015; temperature 1).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from moderation.models.wordpiece import WordPiece
from training.encoder import (
    Course,
    batches_of_pass,
    has_bfloat16,
    installed_minilm,
    mean_of,
    settle,
    train,
    vocabulary,
)
from training.network import TEACHER_LAYERS, Encoder

SEEDS = (41, 42)
COURSE = Course(1, 1100, 50, 1000)
"""Run once for each seed; the second goes on from where the first ended. What is shipped is the mean of both ends."""
LABEL_SHARE = 0.5
UNKNOWN_WEIGHT = 0.3


class Teacher:
    """A trained encoder that turns labels into what they are to be learnt as."""

    def __init__(self, model: Encoder) -> None:
        """Take the model as it is."""
        self._model = model.eval()

    def __call__(self, numbers: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels [batch, heads] between 0 and 1, and their weights."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            said = self._model(numbers).float().sigmoid()
        known = weights > 0
        told = torch.where(known, LABEL_SHARE * labels + (1 - LABEL_SHARE) * said, said)
        return told, torch.where(known, weights, torch.full_like(weights, UNKNOWN_WEIGHT))


def main() -> None:
    """Train the encoder beside its teacher."""
    parser = argparse.ArgumentParser()
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, default=None, help="a state or a shipped encoder.onnx; by default encoder.pt"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    pieces, _ = vocabulary(installed_minilm())
    reader = WordPiece(pieces)
    teacher, model = Encoder(len(pieces), TEACHER_LAYERS), Encoder(len(pieces))
    teacher.load_state_dict(torch.load(given.work / "teacher.pt"))
    model.load_state_dict(state_of(given.start or given.work / "encoder.pt"))
    settle(model)
    ends = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        random = Random(seed)
        batches = batches_of_pass(given.data, seed, reader, random)[: COURSE.batches_max]
        train(model, batches, COURSE, given.work / "distilled.part.pt", told=Teacher(teacher))
        ends.append({name: weight.clone() for name, weight in model.state_dict().items()})
        torch.save(ends[-1], given.work / f"distilled.{seed}.pt")
    torch.save(mean_of(ends), given.work / "distilled.pt")


def state_of(file: Path) -> dict[str, Tensor]:
    """Read a state, or the weights that `training.export` wrote."""
    if file.suffix != ".onnx":
        state: dict[str, Tensor] = torch.load(file)
        return state
    kept = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in onnx.load(file).graph.initializer}
    state = {"words.weight": kept["words"] * kept["word_scales"], "positions.weight": kept["positions"]}
    for name, value in kept.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and f"{stem}.scale" in kept:
            state[name] = (value.float() * kept[f"{stem}.scale"]).T.contiguous()
        elif kind in {"weight", "bias"}:
            state[name] = value
    return state


if __name__ == "__main__":
    main()

"""Fine-tune the encoder's teacher: `python -m training.teacher --data FOLDER --bge FILE --work FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch

from moderation.models.wordpiece import WordPiece
from training.encoder import Course, batches_of_pass, installed_minilm, settle, train, vocabulary
from training.network import from_bge

SEED = 31
COURSE = Course(1, 2000, 100, 1000, 1.5e-4)


def main() -> None:
    """Train the teacher, one pass through the mixture."""
    parser = argparse.ArgumentParser()
    for name in ("data", "bge", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    random = Random(SEED)
    pieces, kept = vocabulary(installed_minilm())
    model = from_bge(given.bge, kept)
    settle(model)
    batches = batches_of_pass(given.data, SEED, WordPiece(pieces), random)[: COURSE.batches_max]
    train(model, batches, COURSE, given.work / "teacher.part.pt")
    torch.save(model.state_dict(), given.work / "teacher.pt")


if __name__ == "__main__":
    main()

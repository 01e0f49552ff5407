"""Fine-tune the encoder's teacher: `python -m training.teacher --data FOLDER --bge FILE --work FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch

from moderation.models.wordpiece import WordPiece
from training.augment import disturb
from training.encoder import BATCH_TOKENS, TOKENS_MAX, Course, installed_minilm, make_batches, train, vocabulary
from training.mixture import mixture
from training.network import from_bge
from training.reading import as_read

SEED = 31
SETTLED_LAYERS = 2
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
    reader = WordPiece(pieces)
    model = from_bge(given.bge, kept)
    for part in (model.words, model.positions, model.norm, *model.layers[:SETTLED_LAYERS]):
        part.requires_grad_(False).eval()
    examples = mixture(given.data, SEED, random)
    numbers = [reader.read(as_read(disturb(one.text, random)), TOKENS_MAX) for one in examples]
    batches = list(make_batches(examples, numbers, BATCH_TOKENS, random))[: COURSE.batches_max]
    print(f"{len(examples)} examples, {len(batches)} batches", flush=True)
    train(model, batches, COURSE, given.work / "teacher.part.pt")
    torch.save(model.state_dict(), given.work / "teacher.pt")


if __name__ == "__main__":
    main()

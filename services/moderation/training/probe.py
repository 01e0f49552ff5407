"""Fit the encoder's last layer by itself: `python -m training.probe --data FOLDER --work FOLDER`.

A short run of stages leaves the last layer, which began at zero, far from its best. What the layers below make of a
text is computed once, by the network in eight bits as it is shipped; then each head is a logistic regression.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from scipy import optimize

from moderation.models.heads import HEADS
from moderation.models.wordpiece import WordPiece
from training.augment import disturb
from training.encoder import installed_minilm, vocabulary
from training.export import export
from training.mixture import Example, mixture
from training.network import WIDTH
from training.reading import as_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SEED, TOKENS_MAX, SHARE = 15, 56, 0.7
PULL = 2e-5
LEFT = {"phish", "spam"}
"""Heads whose last layer stays as the stages made it: long mail is not in the mixture often enough."""


def main() -> None:
    """Read `stage3.pt`, write `probed.pt`."""
    parser = argparse.ArgumentParser()
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    random = Random(SEED)
    state = torch.load(given.work / "stage3.pt")
    pieces, _ = vocabulary(installed_minilm())
    session = pooled_session({name: weight.numpy() for name, weight in state.items()}, given.work / "pooled.onnx")
    examples = [one for one in mixture(given.data, 3, random) if random.random() < SHARE]
    pooled = read([as_read(disturb(one.text, random)) for one in examples], session, WordPiece(pieces), TOKENS_MAX)
    print(f"{len(examples)} texts read", flush=True)
    refit(state, pooled, examples)
    torch.save(state, given.work / "probed.pt")


def pooled_session(weights: dict[str, NDArray[np.float32]], file: Path) -> onnxruntime.InferenceSession:
    """Export the network and let it tell, beside its logits, the mean over tokens."""
    export(weights, file)
    model = onnx.load(file)
    mean = next(node.output[0] for node in model.graph.node if node.op_type == "ReduceMean")
    model.graph.output.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, [1, WIDTH]))
    onnx.save(model, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def read(
    texts: Sequence[str], session: onnxruntime.InferenceSession, reader: WordPiece, tokens_max: int
) -> NDArray[np.float32]:
    """Return [texts, width]."""
    numbers = (np.array([reader.read(text, tokens_max)], np.int64) for text in texts)
    return np.concatenate([session.run(None, {"numbers": one})[1] for one in numbers])


def refit(state: dict[str, torch.Tensor], pooled: NDArray[np.float32], examples: Sequence[Example]) -> None:
    """Put fitted lines into the last layer."""
    middle, spread = pooled.mean(0), pooled.std(0) + 1e-6
    features = ((pooled - middle) / spread).astype(np.float64)
    for place, head in enumerate(HEADS):
        weights = np.array([one.weights[place] for one in examples])
        labels = np.array([one.labels[place] for one in examples])
        if head in LEFT:
            continue
        line = _line(features[weights > 0], labels[weights > 0], weights[weights > 0])
        state["heads.weight"][place] = torch.from_numpy((line[:-1] / spread).astype(np.float32))
        state["heads.bias"][place] = float(line[-1] - (line[:-1] / spread) @ middle)


def _line(
    features: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    share = weights / weights.sum()

    def cost(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = features @ line[:-1] + line[-1]
        error = (1 / (1 + np.exp(-np.clip(logits, -60, 60))) - labels) * share
        loss = (share * (np.logaddexp(0, logits) - labels * logits)).sum() + PULL * (line[:-1] ** 2).sum() / 2
        return float(loss), np.append(features.T @ error + PULL * line[:-1], error.sum())

    begin = np.zeros(features.shape[1] + 1)
    found = optimize.minimize(cost, begin, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x)


if __name__ == "__main__":
    main()

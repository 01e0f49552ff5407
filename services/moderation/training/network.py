"""The encoder as it is trained: MiniLM-L6-H384 (Wang et al. 2020) with a mean over tokens and a logit per head.

Its teacher is the same with twice the layers, from bge-small-en-v1.5 (Xiao et al. 2023), whose vocabulary is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.heads import HEADS

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, LAYERS, ATTENTION_HEADS, INNER = 384, 6, 12, 1536
TEACHER_LAYERS = 12
POSITIONS = 128
EPSILON = 1e-12
DROPPED = 0.1
"""Share of what each half of a layer says that is left out at random while it is trained."""


class Layer(nn.Module):
    """One transformer layer, normalised after each half (BERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm_1 = nn.LayerNorm(WIDTH, EPSILON)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH, EPSILON)
        self.drop = nn.Dropout(DROPPED)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Take [batch, tokens, width] and an additive mask [batch, 1, 1, tokens]."""
        batch, tokens, _ = hidden.shape
        query, key, value = self.qkv(hidden).view(batch, tokens, 3, ATTENTION_HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        hidden = self.norm_1(hidden + self.drop(self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))))
        return self.norm_2(hidden + self.drop(self.down(functional.gelu(self.up(hidden)))))


class Encoder(nn.Module):
    """Token numbers [batch, tokens], 0 where there is none, to logits [batch, heads]."""

    def __init__(self, vocabulary_size: int, layers: int = LAYERS) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList([Layer() for _ in range(layers)])
        self.heads = nn.Linear(WIDTH, len(HEADS))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return logits."""
        present = numbers != 0
        bias = torch.zeros(present.shape).masked_fill(~present, -1e4)[:, None, None, :]
        hidden = self.norm(self.words(numbers) + self.positions.weight[: numbers.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden, bias)
        weight = present.float()[:, :, None]
        return self.heads((hidden.float() * weight).sum(1) / weight.sum(1))


def from_minilm(file: Path, kept: list[int]) -> Encoder:
    """Load `model.safetensors` of all-MiniLM-L6-v2, keeping these rows of its vocabulary, in eight bits each."""
    return _from_bert(load_file(file), kept, LAYERS)


def from_bge(file: Path, kept: list[int]) -> Encoder:
    """Load `bge-small-en-v1.5.onnx`, keeping these rows of its vocabulary, in eight bits each.

    ONNX keeps matrices as [in, out] and names them by number; the nodes that use them have the names of BERT's parts.
    """
    graph = onnx.load(file).graph
    values = {part.name: torch.from_numpy(np.array(numpy_helper.to_array(part))) for part in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            part = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            values[f"{part}.weight"] = values[node.input[1]].T
    return _from_bert(values, kept, TEACHER_LAYERS)


def _from_bert(source: dict[str, Tensor], kept: list[int], layers: int) -> Encoder:
    model = Encoder(len(kept), layers)
    with torch.no_grad():
        words = source["embeddings.word_embeddings.weight"][kept]
        scale = words.abs().amax(1, keepdim=True) / 127
        model.words.weight.copy_((words / scale).round() * scale)
        kind = source["embeddings.token_type_embeddings.weight"][0]
        model.positions.weight.copy_(source["embeddings.position_embeddings.weight"][:POSITIONS] + kind)
        _copy(model.norm, source, "embeddings.LayerNorm")
        for number, layer in enumerate(model.layers):
            stem = f"encoder.layer.{number}"
            parts = [f"{stem}.attention.self.{name}" for name in ("query", "key", "value")]
            layer.qkv.weight.copy_(torch.cat([source[f"{part}.weight"] for part in parts]))
            layer.qkv.bias.copy_(torch.cat([source[f"{part}.bias"] for part in parts]))
            _copy(layer.out, source, f"{stem}.attention.output.dense")
            _copy(layer.norm_1, source, f"{stem}.attention.output.LayerNorm")
            _copy(layer.up, source, f"{stem}.intermediate.dense")
            _copy(layer.down, source, f"{stem}.output.dense")
            _copy(layer.norm_2, source, f"{stem}.output.LayerNorm")
        model.heads.weight.zero_()
        model.heads.bias.fill_(-2.0)
    model.words.weight.requires_grad = False
    return model


def _copy(module: nn.Linear | nn.LayerNorm, source: dict[str, Tensor], name: str) -> None:
    module.weight.copy_(source[f"{name}.weight"])
    module.bias.copy_(source[f"{name}.bias"])

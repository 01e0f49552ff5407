"""Write the trained encoder as ONNX with weights of eight bits.

Products are `DynamicQuantizeMatMul` (ONNX Runtime): a scale per column of weights, one scale for all activations of a
run. The service gives one text to each run, so no text's scores depend on what else is in its batch. Weights use seven
of the eight bits: on processors without VNNI sums of two products of full bytes would saturate, and scores would differ
from machine to machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.network import ATTENTION_HEADS, EPSILON, LAYERS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[np.float32]]

WEIGHT_MAX = 63


class Graph:
    """Nodes and constants in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add an array, return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node with one output, return the output's name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def product(self, name: str, value: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """Add a matrix of eight bits [out, in] and a bias."""
        scales = np.maximum(np.abs(weight).max(1), 1e-12) / WEIGHT_MAX
        packed = np.round(weight / scales[:, None]).astype(np.int8).T
        return self.add(
            "DynamicQuantizeMatMul",
            value,
            self.constant(f"{name}.weight", packed),
            self.constant(f"{name}.scale", scales.astype(np.float32)),
            self.constant(f"{name}.zero", np.zeros(len(scales), np.int8)),
            self.constant(f"{name}.bias", bias),
            domain="com.microsoft",
        )


def export(weights: Weights, file: Path) -> None:
    """Write the network of `training.network.Encoder` with these weights, for one text a run."""
    graph = Graph()
    hidden = _embed(graph, weights)
    for number in range(LAYERS):
        hidden = _layer(graph, weights, f"layers.{number}", hidden)
    mean = graph.add("ReduceMean", hidden, graph.constant("axis_1", np.array([1], np.int64)), keepdims=0)
    matrix, bias = (graph.constant(f"heads.{part}", weights[f"heads.{part}"]) for part in ("weight", "bias"))
    graph.add("Gemm", mean, matrix, bias, transB=1)
    graph.nodes[-1].output[0] = "logits"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [helper.make_tensor_value_info("numbers", TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(weights["heads.bias"])])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
        producer_name="waystation",
    )
    onnx.save(model, file)


def _embed(graph: Graph, weights: Weights) -> str:
    words = weights["words.weight"]
    scales = np.maximum(np.abs(words).max(1, keepdims=True), 1e-12) / 127
    table = graph.constant("words", np.round(words / scales).astype(np.int8))
    rows = graph.add("Cast", graph.add("Gather", table, "numbers"), to=TensorProto.FLOAT)
    factors = graph.add("Gather", graph.constant("word_scales", scales.astype(np.float32)), "numbers")
    count = graph.add("Shape", "numbers", start=1, end=2)
    zero, first = graph.constant("zero", np.array([0], np.int64)), graph.constant("axis_0", np.array([0], np.int64))
    places = graph.add("Slice", graph.constant("positions", weights["positions.weight"]), zero, count, first)
    hidden = graph.add("Add", graph.add("Mul", rows, factors), places)
    return graph.add("LayerNormalization", hidden, *_pair(graph, weights, "norm"), axis=-1, epsilon=EPSILON)


def _layer(graph: Graph, weights: Weights, name: str, hidden: str) -> str:
    def product(part: str, value: str) -> str:
        return graph.product(
            f"{name}.{part}", value, *(weights[f"{name}.{part}.{kind}"] for kind in ("weight", "bias"))
        )

    def joined(norm: str, value: str, change: str) -> str:
        pair = _pair(graph, weights, f"{name}.{norm}")
        return graph.add("SkipLayerNormalization", value, change, *pair, domain="com.microsoft", epsilon=EPSILON)

    thirds = [f"{name}.{part}" for part in ("query", "key", "value")]
    graph.nodes.append(
        helper.make_node("Split", [product("qkv", hidden)], thirds, name=f"{name}.split", axis=-1, num_outputs=3)
    )
    mixed = graph.add("MultiHeadAttention", *thirds, domain="com.microsoft", num_heads=ATTENTION_HEADS)
    hidden = joined("norm_1", hidden, product("out", mixed))
    return joined("norm_2", hidden, product("down", graph.add("Gelu", product("up", hidden))))


def _pair(graph: Graph, weights: Weights, name: str) -> tuple[str, str]:
    scale, bias = (graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return scale, bias

"""Small models of many operators, and their results as onnxruntime computes them.

Linking costs most of a second, so that a test puts all its cases into one model: every case has
inputs and outputs of its own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


@dataclass(frozen=True)
class Const:
    """An input that the model carries, where a bare array is fed."""

    data: Array


@dataclass
class Cases:
    """A model under construction, with what to feed it."""

    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)

    def add(self, op: str, *inputs: "Array | Const | str | None", count: int = 1, **attrs: Any) -> str:
        """Append an operator; what it makes is an output. Returns the (first) output's name."""
        names = [self._input(f"x{len(self.nodes)}_{i}", value) for i, value in enumerate(inputs)]
        outs = [f"{op}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(count)]
        self.nodes.append(helper.make_node(op, names, outs, f"{op} {len(self.nodes)}", **attrs))
        self.outputs.extend(outs)
        return outs[0]

    def hide(self, name: str) -> str:
        """Take a value out of the outputs, so that it may be fused away."""
        self.outputs.remove(name)
        return name

    def _input(self, name: str, value: "Array | Const | str | None") -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, Const):
            self.weights.append(numpy_helper.from_array(value.data, name))
        else:
            self.feeds[name] = value
        return name

    def model(self) -> onnx.ModelProto:
        """The model, its outputs typed by ONNX's own inference."""
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in self.feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "cases", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

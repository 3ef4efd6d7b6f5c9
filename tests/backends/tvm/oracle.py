"""Small models of many operators, compiled and compared with what onnxruntime computes.

Linking costs most of a second, so that a test puts all its cases into one model: every case has
inputs and outputs of its own.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deepseek_edge.artifacts import Program
from deepseek_edge.backends.tvm import compile_program
from deepseek_edge.backends.tvm.graph import Graph
from deepseek_edge.backends.tvm.importer import import_onnx
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target

Array = NDArray[Any]
TOLERANCE = 1e-4  # of the output's range


@dataclass(frozen=True)
class Const:
    """An input that the model carries, where a bare array is fed."""

    data: Array


Input = Array | Const | str | None


@dataclass
class Cases:
    """A model under construction, with what to feed it."""

    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def add(self, op: str, *inputs: Input, count: int = 1, **attrs: Any) -> str:
        number = len(self.nodes)
        names = [self._input(f"x{number}_{i}", value) for i, value in enumerate(inputs)]
        outs = [f"{op}_{number}" + (f"_{i}" if i else "") for i in range(count)]
        self.nodes.append(helper.make_node(op, names, outs, f"{op} {number}", **attrs))
        self.outputs.extend(outs)
        return outs[0]

    def inner(self, op: str, *inputs: Input, **attrs: Any) -> str:
        """As ``add``, but the result is no output, so that it may be fused away."""
        name = self.add(op, *inputs, **attrs)
        self.outputs.remove(name)
        return name

    def _input(self, name: str, value: Input) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Const):
            self.weights.append(numpy_helper.from_array(value.data, name))
        else:
            self.feeds[name] = value
        return name

    def model(self) -> onnx.ModelProto:
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

    def graph(self) -> Graph:
        """The model as the back end imports it."""
        return import_onnx(self.model())


def model_of(text: str) -> onnx.ModelProto:
    """A model in ONNX's own text form."""
    return onnx.parser.parse_model(text)


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [info.name for info in model.graph.output]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@cache
def host() -> Target:
    return load_target("host")


def compiled(
    model: onnx.ModelProto, folder: Path, target: Target | None = None, *batches: int
) -> Program:
    return compile_program(
        model,
        target or host(),
        batches=batches or (1,),
        work_dir=folder,
        progress=lambda stage, done, total: None,
    )


def computed(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What the program compiled for this machine answers."""
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(model, Path(folder))
        with Engine(program.library, threads=2) as engine:
            return engine.run(feeds)


def assert_equals_reference(cases: Cases, tolerance: float = TOLERANCE) -> None:
    """Compile, run and compare: floats within a share of their range, all else exactly."""
    model = cases.model()
    expected, actual = reference(model, cases.feeds), computed(model, cases.feeds)
    assert list(actual) == list(expected)
    wrong = [
        f"{describe(model, name)}: {found}"
        for name in expected
        if (found := difference(expected[name], actual[name], tolerance)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def describe(model: onnx.ModelProto, output: str) -> str:
    node = next(node for node in model.graph.node if output in node.output)
    return str(helper.printable_node(node))


def difference(expected: Array, actual: Array, tolerance: float) -> str | None:
    """What is wrong, or None."""
    if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
        return f"{actual.dtype}{actual.shape} for {expected.dtype}{expected.shape}"
    if expected.dtype.kind != "f":
        return None if np.array_equal(expected, actual) else f"{actual} for {expected}"
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return f"{actual[~finite]} for {expected[~finite]}"
    if not finite.any():
        return None
    values = expected[finite].astype(np.float64)
    span = max(float(np.ptp(values)), float(np.abs(values).max()) / 10, 1e-30)
    error = float(np.abs(values - actual[finite]).max()) / span
    return None if error <= tolerance else f"error {error:.2e} of the range"

"""Integer kernels equal the Q/DQ graph's integer form, run by onnxruntime, on every unit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_edge.artifacts import Program
from deepseek_edge.device import qemu
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.parity import Reference
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target

pytestmark = pytest.mark.tvm

Array = np.ndarray[Any, Any]


def x86(**changes: Any) -> Target:
    """The host as an older x86 core, which it can run."""
    host = load_target("host")
    if host.arch != "x86_64":
        pytest.skip("the host is no x86-64")
    missing = set(changes["features"]) - set(host.features)
    if missing:
        pytest.skip(f"the host has no {', '.join(sorted(missing))}")
    return dataclasses.replace(host, **changes)


TARGETS = {
    "host": lambda: load_target("host"),
    "sse": lambda: x86(mcpu="x86-64-v2", features=(), vector_bits=128, vector_registers=16),
    "avx2": lambda: x86(
        mcpu="x86-64-v3", features=("avx2", "fma"), vector_bits=256, vector_registers=16
    ),
    "avxvnni": lambda: x86(
        mcpu="x86-64-v3", features=("avx2", "fma", "avxvnni"), vector_bits=256, vector_registers=16
    ),
    "raspberry-pi-4": lambda: load_target("raspberry-pi-4"),
    "raspberry-pi-5": lambda: load_target("raspberry-pi-5"),
    "android-arm64-i8mm": lambda: load_target("android-arm64-i8mm"),
}
EMULATED = {"raspberry-pi-4", "raspberry-pi-5", "android-arm64-i8mm"}


class Graph:
    """A Q/DQ graph under construction: one float input, one output for each layer."""

    def __init__(self, shape: tuple[int, ...], zero_point: int, scale: float = 0.05) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[str] = []
        self.shape = shape
        self.x = self.quantize("x", scale, zero_point)

    def constant(self, data: Array) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(data, name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def quantize(self, value: str, scale: float, zero_point: int) -> str:
        parameters = [self.constant(np.float32(scale)), self.constant(np.int8(zero_point))]
        integers = self.node("QuantizeLinear", [value, *parameters])
        return self.node("DequantizeLinear", [integers, *parameters])

    def weights(self, data: Array, scales: Array, axis: int) -> str:
        zeros = np.zeros(scales.shape, np.int8)
        inputs = [self.constant(data), self.constant(scales), self.constant(zeros)]
        return self.node("DequantizeLinear", inputs, axis=axis)

    def output(self, value: str, scale: float, zero_point: int = 0) -> None:
        self.outputs.append(self.quantize(value, scale, zero_point))

    def model(self) -> Any:
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self.nodes,
            "integers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compiled(graph: Graph, target: Target, folder: Path) -> Program:
    from deepseek_edge.backends.tvm import compile_program

    folder.mkdir(exist_ok=True)
    return compile_program(
        graph.model(), target, batches=(1,), work_dir=folder, progress=lambda *_: None
    )


def run(program: Program, target: Target, x: Array, *, emulated: bool) -> dict[str, Array]:
    if emulated:
        return qemu.run(program.library, target, {"x": x}, specs=program.entries[0])
    with Engine(program.library, threads=2) as engine:
        return engine.run({"x": x})


def assert_equal(graph: Graph, got: dict[str, Array], x: Array) -> None:
    """Equal to the last integer: the reference runs the graph's integer form."""
    for name, expected in Reference(graph.model()).run({"x": x}).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


def add_convolution(graph: Graph, rng: np.random.Generator, layer: dict[str, Any]) -> None:
    channels = graph.shape[1]
    groups = layer["groups"] if channels % layer["groups"] == 0 else 1
    out = channels if layer["depthwise"] else layer["out"] * groups
    groups = channels if layer["depthwise"] else groups
    kernel, pad = layer["kernel"], min(layer["pad"], layer["kernel"] - 1)
    shape = (out, channels // groups, kernel, kernel)
    data = rng.integers(-127, 128, shape).astype(np.int8)
    scales = rng.uniform(0.002, 0.02, out).astype(np.float32)
    bias = graph.constant(rng.standard_normal(out).astype(np.float32))
    value = graph.node(
        "Conv",
        [graph.x, graph.weights(data, scales, 0), bias],
        kernel_shape=[kernel, kernel],
        strides=[layer["stride"]] * 2,
        dilations=[layer["dilation"]] * 2,
        pads=[pad, max(pad - 1, 0), pad, pad],
        group=groups,
    )
    if layer["relu"]:
        value = graph.node("Relu", [value])
    # About one standard deviation in 40 steps.
    size = 0.05 * 60 * 0.011 * 73 * np.sqrt(np.prod(shape[1:])) / 40
    graph.output(value, float(size), layer["zero_out"])


LAYER = st.fixed_dictionaries(
    {
        "depthwise": st.booleans(),
        "groups": st.sampled_from([1, 1, 2, 3]),
        "out": st.integers(1, 70),
        "kernel": st.sampled_from([1, 2, 3, 5]),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "pad": st.integers(0, 4),
        "relu": st.booleans(),
        "zero_out": st.integers(-128, 127),
    }
)
CASE = st.fixed_dictionaries(
    {
        "layers": st.lists(LAYER, min_size=4, max_size=6),
        "shape": st.tuples(
            st.integers(1, 4), st.integers(1, 40), st.integers(9, 15), st.integers(9, 33)
        ),
        "zero_point": st.integers(-128, 127),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.emulated if n in EMULATED else ()) for n in TARGETS],
)
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=CASE)
def test_convolutions_equal_the_reference(name: str, case: dict[str, Any], tmp_path: Path) -> None:
    target = TARGETS[name]()
    rng = np.random.default_rng(case["seed"])
    graph = Graph(case["shape"], case["zero_point"])
    for layer in case["layers"]:
        add_convolution(graph, rng, layer)
    program = compiled(graph, target, tmp_path)
    assert program.layers.int8 == program.layers.total == len(case["layers"])
    x = (rng.standard_normal(graph.shape) * 3).astype(np.float32)
    assert_equal(graph, run(program, target, x, emulated=name in EMULATED), x)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.emulated if n in EMULATED else ()) for n in TARGETS],
)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_filter_rows_of_few_channels_are_one_loop(name: str, channels: int, tmp_path: Path) -> None:
    """No channel is padded where a filter row's pixels lie end to end; at the border each is."""
    target = TARGETS[name]()
    rng = np.random.default_rng(channels)
    graph = Graph((1, channels, 11, 60), 9)
    layer = {"depthwise": False, "groups": 1, "out": 33, "dilation": 1, "zero_out": -5}
    for kernel, stride, pad in ((7, 2, 3), (3, 1, 1), (2, 2, 0), (5, 3, 4)):
        shape = {"kernel": kernel, "stride": stride, "pad": pad, "relu": kernel == 3}
        add_convolution(graph, rng, layer | shape)
    program = compiled(graph, target, tmp_path)
    x = (rng.standard_normal(graph.shape) * 3).astype(np.float32)
    assert_equal(graph, run(program, target, x, emulated=name in EMULATED), x)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.emulated if n in EMULATED else ()) for n in TARGETS],
)
@pytest.mark.parametrize("value", [-128, 127])
def test_extreme_values_do_not_saturate(name: str, value: int, tmp_path: Path) -> None:
    """All activations at an end of int8 and all weights at -127: the largest sums there are."""
    target = TARGETS[name]()
    depth = 512
    graph = Graph((1, depth, 4, 5), 0, scale=1.0)
    data = np.full((20, depth, 1, 1), -127, np.int8)
    weights = graph.weights(data, np.ones(20, np.float32), 0)
    exact = float(value * -127 * depth)
    graph.output(graph.node("Conv", [graph.x, weights], kernel_shape=[1, 1]), abs(exact) / 100)
    (out,) = graph.outputs
    program = compiled(graph, target, tmp_path)
    x = np.full(graph.shape, value, np.float32)
    got = run(program, target, x, emulated=name in EMULATED)[out]
    np.testing.assert_allclose(got, np.full(got.shape, exact, np.float32), rtol=1e-6)


def test_a_residual_block_writes_only_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    graph = Graph((1, 8, 12, 12), 3)
    data = rng.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8)
    weights = graph.weights(data, np.full(8, 0.01, np.float32), 0)
    branch = graph.node("Conv", [graph.x, weights], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    total = graph.node("Relu", [graph.node("Add", [branch, graph.x])])
    graph.output(total, 0.3, -128)
    program = compiled(graph, load_target("host"), tmp_path)
    assert [step.op for step in program.entries[0].steps] == [
        "QuantizeLinear",
        "Transpose",
        "IntegerConv+DequantizeLinear+Add+Relu+QuantizeLinear+DequantizeLinear",
        "Transpose",
    ]
    x = rng.standard_normal(graph.shape).astype(np.float32)
    with Engine(program.library, threads=1) as engine:
        assert_equal(graph, engine.run({"x": x}), x)


def test_layers_around_int8_equal_the_reference(tmp_path: Path) -> None:
    """Pooling, concatenation with other scales, resize, means, Gemm, transposed convolution."""
    rng = np.random.default_rng(11)
    graph = Graph((2, 6, 8, 10), -20)
    pooled = graph.node("MaxPool", [graph.x], kernel_shape=[2, 2], strides=[2, 2])
    graph.output(pooled, 0.05, -20)
    averaged = graph.node(
        "AveragePool", [graph.x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
    )
    graph.output(averaged, 0.02, 5)
    other = graph.quantize(graph.node("Sigmoid", [graph.x]), 1 / 256, -128)
    joined = graph.node("Concat", [graph.x, other], axis=1)
    graph.output(joined, 0.06, -3)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    bigger = graph.node("Resize", [graph.x, "", scales], mode="nearest")
    graph.output(bigger, 0.05, -20)
    mean = graph.quantize(graph.node("GlobalAveragePool", [graph.x]), 0.01, 0)
    flat = graph.node("Flatten", [mean])
    matrix = rng.integers(-127, 128, (13, 6)).astype(np.int8)
    gemm = graph.weights(matrix, rng.uniform(0.01, 0.02, 13).astype(np.float32), 0)
    bias = graph.constant(rng.standard_normal(13).astype(np.float32))
    graph.output(graph.node("Gemm", [flat, gemm, bias], transB=1), 0.05, 1)
    taps = rng.integers(-127, 128, (6, 3, 2, 2)).astype(np.int8)
    up = graph.weights(taps, np.full(3, 0.01, np.float32), 1)
    graph.output(graph.node("ConvTranspose", [graph.x, up], strides=[2, 2]), 0.1, 2)
    program = compiled(graph, load_target("host"), tmp_path)
    x = rng.standard_normal(graph.shape).astype(np.float32)
    with Engine(program.library, threads=2) as engine:
        assert_equal(graph, engine.run({"x": x}), x)


def test_a_bias_and_bounds_are_integers_before_int8_is_written(tmp_path: Path) -> None:
    """1 x 4 - 3 steps of 0.5, bounded to [0, 2.5], in steps of 0.25 with zero point -8."""
    graph = Graph((1, 1, 1, 5), 1, scale=0.5)
    weights = graph.weights(np.full((1, 1, 1, 1), 4, np.int8), np.ones(1, np.float32), 0)
    bias = graph.constant(np.array([-1.5], np.float32))
    value = graph.node("Conv", [graph.x, weights, bias], kernel_shape=[1, 1])
    bounds = [graph.constant(np.float32(bound)) for bound in (0.0, 2.5)]
    graph.output(graph.node("Clip", [value, *bounds]), 0.25, -8)
    program = compiled(graph, load_target("host"), tmp_path)
    x = np.array([-0.5, 0.0, 0.5, 1.0, 60.0], np.float32).reshape(graph.shape)
    with Engine(program.library, threads=1) as engine:
        (got,) = engine.run({"x": x}).values()
    assert got.reshape(-1).tolist() == [0.0, 0.0, 0.5, 2.5, 2.5]
    assert program.entries[0].steps[-2].op == "IntegerConv+QuantizeLinear+DequantizeLinear"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.emulated if n in EMULATED else ()) for n in TARGETS],
)
def test_channels_of_tiny_weights_keep_their_bias(name: str, tmp_path: Path) -> None:
    """Their bias is more steps than an int32 sum holds; results beyond int32 saturate, too."""
    target, rng = TARGETS[name](), np.random.default_rng(5)
    graph = Graph((1, 20, 5, 6), -128)
    for groups, y_scale in ((1, 0.05), (20, 0.05), (1, 1e-9), (20, 1e-9)):
        scales = np.full(20, 0.01, np.float32)
        scales[3] = 1e-14
        data = rng.integers(-127, 128, (20, 20 // groups, 3, 3)).astype(np.int8)
        bias = graph.constant(rng.standard_normal(20).astype(np.float32))
        inputs = [graph.x, graph.weights(data, scales, 0), bias]
        pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": groups}
        graph.output(graph.node("Conv", inputs, **pads), y_scale, 3)
    program = compiled(graph, target, tmp_path)
    x = rng.standard_normal(graph.shape).astype(np.float32)
    assert_equal(graph, run(program, target, x, emulated=name in EMULATED), x)


def test_a_sum_that_could_overflow_is_refused(tmp_path: Path) -> None:
    depth = 66_400
    graph = Graph((1, depth), 0)
    data = np.ones((depth, 4), np.int8)
    weights = graph.weights(data, np.ones(4, np.float32), 1)
    graph.output(graph.node("MatMul", [graph.x, weights]), 1.0)
    with pytest.raises(UnsupportedError, match="overflow"):
        compiled(graph, load_target("host"), tmp_path)


def test_uint8_activations_are_refused_with_the_rule(tmp_path: Path) -> None:
    graph = Graph((1, 4), 0)
    point = [graph.constant(np.float32(0.1)), graph.constant(np.uint8(3))]
    integers = graph.node("QuantizeLinear", ["x", *point])
    graph.outputs.append(graph.node("DequantizeLinear", [integers, *point]))
    with pytest.raises(UnsupportedError, match="uint8 is not int8"):
        compiled(graph, load_target("host"), tmp_path)


def test_a_product_with_a_float_activation_stays_float_and_says_why(tmp_path: Path) -> None:
    graph = Graph((2, 5, 5), 0)
    graph.output(graph.node("MatMul", [graph.x, "x"]), 0.1)
    program = compiled(graph, load_target("host"), tmp_path)
    (kept,) = program.layers.kept_float
    assert kept.reason == "it multiplies two activations"
    assert program.layers.int8_macs_share == 0

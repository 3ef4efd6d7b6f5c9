"""Q/DQ graphs that another tool wrote: which node breaks which rule, and what stays float."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek_edge.artifacts import Program
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.parity import Reference
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from tests.backends.tvm.test_integer import Graph, compiled

pytestmark = pytest.mark.tvm

SHAPE = (1, 6, 5, 5)


def pair(graph: Graph, scale: str, zero_point: str, **attributes: int) -> None:
    """The graph's input, quantized and back, as its output."""
    integers = graph.node("QuantizeLinear", ["x", scale, zero_point], **attributes)
    back = graph.node("DequantizeLinear", [integers, scale, zero_point], **attributes)
    graph.outputs.append(back)


def uint8(graph: Graph) -> None:
    pair(graph, graph.constant(np.float32(0.1)), graph.constant(np.uint8(3)))


def computed_scale(graph: Graph) -> None:
    scale = graph.node("ReduceMax", ["x"], keepdims=0)
    pair(graph, scale, graph.constant(np.int8(0)))


def activations_per_channel(graph: Graph) -> None:
    scales = graph.constant(np.full(6, 0.1, np.float32))
    pair(graph, scales, graph.constant(np.zeros(6, np.int8)), axis=1)


def weights_with_zero_points(graph: Graph) -> None:
    weights = graph.constant(np.ones((4, 6, 1, 1), np.int8))
    scales, points = np.full(4, 0.1, np.float32), np.ones(4, np.int8)
    inputs = [weights, graph.constant(scales), graph.constant(points)]
    back = graph.node("DequantizeLinear", inputs, axis=0)
    graph.output(graph.node("Conv", [graph.x, back]), 0.1)


@pytest.mark.parametrize(
    ("build", "node", "rule"),
    [
        (uint8, "QuantizeLinear_2", "uint8 is not int8 per tensor or channel"),
        (computed_scale, "QuantizeLinear_3", "scale and zero point must be constant"),
        (activations_per_channel, "QuantizeLinear_2", "only weights may be per channel"),
        (weights_with_zero_points, "DequantizeLinear_2", "only weights .* with zero point 0"),
    ],
)
def test_a_broken_rule_is_told_with_its_node(
    build: Callable[[Graph], None], node: str, rule: str, tmp_path: Path
) -> None:
    graph = Graph(SHAPE, 0)
    build(graph)
    with pytest.raises(UnsupportedError, match=rf"'{node}'\): {rule}"):
        compiled(graph, load_target("host"), tmp_path)


def weights_of(graph: Graph, least: int) -> str:
    data = np.random.default_rng(1).integers(-127, 128, (4, 6, 1, 1)).astype(np.int8)
    data[0, 0] = least
    return graph.weights(data, np.full(4, 0.01, np.float32), 0)


def low_weights(graph: Graph) -> list[str]:
    return [graph.x, weights_of(graph, -128)]


def float_input(graph: Graph) -> list[str]:
    return ["x", weights_of(graph, -127)]


def int32_bias(graph: Graph) -> list[str]:
    scales = np.full(4, 0.05 * 0.01, np.float32)
    inputs = [graph.constant(np.array([900, -70, 0, 12345], np.int32)), graph.constant(scales)]
    bias = graph.node("DequantizeLinear", inputs, axis=0)
    return [graph.x, weights_of(graph, -127), bias]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (
            low_weights,
            "its weights are not int8 in [-127, 127], which exact 16-bit pair sums need",
        ),
        (float_input, "its input is not quantized"),
        (int32_bias, "its bias is not a float32 constant"),
    ],
)
def test_a_layer_that_breaks_a_rule_is_right_in_float_and_says_which(
    inputs: Callable[[Graph], list[str]], reason: str, tmp_path: Path
) -> None:
    graph = Graph(SHAPE, 3)
    conv = graph.node("Conv", inputs(graph))
    graph.outputs.append(conv)
    program = compiled(graph, load_target("host"), tmp_path)
    (kept,) = program.layers.kept_float
    assert (kept.name, kept.reason) == (conv, reason)
    assert_as_written(graph, program)


def assert_as_written(graph: Graph, program: Program) -> None:
    """The program and its reference agree with the graph as it stands."""
    x = np.random.default_rng(2).standard_normal(graph.shape).astype(np.float32)
    (expected,) = Reference(graph.model(), as_written=True).run({"x": x}).values()
    (reference,) = Reference(graph.model()).run({"x": x}).values()
    with Engine(program.library, threads=1) as engine:
        (actual,) = engine.run({"x": x}).values()
    tolerance = 1e-4 * np.ptp(expected)
    np.testing.assert_allclose(reference, expected, atol=tolerance)
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def matrix(graph: Graph, shape: tuple[int, ...], axis: int) -> str:
    """Weights whose every output, and every input, has a scale of its own."""
    data = np.random.default_rng(1).integers(-127, 128, shape).astype(np.int8)
    return graph.weights(data, np.geomspace(0.01, 1, shape[axis]).astype(np.float32), axis)


def bias_a_row(graph: Graph) -> str:
    bias = graph.constant(np.array([[1], [20], [-300], [4000]], np.float32))
    return graph.node("Gemm", [graph.x, matrix(graph, (4, 4), 1), bias])


def scales_of_inputs(graph: Graph) -> str:
    return graph.node("Gemm", [graph.x, matrix(graph, (4, 4), 1)], transB=1)


def stacked_matrices(graph: Graph) -> str:
    return graph.node("MatMul", [graph.x, matrix(graph, (2, 4, 5), 2)])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (bias_a_row, "its bias is not one number a column"),
        (scales_of_inputs, "its weights' scales are not one an output channel"),
        (stacked_matrices, "its weights are not a matrix"),
    ],
)
def test_a_layer_whose_numbers_lie_elsewhere_is_right_in_float(
    build: Callable[[Graph], str], reason: str, tmp_path: Path
) -> None:
    graph = Graph((4, 4), 3)
    layer = build(graph)
    graph.outputs.append(layer)
    program = compiled(graph, load_target("host"), tmp_path)
    (kept,) = program.layers.kept_float
    assert (kept.name, kept.reason) == (layer, reason)
    assert_as_written(graph, program)


def test_groups_of_a_transposed_convolution_share_their_scales(tmp_path: Path) -> None:
    graph = Graph(SHAPE, 3)
    bias = graph.constant(np.arange(4, dtype=np.float32))
    weights = matrix(graph, (6, 2, 2, 2), 1)
    layer = graph.node("ConvTranspose", [graph.x, weights, bias], group=2, strides=[2, 2])
    graph.outputs.append(layer)
    assert_as_written(graph, compiled(graph, load_target("host"), tmp_path))

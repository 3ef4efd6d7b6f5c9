from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deepseek_edge.quantization.affine import (
    Affine,
    affine_from_range,
    dequantize,
    quantize,
    quantize_weights,
)
from deepseek_edge.quantization.calibrate import session


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale", "zero_point"),
    [
        (0.0, 25.5, False, 0.1, -128),  # Relu: no integer is wasted below 0
        (-25.5, 0.0, False, 0.1, 127),
        (-1.0, 1.55, False, 0.01, -28),
        (2.0, 5.1, False, 0.02, -128),  # widened to hold 0
        (-12.7, 3.0, True, 0.1, 0),
        (0.0, 12.7, True, 0.1, 0),
    ],
)
def test_ranges_become_scales(
    low: float, high: float, symmetric: bool, scale: float, zero_point: int
) -> None:
    found = affine_from_range(low, high, symmetric=symmetric)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.zero_point == zero_point


def test_ties_go_to_even_and_ends_saturate() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1000, -1000], np.float32)
    assert quantize(values, Affine(1.0, 0)).tolist() == [0, 2, 2, 0, -2, 127, -128]
    assert quantize(values, Affine(1.0, 3)).tolist() == [3, 5, 5, 3, 1, 127, -128]


def test_weights_never_reach_minus_128() -> None:
    weights = np.array([[-1.28, 1.28, 0.004], [-2.0, 2.0, 1.0]], np.float32)
    found = quantize_weights(weights, np.array([0.01, 0.02], np.float32))
    assert found.tolist() == [[-127, 127, 0], [-100, 100, 50]]


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.floats(-100, 0),
    st.floats(0.001, 100),
    st.booleans(),
)
def test_values_inside_the_range_come_back_within_half_a_step(
    values: list[float], low: float, high: float, symmetric: bool
) -> None:
    affine = affine_from_range(low, high, symmetric=symmetric)
    inside = np.clip(np.array(values, np.float32), np.float32(low), np.float32(high))
    error = np.abs(dequantize(quantize(inside, affine), affine) - inside)
    # The zero point is an integer too, so that an end may be half a step outside.
    assert (error <= 1.01 * affine.scale + 1e-6 * np.abs(inside)).all()
    assert dequantize(quantize(np.zeros(1, np.float32), affine), affine)[0] == 0


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-4, 10), st.integers(-128, 127), st.integers(0, 2**32 - 1))
def test_arithmetic_is_that_of_onnxruntime(scale: float, zero_point: int, seed: int) -> None:
    affine = Affine(float(np.float32(scale)), zero_point)
    values = (np.random.default_rng(seed).standard_normal(500) * scale * 100).astype(np.float32)
    values[:100] = (np.arange(100) - 50 + 0.5) * np.float32(scale)  # ties
    assert np.array_equal(quantize(values, affine), _onnx_quantize(values, affine))


def _onnx_quantize(values: np.ndarray[Any, Any], affine: Affine) -> Any:
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, values.shape)],
        [
            onnx.numpy_helper.from_array(np.array(affine.scale, np.float32), "scale"),
            onnx.numpy_helper.from_array(np.array(affine.zero_point, np.int8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return session(model, optimize=False).run(None, {"x": values})[0]

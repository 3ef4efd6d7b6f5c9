from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.products import (
    count_vectors,
    from_rows,
    has_exact_rows,
    input_rows,
    merge_scales,
    product_of,
    spread_scales,
    to_rows,
)
from tests.quantization.graphs import Array, model, node


def check(
    op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], **attributes: Any
) -> tuple[Array, Array]:
    """The layer's outputs by onnxruntime, and rows times weights, both sorted."""
    random = np.random.default_rng(0)
    weights = random.standard_normal(w_shape).astype(np.float32)
    x = random.standard_normal(x_shape).astype(np.float32)
    layer = node(op, ["x", "w"], "y", **attributes)
    graph = model([layer], {"x": x_shape}, ("y",), {"w": weights})
    product = product_of(GraphIndex(graph), graph.graph.node[0])
    rows = to_rows(product, weights)
    assert np.array_equal(from_rows(product, rows), weights)
    vectors = input_rows(product, x, np.arange(count_vectors(product, x)))
    outputs = vectors @ rows.transpose(0, 2, 1)
    expected = session(graph, optimize=False).run(None, {"x": x})[0]
    return np.sort(expected.ravel()), np.sort(outputs.ravel())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_times_weights_are_a_convolutions_outputs(data: st.DataObject) -> None:
    small = st.integers(1, 3)
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel = (data.draw(small), data.draw(small))
    attributes: dict[str, Any] = {
        "group": groups,
        "strides": [data.draw(small), data.draw(small)],
        "dilations": [data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))],
    }
    if data.draw(st.booleans()):
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        if attributes["auto_pad"] != "VALID":
            attributes["dilations"] = [1, 1]
    else:
        attributes["pads"] = [data.draw(st.integers(0, 2)) for _ in range(4)]
    shape = (data.draw(st.integers(1, 2)), 4, 9, 8)
    expected, found = check("Conv", shape, (2 * groups, 4 // groups, *kernel), **attributes)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "x", "w", "attributes"),
    [
        ("Conv", (1, 2, 9), (3, 2, 3), {"strides": [2]}),
        ("MatMul", (2, 5, 4), (4, 3), {}),
        ("Gemm", (5, 4), (4, 3), {}),
        ("Gemm", (5, 4), (3, 4), {"transB": 1}),
        ("ConvTranspose", (2, 4, 3, 5), (4, 3, 2, 2), {"strides": [2, 2], "group": 2}),
    ],
)
def test_rows_times_weights_are_other_layers_outputs(
    op: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    expected, found = check(op, x, w, **attributes)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_taps_that_overlap_have_no_rows() -> None:
    weights = np.zeros((4, 3, 3, 3), np.float32)
    graph = model(
        [node("ConvTranspose", ["x", "w"], "y", strides=[2, 2])],
        {"x": (1, 4, 3, 3)},
        ("y",),
        {"w": weights},
    )
    assert not has_exact_rows(product_of(GraphIndex(graph), graph.graph.node[0]))


def test_taps_of_a_channel_share_the_largest_scale() -> None:
    graph = model(
        [node("ConvTranspose", ["x", "w"], "y", strides=[1, 2], group=2)],
        {"x": (1, 4, 3, 3)},
        ("y",),
        {"w": np.zeros((4, 2, 1, 2), np.float32)},
    )
    product = product_of(GraphIndex(graph), graph.graph.node[0])
    channels = merge_scales(product, np.array([[1, 2, 3, 4], [5, 1, 1, 1]], np.float32))
    assert channels.tolist() == [5, 4]
    assert spread_scales(product, channels).tolist() == [[5, 5, 4, 4], [5, 5, 4, 4]]

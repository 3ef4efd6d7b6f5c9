from typing import Any

import numpy as np
import pytest

from deepseek_edge.backends.tvm.graph import Graph, Node, Value, constant
from deepseek_edge.backends.tvm.layout import _groups, channels_last, inverse, permute
from deepseek_edge.backends.tvm.simplify import simplify
from deepseek_edge.errors import UnsupportedError
from tests.backends.tvm.oracle import Cases, Const

WEIGHTS = Const(np.ones((6, 5, 3, 3), np.float32))
MORE = Const(np.ones((4, 6, 1, 1), np.float32))
IMAGE = np.zeros((1, 5, 8, 9), np.float32)


def last(cases: Cases) -> list[str]:
    graph = cases.graph()
    simplify(graph)
    channels_last(graph)
    return [node.op for node in graph.nodes]


def test_inside_a_chain_of_convolutions_nothing_is_transposed() -> None:
    cases = Cases()
    y = cases.inner("Conv", IMAGE, WEIGHTS)
    y = cases.inner("Relu", y)
    y = cases.inner("Conv", y, MORE)
    cases.add("GlobalAveragePool", y)
    # In once; out not at all, because 1 x 1 pixels have no order.
    assert last(cases) == ["Transpose", "Conv", "Relu", "Conv", "ReduceMean", "Reshape"]


def test_an_image_of_three_channels_is_read_as_it_is() -> None:
    cases = Cases()
    image = np.zeros((1, 3, 8, 9), np.float32)
    cases.add("Conv", image, Const(np.ones((6, 3, 3, 3), np.float32)))
    assert last(cases) == ["Conv", "Transpose"]


def test_transposes_that_undo_each_other_vanish() -> None:
    cases = Cases()
    x = cases.inner("Transpose", IMAGE, perm=[0, 2, 3, 1])
    x = cases.inner("Sigmoid", x)
    cases.add("Transpose", x, perm=[0, 3, 1, 2])
    assert last(cases) == ["Sigmoid"]


def test_a_per_channel_constant_moves_along() -> None:
    cases = Cases()
    y = cases.inner("Conv", IMAGE, WEIGHTS)
    cases.add("Mul", y, Const(np.arange(6, dtype=np.float32).reshape(6, 1, 1)))
    graph = cases.graph()
    channels_last(graph)
    (multiply,) = (node for node in graph.nodes if node.op == "Mul")
    assert multiply.value(1).shape == (1, 1, 1, 6)


def test_a_softmax_over_channels_runs_over_the_last_axis() -> None:
    cases = Cases()
    cases.add("Softmax", cases.inner("Conv", IMAGE, WEIGHTS), axis=1)
    assert last(cases) == ["Transpose", "Conv", "Softmax", "Transpose"]


@pytest.mark.parametrize(
    ("op", "axes", "transposes"),
    [("ReduceMean", [1, 2], 0), ("ReduceMean", [0, 2], 1), ("ReduceMax", [1, 3], 1)],
)
def test_reductions_transpose_only_where_axes_are_apart(
    op: str, axes: list[int], transposes: int
) -> None:
    cases = Cases()
    cases.add(op, np.zeros((2, 3, 4, 5), np.float32), axes=axes, keepdims=0)
    assert last(cases).count("Transpose") == transposes


def test_flattening_pixels_keeps_channels_last() -> None:
    cases = Cases()
    y = cases.inner("Conv", IMAGE, WEIGHTS)
    y = cases.inner("Reshape", y, Const(np.array([1, 6, -1])))
    cases.add("Transpose", y, perm=[0, 2, 1])  # (1, pixels, channels): the tokens of a ViT
    # The last Reshape only names the values once more.
    assert [op for op in last(cases) if op != "Reshape"] == ["Transpose", "Conv"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 3, 4), (2, 12), [([0], [0]), ([1, 2], [1])]),
        ((2, 12), (2, 3, 4), [([0], [0]), ([1], [1, 2])]),
        ((6, 4), (4, 6), [([0, 1], [0, 1])]),
        ((5,), (5, 1), [([0], [0]), ([], [1])]),
    ],
)
def test_reshapes_are_cut_into_the_smallest_runs(
    before: tuple[int, ...], after: tuple[int, ...], expected: list[Any]
) -> None:
    groups = _groups(before, after)
    flat = [axis for left, _ in groups for axis in left]
    assert flat == list(range(len(before)))
    assert [axis for _, right in groups for axis in right] == list(range(len(after)))
    for left, right in groups:
        assert np.prod([before[a] for a in left]) == np.prod([after[a] for a in right])
    if all(left and right for left, right in expected):
        assert groups == expected


def test_permutations_compose() -> None:
    assert permute((2, 3, 4, 5), (0, 2, 3, 1)) == (2, 4, 5, 3)
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)


def test_three_spatial_dimensions_are_refused_by_name() -> None:
    x, y = Value("x", "float32", (1, 2, 4, 4, 4)), Value("y", "float32", (1, 3, 4, 4, 4))
    weights = constant("w", np.ones((3, 2, 1, 1, 1), np.float32))
    graph = Graph([x], [y], [Node("Conv", [x, weights], [y], {}, "deep")])
    with pytest.raises(UnsupportedError, match=r"Conv \(node 'deep'\) has 3 spatial dimensions"):
        channels_last(graph)

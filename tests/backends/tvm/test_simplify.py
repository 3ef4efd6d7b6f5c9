import numpy as np
import pytest

from deepseek_edge.backends.tvm.graph import Graph, Node
from deepseek_edge.backends.tvm.simplify import own_outputs, simplify
from deepseek_edge.errors import UnsupportedError
from tests.backends.tvm.oracle import Array, Cases, Const

X = np.zeros((1, 2, 4, 4), np.float32)


def simplified(cases: Cases) -> Graph:
    graph = cases.graph()
    simplify(graph)
    own_outputs(graph, cases.outputs)
    return graph


def ops(cases: Cases) -> list[str]:
    return [node.op for node in simplified(cases).nodes]


def only(cases: Cases, op: str) -> Node:
    (node,) = (node for node in simplified(cases).nodes if node.op == op)
    return node


def data(node: Node, place: int) -> Array:
    array = node.value(place).data
    assert array is not None
    return array


def floats(*values: float) -> Const:
    return Const(np.array(values, np.float32))


def test_batch_norm_disappears_into_the_convolution() -> None:
    cases = Cases()
    weights = Const(np.ones((2, 2, 1, 1), np.float32))
    y = cases.inner("Conv", X, weights, floats(1, 2))
    cases.add(
        "BatchNormalization",
        y,
        floats(3, 5),
        floats(7, 11),
        floats(1, 1),
        floats(4, 4),
        epsilon=0.0,
    )
    conv = only(cases, "Conv")
    weights_folded, bias = data(conv, 1), data(conv, 2)
    # gamma / sqrt(variance) is 1.5 and 2.5; the biases are (1 - 1) 1.5 + 7 and (2 - 1) 2.5 + 11.
    assert weights_folded.reshape(2, 2).tolist() == [[1.5, 1.5], [2.5, 2.5]]
    assert bias.tolist() == [7, 13.5]
    assert ops(cases) == ["Conv"]


def test_a_strided_pointwise_convolution_takes_its_pixels_first() -> None:
    cases = Cases()
    weights = Const(np.ones((3, 2, 1, 1), np.float32))
    cases.add("Conv", X, weights, strides=[2, 1])
    assert ops(cases) == ["Slice", "Conv"]
    pixels = only(cases, "Slice")
    assert pixels.output.shape == (1, 2, 2, 4)
    assert only(cases, "Conv").attrs["strides"] == [1, 1]


def test_batch_norm_stays_where_the_convolution_is_read_twice() -> None:
    cases = Cases()
    y = cases.add("Conv", X, Const(np.ones((2, 2, 1, 1), np.float32)))
    cases.add("BatchNormalization", y, *(floats(1, 1) for _ in range(4)))
    assert ops(cases) == ["Conv", "Mul", "Add"]


def test_gemm_is_a_product_with_its_factors_in_the_constants() -> None:
    cases = Cases()
    b = Const(np.array([[1, 2]], np.float32))  # (n, k), transposed below
    cases.add("Gemm", np.zeros((3, 2), np.float32), b, floats(5), alpha=2.0, beta=10.0, transB=1)
    assert data(only(cases, "MatMul"), 1).tolist() == [[2], [4]]
    assert data(only(cases, "Add"), 1).tolist() == [50]


def test_zeros_around_an_image_become_the_convolutions_padding() -> None:
    cases = Cases()
    y = cases.inner("Pad", X, Const(np.array([0, 0, 1, 2, 0, 0, 3, 4])))
    cases.add("Conv", y, Const(np.ones((2, 2, 1, 1), np.float32)), pads=[1, 1, 1, 1])
    assert ops(cases) == ["Conv"]
    assert only(cases, "Conv").attrs["pads"] == [2, 3, 4, 5]


def test_a_border_of_another_value_stays() -> None:
    cases = Cases()
    y = cases.inner("Pad", X, Const(np.array([0, 0, 1, 1, 0, 0, 1, 1])), floats(2))
    cases.add("Conv", y, Const(np.ones((2, 2, 1, 1), np.float32)))
    assert ops(cases) == ["Pad", "Conv"]


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "first"),
    [([1], [3], [1], 1), ([-1], [-9], [-2], 3), ([9], [-9], [-1], 3), ([-9], [2], [1], 0)],
)
def test_slices_start_at_a_real_element(
    starts: list[int], ends: list[int], steps: list[int], first: int
) -> None:
    cases = Cases()
    bounds = [Const(np.array(v)) for v in (starts, ends, [3], steps)]
    cases.add("Slice", X, *bounds)
    node = only(cases, "Slice")
    assert node.attrs["starts"] == (first,)
    assert node.attrs["axes"] == (3,)


def test_split_is_a_slice_for_each_output_that_is_read() -> None:
    cases = Cases()
    cases.add("Split", X, Const(np.array([1, 3])), count=2, axis=2)
    cases.outputs = ["Split_0_1"]
    assert only(cases, "Slice").attrs["starts"] == (1,)


def test_thirty_inputs_are_joined_in_two_rounds() -> None:
    cases = Cases()
    cases.add("Concat", *(np.zeros((1, 2), np.float32) for _ in range(30)), axis=0)
    assert [len(node.inputs) for node in simplified(cases).nodes] == [16, 14, 2]


def test_second_outputs_that_nobody_reads_are_forgotten() -> None:
    cases = Cases()
    cases.add("MaxPool", X, count=2, kernel_shape=[2, 2])
    cases.outputs.pop()
    assert ops(cases) == ["MaxPool"]


def test_second_outputs_that_somebody_reads_are_refused() -> None:
    cases = Cases()
    cases.add("MaxPool", X, count=2, kernel_shape=[2, 2])
    with pytest.raises(UnsupportedError, match=r"output 2 of MaxPool \(node 'MaxPool 0'\)"):
        simplified(cases)


def test_outputs_own_their_memory_and_keep_their_names() -> None:
    cases = Cases()
    view = cases.add("Flatten", X)
    cases.add("Identity", view)
    cases.add("Identity", X)
    cases.add("Constant", value_float=3.0)
    graph = simplified(cases)
    assert [value.name for value in graph.outputs] == cases.outputs
    makers = [graph.producers()[value].op for value in graph.outputs]
    assert makers == ["Copy", "Copy", "Copy", "Copy"]
    assert len(set(graph.outputs)) == 4

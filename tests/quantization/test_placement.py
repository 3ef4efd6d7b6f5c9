from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.placement import Placement, place, weight_axis
from deepseek_edge.quantization.prepare import prepare
from tests.quantization.graphs import Array, conv, conv_constants, model, node, residual

X = {"x": (1, 4, 8, 8)}


def placed(graph: onnx.ModelProto, excluded: Mapping[str, str] | None = None) -> Placement:
    return place(GraphIndex(prepare(graph)), excluded)


def chain(*nodes: onnx.NodeProto, **constants: Array) -> Placement:
    """Conv a -> nodes -> Conv z, all of four channels."""
    outputs = {name for one in nodes for name in one.output}
    last = nodes[-1].output[0]
    convs = [one for one in nodes if one.op_type == "Conv"]
    weights = {**conv_constants("a", (4, 4, 1, 1)), **conv_constants("z", (4, 4, 1, 1))}
    for one in convs:
        weights |= conv_constants(one.output[0], (4, 4, 1, 1))
    assert outputs
    graph = model([conv("x", "a"), *nodes, conv(last, "z")], X, ("z",), weights | constants)
    return placed(graph)


def test_tensors_are_quantized_where_they_are_written_to_memory() -> None:
    found = placed(residual())
    assert found.tensors == ("x", "a_relu", "b_clip", "sum", "pooled", "flat")
    assert found.layers == ("a_node", "b_node", "c_node", "y_node")
    assert found.kept_float == ()
    assert found.edges["a_relu"] == {("b_node", 0), ("sum_node", 0)}


def test_a_reshape_shares_its_inputs_scale() -> None:
    assert placed(residual()).shared == (frozenset({"pooled", "flat"}),)


def test_hard_swish_written_out_is_one_chain() -> None:
    three, six = np.array(3, np.float32), np.array(6, np.float32)
    found = chain(
        node("Add", ["a", "three"], "p"),
        node("Clip", ["p", "zero", "six"], "c"),
        node("Mul", ["a", "c"], "m"),
        node("Div", ["m", "six"], "h"),
        three=three,
        six=six,
        zero=np.array(0, np.float32),
    )
    assert found.tensors == ("x", "h")


def test_of_two_convolutions_added_the_earlier_one_is_quantized() -> None:
    found = chain(conv("a", "b"), conv("a", "c"), node("Add", ["c", "b"], "s"))
    assert found.tensors == ("x", "a", "b", "s")
    assert found.edges["b"] == {("s_node", 1)}


def test_a_gate_of_one_pixel_stays_float() -> None:
    found = chain(
        node("GlobalAveragePool", ["a"], "g"),
        conv("g", "e"),
        node("Sigmoid", ["e"], "s"),
        node("Mul", ["a", "s"], "m"),
    )
    assert found.tensors == ("x", "a", "g", "m")


def test_inputs_of_a_concat_share_one_range() -> None:
    found = chain(
        conv("a", "b"),
        conv("a", "c"),
        node("Concat", ["b", "c"], "k", axis=1),
        node("Slice", ["k", "starts", "ends", "axes"], "s"),
        starts=np.array([0]),
        ends=np.array([4]),
        axes=np.array([1]),
    )
    assert frozenset({"b", "c", "k", "s"}) in found.shared


@pytest.mark.parametrize(
    ("one", "shares"),
    [
        (node("MaxPool", ["a"], "p", kernel_shape=[1, 1]), True),
        (node("AveragePool", ["a"], "p", kernel_shape=[1, 1]), False),
        (node("Resize", ["a", "", "scales"], "p", mode="nearest"), True),
        (node("Resize", ["a", "", "scales"], "p", mode="linear"), False),
        (node("Transpose", ["a"], "p", perm=[0, 1, 3, 2]), True),
        (node("Pad", ["a", "pads"], "p"), True),
        (node("Pad", ["a", "pads", "one"], "p"), False),
    ],
)
def test_what_only_moves_values_keeps_their_scale(one: onnx.NodeProto, shares: bool) -> None:
    found = chain(
        one,
        scales=np.array([1, 1, 2, 2], np.float32),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        one=np.array(1, np.float32),
    )
    assert found.shared == ((frozenset({"a", "p"}),) if shares else ())
    assert {"a", "p"} <= set(found.tensors)


def test_a_residual_stream_of_a_transformer_stays_float() -> None:
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], "n"),
        node("MatMul", ["n", "w"], "q"),
        node("MatMul", ["q", "n_t"], "scores"),
        node("Transpose", ["n"], "n_t", perm=[0, 2, 1]),
        node("Softmax", ["scores"], "p"),
        node("MatMul", ["p", "n"], "mixed"),
        node("MatMul", ["mixed", "w"], "o"),
        node("Add", ["n", "o"], "y"),
    ]
    nodes[2], nodes[3] = nodes[3], nodes[2]
    eye = np.eye(6, dtype=np.float32)
    ones = np.ones(6, np.float32)
    graph = model(nodes, {"x": (1, 5, 6)}, ("y",), {"g": ones, "b": ones, "w": eye})
    found = placed(graph)
    assert found.tensors == ("n", "mixed")
    assert found.edges["n"] == {("q_node", 0)}
    assert [(k.name, k.reason) for k in found.kept_float] == [
        ("scores_node", "both operands are activations"),
        ("mixed_node", "both operands are activations"),
    ]


def test_an_excluded_layer_reads_and_is_float() -> None:
    found = placed(residual(), {"b_node": "because"})
    assert "b_node" not in found.layers
    assert found.edges["a_relu"] == {("sum_node", 0)}
    assert [k.reason for k in found.kept_float] == ["because"]


def test_an_image_is_not_quantized_before_it_is_normalized() -> None:
    nodes = [node("Sub", ["x", "mean"], "d"), conv("d", "a")]
    constants = {**conv_constants("a", (4, 4, 1, 1)), "mean": np.ones((1, 4, 1, 1), np.float32)}
    assert placed(model(nodes, X, ("a",), constants)).tensors == ("d",)


def test_outputs_of_the_graph_stay_float() -> None:
    nodes = [conv("x", "a"), node("Relu", ["a"], "r"), conv("r", "y")]
    constants = {**conv_constants("a", (4, 4, 1, 1)), **conv_constants("y", (4, 4, 1, 1))}
    assert placed(model(nodes, X, ("y", "r"), constants)).tensors == ("x", "r")


@pytest.mark.parametrize(
    ("one", "axis"),
    [
        (node("Conv", ["x", "w"], "y"), 0),
        (node("ConvTranspose", ["x", "w"], "y"), 1),
        (node("MatMul", ["x", "w"], "y"), 1),
        (node("Gemm", ["x", "w"], "y"), 1),
        (node("Gemm", ["x", "w"], "y", transB=1), 0),
    ],
)
def test_weights_have_a_scale_of_each_output_channel(one: onnx.NodeProto, axis: int) -> None:
    assert weight_axis(one) == axis

import numpy as np
import onnx
import pytest

from deepseek_edge.errors import ModelError, UnsupportedError
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.prepare import prepare
from tests.quantization.graphs import conv, conv_constants, model, node, samples


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for sample in samples(2):
        expected = session(before, optimize=False).run(None, sample)[0]
        actual = session(after, optimize=False).run(None, sample)[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def operators(graph: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in graph.graph.node]


def normalized(op: str = "Conv") -> onnx.ModelProto:
    """A layer, BatchNormalization, Mul, Add, Sub and Div by constants, Identity, Relu."""
    random = np.random.default_rng(3)
    shape = (6, 3, 3, 3) if op == "Conv" else (3, 6, 2, 2)
    layer = node(op, ["x", "a_w", "a_b"], "a")
    nodes = [
        layer,
        node("BatchNormalization", ["a", "gamma", "beta", "mean", "variance"], "n"),
        node("Mul", ["factor", "n"], "m"),
        node("Add", ["m", "offset"], "p"),
        node("Sub", ["offset", "p"], "s"),
        node("Div", ["s", "two"], "d"),
        node("Identity", ["d"], "i"),
        node("Relu", ["i"], "y"),
    ]
    constants = {
        "a_w": random.standard_normal(shape).astype(np.float32),
        "a_b": random.standard_normal(6).astype(np.float32),
        "gamma": random.random(6).astype(np.float32),
        "beta": random.standard_normal(6).astype(np.float32),
        "mean": random.standard_normal(6).astype(np.float32),
        "variance": random.random(6).astype(np.float32),
        "factor": random.random((1, 6, 1, 1)).astype(np.float32),
        "offset": np.array([0.25], np.float32),
        "two": np.array(2, np.float32),
    }
    return model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_what_follows_a_convolution_linearly_is_folded_in(op: str) -> None:
    graph = normalized(op)
    found = prepare(graph)
    assert operators(found) == [op, "Relu"]
    assert found.graph.node[0].name == "a_node"
    same(graph, found)


def test_a_grouped_transposed_convolution_is_scaled_by_its_output_channels() -> None:
    random = np.random.default_rng(1)
    nodes = [
        node("ConvTranspose", ["x", "w"], "a", group=3),
        node("Mul", ["a", "factor"], "y"),
    ]
    constants = {
        "w": random.standard_normal((3, 2, 2, 2)).astype(np.float32),
        "factor": random.random((6, 1, 1)).astype(np.float32),
    }
    graph = model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants)
    found = prepare(graph)
    assert operators(found) == ["ConvTranspose"]
    same(graph, found)


def test_a_normalization_without_a_convolution_becomes_mul_and_add() -> None:
    graph = normalized()
    del graph.graph.node[0]
    graph.graph.node[0].input[0] = "x"
    for name in ("gamma", "beta", "mean", "variance", "factor"):
        tensor = next(t for t in graph.graph.initializer if t.name == name)
        value = onnx.numpy_helper.to_array(tensor)
        axis = 0 if value.ndim == 1 else 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.take(range(3), axis), name))
    found = prepare(graph)
    assert operators(found)[:2] == ["Mul", "Add"]
    same(graph, found)


def test_a_result_that_others_read_is_not_folded_into() -> None:
    nodes = [conv("x", "a"), node("Mul", ["a", "two"], "m"), node("Add", ["a", "m"], "y")]
    constants = {**conv_constants("a", (4, 3, 1, 1)), "two": np.array(2, np.float32)}
    graph = model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants)
    assert operators(prepare(graph)) == ["Conv", "Mul", "Add"]


def test_alpha_and_beta_are_folded_into_the_operands() -> None:
    constants = conv_constants("a", (4, 12))
    nodes = [node("Gemm", ["x", "a_w", "a_b"], "y", transB=1, alpha=0.5, beta=2.0)]
    graph = model(nodes, {"x": (3, 12)}, ("y",), constants)
    found = prepare(graph)
    assert {a.name for a in found.graph.node[0].attribute} == {"transB"}
    x = samples(1, shape=(3, 12))[0]
    expected = session(graph, optimize=False).run(None, x)[0]
    np.testing.assert_allclose(session(found, optimize=False).run(None, x)[0], expected, rtol=1e-5)


def test_an_old_opset_is_converted_and_the_graph_given_stays() -> None:
    constants = conv_constants("a", (4, 3, 1, 1))
    graph = model([conv("x", "a")], {"x": (1, 3, 12, 12)}, ("a",), constants, opset=11)
    before = graph.SerializeToString()
    assert prepare(graph).opset_import[0].version == 17
    assert graph.SerializeToString() == before


def test_weights_in_constant_nodes_become_initializers() -> None:
    constants = conv_constants("a", (4, 3, 1, 1))
    makers = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
        for name, value in constants.items()
    ]
    graph = model([*makers, conv("x", "a")], {"x": (1, 3, 12, 12)}, ("a",), {})
    found = prepare(graph)
    assert operators(found) == ["Conv"]
    assert {t.name for t in found.graph.initializer} == {"a_w", "a_b"}
    same(graph, found)


def test_a_quantized_graph_is_refused_by_the_name_of_its_node() -> None:
    graph = model([node("Relu", ["x"], "y")], {"x": (1, 3, 4, 4)}, ("y",), {})
    graph.graph.node[0].op_type = "QuantizeLinear"
    with pytest.raises(ModelError, match="y_node"):
        prepare(graph)


def test_an_opset_that_cannot_be_converted_is_refused() -> None:
    graph = model([node("Relu", ["x"], "y")], {"x": (1, 3, 4, 4)}, ("y",), {})
    graph.opset_import[0].version = 999
    with pytest.raises(UnsupportedError, match="999"):
        prepare(graph)

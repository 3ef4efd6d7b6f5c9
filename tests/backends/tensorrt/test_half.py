from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.backends.tensorrt.half import to_float16
from deepseek_edge.errors import UnsupportedError
from tests.quantization.graphs import model, node, residual, samples

Array = np.ndarray[Any, Any]


def floats(values: list[Any]) -> Array:
    return np.array(values, np.float32)


def execute(graph: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def types(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_a_net_in_float16_gives_nearly_the_same() -> None:
    graph = residual()
    halved = to_float16(graph)
    onnx.checker.check_model(halved, full_check=True)
    for sample in samples(3):
        (expected,), (found,) = execute(graph, sample), execute(halved, sample)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 0.01 * np.ptp(expected)


def test_everything_but_inputs_and_outputs_is_float16() -> None:
    halved = to_float16(residual())
    assert {t.data_type for t in halved.graph.initializer} == {TensorProto.FLOAT16}
    found = types(halved)
    float32 = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
    assert float32 == {"x", "y"}


def test_nodes_keep_their_names() -> None:
    graph = residual()
    names = [one.name for one in to_float16(graph).graph.node]
    assert [name for name in names if not name.endswith("/cast")] == [
        one.name for one in graph.graph.node
    ]
    assert sum(name.endswith("/cast") for name in names) == 2


def test_the_model_is_not_changed() -> None:
    graph = residual()
    before = graph.SerializeToString()
    to_float16(graph)
    assert graph.SerializeToString() == before


def test_a_norm_is_taken_in_float32_up_to_its_division() -> None:
    graph = model(
        [
            node("Pow", ["x", "two"], "square"),
            node("ReduceMean", ["square"], "mean", axes=[1]),
            node("Add", ["mean", "epsilon"], "shifted"),
            node("Sqrt", ["shifted"], "norm"),
            node("Div", ["x", "norm"], "unit"),
            node("Mul", ["unit", "two"], "y"),
        ],
        {"x": (1, 4)},
        ("y",),
        {"two": np.array(2, np.float32), "epsilon": np.array(1e-9, np.float32)},
    )
    halved = to_float16(graph)
    onnx.checker.check_model(halved, full_check=True)
    found = types(halved)
    float32 = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
    assert float32 == {"x", "square", "mean", "shifted", "norm", "unit", "y"}
    # The squares are far beyond 65504.
    x = {"x": floats([[1000, -2000, 3, 0]])}
    assert execute(halved, x)[0] == pytest.approx(execute(graph, x)[0], rel=2e-3)


def test_a_node_that_is_named_stays_float32() -> None:
    halved = to_float16(residual(), kept_nodes=["y_node"])
    kinds = {t.name: t.data_type for t in halved.graph.initializer}
    assert kinds["fc_w/float32"] == TensorProto.FLOAT
    assert kinds["a_w"] == TensorProto.FLOAT16


def test_an_input_that_is_an_output_is_handed_through() -> None:
    graph = model([node("Relu", ["x"], "y")], {"x": (1, 4)}, ("y",), {})
    graph.graph.output.append(graph.graph.input[0])
    values = floats([[1.0, -2, 65504, 1e-3]])
    relu, same = execute(to_float16(graph), {"x": values})
    assert (same == values).all()
    assert relu == pytest.approx(floats([[1, 0, 65504, 1e-3]]), rel=1e-3)


def test_an_output_may_be_read_again() -> None:
    graph = model(
        [node("Relu", ["x"], "a"), node("Neg", ["a"], "b")], {"x": (1, 2)}, ("a", "b"), {}
    )
    a, b = execute(to_float16(graph), {"x": floats([[1, -1]])})
    assert (a.tolist(), b.tolist()) == ([[1, 0]], [[-1, 0]])


def test_scales_of_resize_stay_float32() -> None:
    graph = model(
        [node("Resize", ["x", "", "scales"], "y", mode="nearest")],
        {"x": (1, 1, 2, 2)},
        ("y",),
        {"scales": floats([1, 1, 2, 2])},
    )
    halved = to_float16(graph)
    onnx.checker.check_model(halved, full_check=True)
    (found,) = execute(halved, {"x": floats([[[[1, 2], [3, 4]]]])})
    assert found[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_integers_and_their_casts_keep_their_types() -> None:
    graph = model(
        [
            node("Cast", ["x"], "i", to=TensorProto.INT64),
            node("Add", ["i", "one"], "j"),
            node("Cast", ["j"], "f", to=TensorProto.FLOAT),
            node("Add", ["f", "half"], "y"),
        ],
        {"x": (1, 2)},
        ("y",),
        {"one": np.array([1], np.int64), "half": floats([0.5])},
    )
    halved = to_float16(graph)
    onnx.checker.check_model(halved, full_check=True)
    assert execute(halved, {"x": floats([[2, 5]])})[0].tolist() == [[3.5, 6.5]]


def test_constants_of_nodes_are_converted_too() -> None:
    tensor = numpy_helper.from_array(floats([3]))
    graph = model(
        [
            helper.make_node("Constant", [], ["c"], name="c", value_floats=[1.0, 2.0]),
            helper.make_node(
                "Constant",
                [],
                ["n"],
                name="n",
                value=numpy_helper.from_array(np.array([2], np.int64)),
            ),
            helper.make_node("ConstantOfShape", ["n"], ["k"], name="k", value=tensor),
            node("Add", ["x", "c"], "d"),
            node("Mul", ["d", "k"], "y"),
        ],
        {"x": (1, 2)},
        ("y",),
        {},
    )
    halved = to_float16(graph)
    onnx.checker.check_model(halved, full_check=True)
    assert execute(halved, {"x": floats([[1, 1]])})[0].tolist() == [[6, 9]]


def test_a_mask_of_the_lowest_float_becomes_the_lowest_half() -> None:
    graph = model(
        [node("Add", ["x", "mask"], "masked"), node("Softmax", ["masked"], "y", axis=-1)],
        {"x": (1, 2)},
        ("y",),
        {"mask": floats([0, np.finfo(np.float32).min])},
    )
    assert execute(to_float16(graph), {"x": floats([[1, 1]])})[0].tolist() == [[1, 0]]


def test_a_quantized_graph_is_refused() -> None:
    graph = model(
        [
            node("QuantizeLinear", ["x", "s", "z"], "q"),
            node("DequantizeLinear", ["q", "s", "z"], "y"),
        ],
        {"x": (1, 2)},
        ("y",),
        {"s": np.array(1, np.float32), "z": np.array(0, np.int8)},
    )
    with pytest.raises(UnsupportedError, match="QuantizeLinear \\(node 'q_node'\\)"):
        to_float16(graph)


def test_a_type_that_is_not_known_is_refused() -> None:
    graph = residual()
    graph.graph.ClearField("value_info")
    graph.opset_import.append(helper.make_opsetid("mine", 1))
    graph.graph.node[1].domain, graph.graph.node[1].op_type = "mine", "Gate"
    with pytest.raises(UnsupportedError, match="Gate \\(node 'a_relu_node'\\)"):
        to_float16(graph)


def test_a_subgraph_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(floats([1])))],
        "body",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, (1,))],
    )
    graph = model([node("Relu", ["x"], "y")], {"x": (1,)}, ("y",), {"c": np.array(True)})
    graph.graph.node.append(
        helper.make_node("If", ["c"], ["z"], name="if", then_branch=body, else_branch=body)
    )
    with pytest.raises(UnsupportedError, match="If \\(node 'if'\\) has a subgraph"):
        to_float16(graph)

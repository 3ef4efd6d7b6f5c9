import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepseek_edge.backends.tvm.graph import Graph
from deepseek_edge.backends.tvm.importer import import_onnx
from deepseek_edge.errors import DeepSeekEdgeError, ModelError, UnsupportedError
from tests.backends.tvm.oracle import Cases, Const, model_of


def imported(body: str, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y") -> Graph:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return import_onnx(model_of(text))


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_shape_arithmetic_is_folded() -> None:
    graph = imported(
        """
        s = Shape(x)
        i = Constant<value = int64 {1}>()
        n = Gather(s, i)
        two = Constant<value = int64 {2}>()
        axis = Constant<value = int64[1] {0}>()
        m = Mul(n, two)
        rows = Unsqueeze(m, axis)
        y = Reshape(x, rows)
        """,
        outputs="float[6] y",
    )
    assert ops(graph) == ["Reshape"]
    assert graph.outputs[0].shape == (6,)


@pytest.mark.parametrize(("condition", "taken"), [("1", "Abs"), ("0", "Neg")])
def test_an_if_with_a_known_condition_is_its_branch(condition: str, taken: str) -> None:
    graph = imported(
        f"""
        c = Constant<value = bool {{{condition}}}>()
        y = If(c) <
          then_branch = t () => (float[2,3] a) {{ a = Abs(x) }},
          else_branch = e () => (float[2,3] b) {{ b = Neg(x) }}
        >
        """
    )
    assert ops(graph) == [taken]


def test_dead_nodes_are_dropped_and_dropout_is_nothing() -> None:
    graph = imported("d, mask = Dropout(x) dead = Abs(x) y = Neg(d)")
    assert ops(graph) == ["Neg"]


REFUSED = {
    "data": (
        "c = ReduceSum<keepdims=0>(x) b = Cast<to=9>(c) y = If(b) <then_branch = t () => "
        "(float[2,3] a) {a = Abs(x)}, else_branch = e () => (float[2,3] d) {d = Neg(x)}>",
        "the branch of If .* depends on data",
    ),
    "operator": ("y = Det(x)", "operator Det .* is not supported"),
    "double": ("d = Cast<to=11>(x) y = Cast<to=1>(d)", "output of Cast .* is float64"),
    "shape": (
        "s = Cast<to=7>(x) f = Flatten<axis=0>(s) a = Constant<value = int64[1] {0}>() "
        "r = Squeeze(f, a) y = Reshape(x, r)",
        "depends on data",
    ),
    "empty": (
        "a = Constant<value = int64[1] {1}>() s = Slice(x, a, a) y = Concat<axis=0>(x, s)",
        "has no elements",
    ),
    "training": (
        "t = Constant<value = bool {1}>() r = Constant<value = float {0.5}>() y = Dropout(x, r, t)",
        "is in training mode",
    ),
    "random": (
        "n = RandomNormal<shape = [2, 3]>() y = Add(x, n)",
        "operator RandomNormal .* is not supported",
    ),
    "broken constant": (
        "a = Constant<value = float[3] {1, 2, 3}>() b = NoSuchOperator(a) y = Add(x, b)",
        "operator NoSuchOperator .* can't be evaluated",
    ),
    "unknown": ("y = NoSuchOperator(x)", "operator NoSuchOperator .* is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_with_the_reason(name: str) -> None:
    body, reason = REFUSED[name]
    with pytest.raises(UnsupportedError, match=reason):
        imported(body)


def test_a_loop_is_refused_by_name() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["go"]),
            helper.make_node("Neg", ["s"], ["t"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, [2]),
        ],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], "spin", body=body)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    with pytest.raises(UnsupportedError, match=r"operator Loop \(node 'spin'\)"):
        import_onnx(helper.make_model(graph))


def test_another_domain_is_refused() -> None:
    model = imported_model("y = com.acme.Magic(x)", '"com.acme" : 1')
    with pytest.raises(UnsupportedError, match=r"com\.acme\.Magic .* is not ONNX's own"):
        import_onnx(model)


def imported_model(body: str, opsets: str) -> onnx.ModelProto:
    return model_of(
        f'<ir_version: 8, opset_import: ["" : 17, {opsets}]> '
        f"g (float[2,3] x) => (float[2,3] y) {{ {body} }}"
    )


@pytest.mark.parametrize(
    ("inputs", "error", "reason"),
    [
        ("float[N,3] x", ModelError, "the shape of input 'x' is not static"),
        ("double[2,3] x", UnsupportedError, "'x' is float64"),
        ("string[2,3] x", UnsupportedError, "'x' has dtype"),
        ("float[0,3] x", UnsupportedError, r"input 'x' has shape \[0, 3\]"),
        ("float[1,1,1,1,1,1,1,2,3] x", UnsupportedError, "at most 8"),
    ],
)
def test_inputs_are_checked(inputs: str, error: type[DeepSeekEdgeError], reason: str) -> None:
    with pytest.raises(error) as caught:
        imported("y = Identity(x)", inputs=inputs)
    assert re.search(reason, f"{caught.value} {caught.value.hint}")


def test_shapes_that_contradict_each_other_name_the_node() -> None:
    with pytest.raises(ModelError, match="Add"):
        imported(
            "w = Constant<value = float[4] {1, 2, 3, 4}>() y = Add(x, w)", outputs="float[2,4] y"
        )


def test_weights_that_are_inputs_too_are_no_inputs() -> None:
    cases = Cases()
    cases.add("Add", np.zeros((2, 3), np.float32), Const(np.ones(3, np.float32)))
    model = cases.model()
    model.graph.input.append(helper.make_tensor_value_info("x0_1", TensorProto.FLOAT, [3]))
    assert [value.name for value in import_onnx(model).inputs] == ["x0_0"]

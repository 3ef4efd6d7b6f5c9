from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.errors import ModelError, UsageError
from deepseek_edge.export import fix_shapes

Dims = Sequence[int | str | None]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    constants: Mapping[str, NDArray[np.generic]] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def relu(dims: Dims) -> onnx.ModelProto:
    return model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": dims})


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def run(model: onnx.ModelProto, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    result: NDArray[np.float32] = session.run(None, inputs)[0]
    return result


def test_an_open_batch_becomes_one() -> None:
    for batch in ("batch", None, -1, "?"):
        fixed = fix_shapes(relu([batch, 3, 8]), {})
        assert shape_of(fixed.graph.input[0]) == [1, 3, 8]
        assert shape_of(fixed.graph.output[0]) == [1, 3, 8]


def test_the_model_given_is_not_changed() -> None:
    model = relu(["batch", "h"])
    before = model.SerializeToString(deterministic=True)
    fix_shapes(model, {"x": (2, 5)})
    assert model.SerializeToString(deterministic=True) == before


def test_batch_overrides_a_given_leading_size_that_is_open() -> None:
    fixed = fix_shapes(relu(["batch", "h"]), {"x": (1, 5)}, batch=4)
    assert shape_of(fixed.graph.output[0]) == [4, 5]


def test_a_batch_of_a_model_with_a_fixed_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch is fixed"):
        fix_shapes(relu([1, 5]), {}, batch=4)
    assert shape_of(fix_shapes(relu([1, 5]), {}, batch=1).graph.input[0]) == [1, 5]


def test_a_symbol_given_for_one_input_holds_for_the_others() -> None:
    add = helper.make_node("Add", ["a", "b"], ["y"])
    model = model_of([add], {"a": ["batch", "sequence"], "b": ["batch", "sequence"]})
    fixed = fix_shapes(model, {"a": (1, 128)})
    assert shape_of(fixed.graph.input[1]) == [1, 128]


def test_a_batch_symbol_binds_other_axes_too() -> None:
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=0)
    model = model_of([node], {"a": ["batch", 4], "b": [2, "batch", 4]})
    model.graph.node[0].op_type = "Sum"
    fixed = fix_shapes(model, {}, batch=3)
    assert [shape_of(value) for value in fixed.graph.input] == [[3, 4], [2, 3, 4]]


def test_an_unknown_size_is_asked_for_by_name() -> None:
    with pytest.raises(UsageError, match="input x is not fully known") as caught:
        fix_shapes(relu(["batch", 3, "h", "w"]), {})
    assert caught.value.hint is not None
    assert "--shape x=1,3,?,?" in caught.value.hint


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3)}, "no input z"),
        ({"x": (1, 3, 8)}, "3 dimensions, the model's input 2"),
        ({"x": (1, 4)}, "dimension 1 is 3"),
        ({"x": (1, 0)}, "at least 1"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fix_shapes(relu(["batch", 3]), shapes)


def test_a_scalar_input_stays_a_scalar() -> None:
    fixed = fix_shapes(relu([]), {})
    assert fixed.graph.input[0].type.tensor_type.HasField("shape")
    assert shape_of(fixed.graph.input[0]) == []


def test_shapes_that_contradict_the_graph_are_refused() -> None:
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    model = model_of([node], {"x": ["batch", 6]}, {"to": np.array([1, 6])})
    assert shape_of(fix_shapes(model, {}).graph.output[0]) == [1, 6]
    with pytest.raises(ModelError, match="contradict"):
        fix_shapes(model, {}, batch=2)


def flatten_by_shape() -> onnx.ModelProto:
    """y = x reshaped to (batch, -1), the size computed as exporters write it."""
    return model_of(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
            helper.make_node("Concat", ["n", "minus"], ["to"], axis=0),
            helper.make_node("Reshape", ["x", "to"], ["y"]),
        ],
        {"x": ["batch", 2, 3]},
        {"zero": np.array([0]), "minus": np.array([-1])},
    )


def test_arithmetic_on_shapes_is_folded_and_the_result_is_the_same() -> None:
    model = flatten_by_shape()
    fixed = fix_shapes(model, {}, batch=4)
    assert [node.op_type for node in fixed.graph.node] == ["Reshape"]
    assert [tensor.name for tensor in fixed.graph.initializer] == ["to"]
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    assert np.array_equal(run(fixed, x=x), run(model, x=x))


def test_constant_nodes_become_initializers() -> None:
    value = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "v")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    fixed = fix_shapes(model_of(nodes, {"x": ["batch", 3]}), {})
    assert [node.op_type for node in fixed.graph.node] == ["Add"]
    assert [tensor.name for tensor in fixed.graph.initializer] == ["c"]


@pytest.mark.parametrize(("size", "taken"), [(2, "Relu"), (3, "Neg")])
def test_an_if_on_shapes_is_replaced_by_its_branch(size: int, taken: str) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{operator}_out", TensorProto.FLOAT, None)
        node = helper.make_node(operator, ["x"], [f"{operator}_out"])
        return helper.make_graph([node], operator, [], [out])

    nodes = [
        helper.make_node("Size", ["x"], ["n"]),
        helper.make_node("Equal", ["n", "two"], ["is_two"]),
        helper.make_node(
            "If", ["is_two"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")
        ),
    ]
    # Size is folded from Shape only; so give the element count as a product.
    nodes[:1] = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceProd", ["s"], ["n"], keepdims=0),
    ]
    model = model_of(nodes, {"x": ["batch", "k"]}, {"two": np.array(2)})
    fixed = fix_shapes(model, {"x": (1, size)})
    assert [node.op_type for node in fixed.graph.node] == [taken, "Identity"]
    x = np.array([[-1, 2, -3]], np.float32)[:, :size]
    assert np.array_equal(run(fixed, x=x), run(model, x=x))


def test_a_constant_too_large_to_hold_is_left_as_it_is() -> None:
    nodes = [
        helper.make_node("Expand", ["one", "to"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = {"one": np.array([1], np.float32), "to": np.array([1 << 20, 1 << 20])}
    fixed = fix_shapes(model_of(nodes, {"x": ["batch"]}, constants), {})
    assert [node.op_type for node in fixed.graph.node] == ["Expand", "ReduceSum", "Add"]


def test_dequantized_weights_stay_integers() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    constants = {"q": np.array([1, 2, 3], np.int8), "scale": np.float32(0.5)}
    fixed = fix_shapes(model_of(nodes, {"x": ["batch", 3]}, constants), {})
    assert [node.op_type for node in fixed.graph.node] == ["DequantizeLinear", "Add"]

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.backends.tensorrt.contract import symmetric_graph
from deepseek_edge.errors import UnsupportedError

Array = np.ndarray[Any, Any]


def floats(values: list[Any]) -> Array:
    return np.array(values, np.float32)


def constants(zero: int, dtype: type[np.generic], bias: Array) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        "s": np.float32(0.02),
        "z": np.array(zero, dtype),
        "w": random.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8),
        "ws": floats([0.01, 0.02, 0.03, 0.04]),
        "wz": np.zeros(4, np.int8),
        "b": bias,
        "bs": floats([0.0002, 0.0004, 0.0006, 0.0008]),
        "bz": np.zeros(4, np.int32),
    }


def convolution(
    zero: int = 0,
    dtype: type[np.generic] = np.int8,
    *,
    between: str | None = None,
    with_zero: bool = True,
) -> onnx.ModelProto:
    """x -> Q -> (an operator on the integers) -> DQ -> Conv with a dequantized int32 bias -> y."""
    zeros = ["z"] if with_zero else []
    dequantized = "q" if between is None else "moved"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", *zeros], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", [dequantized, "s", *zeros], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weights", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], name="bias", axis=0),
        helper.make_node("Conv", ["d", "wd", "bd"], ["y"], name="conv"),
    ]
    if between is not None:
        nodes.insert(1, helper.make_node(between, ["q"], ["moved"], name="between"))
    tensors = constants(zero, dtype, np.array([100, -200, 300, 0], np.int32))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 6, 6))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=with_zero)
    return model


def execute(model: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: Array = session.run(None, {"x": x})[0]
    return result


X = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_an_int32_bias_becomes_float32_of_the_same_value() -> None:
    model = convolution()
    converted = symmetric_graph(model)
    assert [node.name for node in converted.graph.node] == [
        "quantize",
        "dequantize",
        "weights",
        "conv",
    ]
    bias = next(t for t in converted.graph.initializer if t.name == "bd")
    assert numpy_helper.to_array(bias).tolist() == pytest.approx([0.02, -0.08, 0.18, 0.0])
    assert (execute(converted, X) == execute(model, X)).all()


def test_uint8_around_128_becomes_int8_around_0_with_the_same_results() -> None:
    model = convolution(128, np.uint8)
    converted = symmetric_graph(model)
    zero = next(t for t in converted.graph.initializer if t.name == "z")
    assert zero.data_type == TensorProto.INT8
    assert numpy_helper.to_array(zero) == 0
    assert (execute(converted, X) == execute(model, X)).all()


def test_the_model_is_not_changed() -> None:
    model = convolution(128, np.uint8)
    before = model.SerializeToString()
    symmetric_graph(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("zero", "dtype", "what"), [(3, np.int8, "int8 with 3"), (0, np.uint8, "uint8 with 0")]
)
def test_another_zero_point_is_refused_with_its_node(
    zero: int, dtype: type[np.generic], what: str
) -> None:
    with pytest.raises(UnsupportedError, match="node 'quantize'") as refusal:
        symmetric_graph(convolution(zero, dtype))
    assert what in str(refusal.value)
    assert "symmetric" in str(refusal.value.hint)


def test_a_missing_zero_point_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="without a zero point it is uint8"):
        symmetric_graph(convolution(with_zero=False))


def test_uint8_that_another_operator_sees_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="used by other operators"):
        symmetric_graph(convolution(128, np.uint8, between="Identity"))


def test_int8_may_pass_through_another_operator() -> None:
    model = convolution(between="Identity")
    assert (execute(symmetric_graph(model), X) == execute(model, X)).all()


def test_a_uint8_input_of_the_graph_is_refused() -> None:
    model = convolution()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(UnsupportedError, match="tensor 'x'"):
        symmetric_graph(model)

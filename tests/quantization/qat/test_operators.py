"""Operators in torch with several samples at once, beside onnxruntime with one after the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.errors import InputError, UnsupportedError
from deepseek_edge.quantization.calibrate import session
from tests.quantization.graphs import conv, conv_constants, model, node

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]
SAMPLES = 3


def check(graph: onnx.ModelProto, *, tolerance: float = 1e-5, scale: float = 2.0) -> None:
    """The graph module on a batch gives what onnxruntime gives for each sample."""
    from deepseek_edge.quantization.qat import GraphModule

    random = np.random.default_rng(7)
    inputs = {}
    for value in graph.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        numbers = random.standard_normal((SAMPLES, *shape[1:])) * scale
        inputs[value.name] = numbers.astype(np.float32)
    run = session(graph, optimize=False)
    module = GraphModule(graph).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(value) for value in inputs.values()))
    found = found if isinstance(found, tuple) else (found,)
    for sample in range(SAMPLES):
        one = {name: value[sample : sample + 1] for name, value in inputs.items()}
        for wanted, given in zip(run.run(None, one), found, strict=True):
            given_one = given[sample : sample + 1].numpy()
            assert given_one.shape == wanted.shape and given_one.dtype == wanted.dtype
            assert np.allclose(given_one, wanted, rtol=tolerance, atol=tolerance)


def single(
    op: str,
    shapes: Mapping[str, tuple[int, ...]] | tuple[int, ...] = (1, 4, 6, 6),
    constants: dict[str, Any] | None = None,
    opset: int = 18,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node; constants follow its inputs, None is one that is left out."""
    given = dict(shapes) if isinstance(shapes, Mapping) else {"x": shapes}
    constants = constants or {}
    names = [*given, *(name if value is not None else "" for name, value in constants.items())]
    made = {name: np.asarray(value) for name, value in constants.items() if value is not None}
    return model([node(op, names, "y", **attributes)], given, ("y",), made, opset)


FUNCTIONS = [
    *("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg"),
    *("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh"),
    *("Celu", "Elu", "HardSigmoid", "LeakyRelu", "Selu", "ThresholdedRelu"),
]


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_of_one_number(op: str) -> None:
    check(single(op))


def test_functions_with_parameters() -> None:
    check(single("Elu", alpha=0.7))
    check(single("Celu", alpha=0.7))
    check(single("Selu", alpha=1.5, gamma=0.9))
    check(single("LeakyRelu", alpha=0.2))
    check(single("HardSigmoid", alpha=0.3, beta=0.4))
    check(single("ThresholdedRelu", alpha=0.4))
    check(single("Gelu", opset=20))
    check(single("Gelu", opset=20, approximate="tanh"))
    check(single("Clip", constants={"low": np.float32(-1), "high": np.float32(0.5)}))
    check(single("Clip", constants={"low": None, "high": np.float32(0.5)}))
    check(single("Clip"))
    check(single("PRelu", constants={"slope": np.arange(4, dtype=np.float32).reshape(4, 1, 1)}))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("other", [(), (6,), (4, 1, 1), (1, 1, 6, 1)])
def test_arithmetic_with_constants(op: str, other: tuple[int, ...]) -> None:
    constant = np.random.default_rng(1).random(other).astype(np.float32) + 0.5
    check(single(op, constants={"c": constant}))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"])
def test_arithmetic_of_two_activations(op: str) -> None:
    check(single(op, {"x": (1, 4, 6, 6), "z": (1, 4, 1, 6)}), tolerance=1e-4)


def test_powers_roots_and_logarithms() -> None:
    check(single("Pow", constants={"e": np.float32(2)}))
    check(single("Pow", constants={"e": np.full((4, 1, 1), 3, np.float32)}))
    for op in ("Sqrt", "Log"):
        nodes = [node("Exp", ["x"], "e"), node(op, ["e"], "y")]
        check(model(nodes, {"x": (1, 5)}, ("y",), {}))


def test_comparisons_choose() -> None:
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        nodes = [
            node(op, ["x", "zero"], "c"),
            node("Not", ["c"], "d"),
            node("Xor", ["c", "d"], "e"),
            node("And", ["c", "e"], "f"),
            node("Where", ["f", "x", "three"], "y"),
        ]
        made = {"zero": np.zeros((), np.float32), "three": np.float32(3).reshape(1, 1)}
        check(model(nodes, {"x": (1, 7)}, ("y",), made))


@pytest.mark.parametrize(
    ("shape", "weights", "attributes"),
    [
        ((1, 4, 9, 8), (6, 4, 3, 3), {}),
        ((1, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((1, 4, 9, 8), (6, 4, 3, 3), {"pads": [0, 1, 2, 0]}),
        ((1, 4, 9, 8), (8, 1, 3, 3), {"group": 4, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((1, 4, 9, 8), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 4, 9, 8), (6, 4, 2, 2), {"auto_pad": "SAME_LOWER"}),
        ((1, 4, 9), (6, 4, 3), {"pads": [1, 1]}),
    ],
)
def test_convolutions(
    shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    check(model([conv("x", "y", **attributes)], {"x": shape}, ("y",), conv_constants("y", weights)))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]},
        {"strides": [2, 2], "group": 2},
    ],
)
def test_transposed_convolutions(attributes: dict[str, Any]) -> None:
    channels = 6 // attributes.get("group", 1)
    constants = conv_constants("y", (4, channels, 3, 3))
    constants["y_b"] = np.arange(6, dtype=np.float32)
    one = node("ConvTranspose", ["x", "y_w", "y_b"], "y", **attributes)
    check(model([one], {"x": (1, 4, 5, 6)}, ("y",), constants))


def test_products() -> None:
    w = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)
    check(single("Gemm", (1, 6), {"w": w, "b": bias}))
    check(single("Gemm", (1, 6), {"w": w.T.copy()}, transB=1))
    check(single("Gemm", (1, 6), {"w": w, "b": bias[None]}, alpha=0.5, beta=2.0))
    check(single("MatMul", (1, 6), {"w": w}))
    check(single("MatMul", (1, 3, 6), {"w": w}))
    check(single("MatMul", (1, 2, 3, 6), {"w": w[None]}))
    check(single("MatMul", {"x": (1, 2, 3, 6), "z": (1, 2, 6, 4)}))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "auto_pad": "NOTSET"},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool with pads"])
def test_pooling(op: str, attributes: dict[str, Any]) -> None:
    kind, *with_pads = op.split(" with ")
    more: dict[str, Any] = {"count_include_pad": 1} if with_pads else {}
    check(single(kind, (1, 4, 7, 8), **attributes, **more))


def test_pooling_along_one_axis_and_over_all() -> None:
    check(single("MaxPool", (1, 4, 9), kernel_shape=[3], strides=[2], pads=[1, 1]))
    check(single("AveragePool", (1, 4, 9), kernel_shape=[3], strides=[2], pads=[1, 0]))
    check(single("MaxPool", (1, 4, 9, 9), kernel_shape=[3, 3], dilations=[2, 2]))
    check(single("GlobalAveragePool"))
    check(single("GlobalMaxPool"))


def test_normalizations() -> None:
    scale, bias = np.arange(1, 5, dtype=np.float32), np.arange(4, dtype=np.float32)
    both = {"s": scale, "b": bias}
    check(single("InstanceNormalization", constants=both, epsilon=1e-3), tolerance=1e-4)
    check(single("LayerNormalization", (1, 5, 4), both, axis=-1), tolerance=1e-4)
    check(single("LayerNormalization", (1, 5, 4), {"s": scale}, axis=2), tolerance=1e-4)
    check(single("LRN", size=3, alpha=0.1, beta=0.6, bias=1.5))
    check(single("Softmax", axis=1))
    check(single("LogSoftmax", (1, 7)))


@pytest.mark.parametrize("op", ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum"])
def test_reductions(op: str) -> None:
    axes = {"axes": np.array([1, -1], np.int64)}
    check(single(f"Reduce{op}", constants=axes), tolerance=1e-4)
    check(single(f"Reduce{op}", constants=axes, keepdims=0), tolerance=1e-4)
    check(single(f"Reduce{op}", (1, 3, 5), {"axes": np.array([2], np.int64)}), tolerance=1e-4)


def test_movement() -> None:
    def integers(*values: int) -> Array:
        return np.array(values, np.int64)

    check(single("Reshape", constants={"s": integers(1, -1)}))
    check(single("Reshape", constants={"s": integers(1, 2, 2, 36)}))
    check(single("Flatten"))
    check(single("Transpose", perm=[0, 2, 3, 1]))
    check(single("Squeeze", (1, 4, 1, 1), {"axes": integers(2, 3)}))
    check(single("Unsqueeze", (1, 4), {"axes": integers(1, 3)}))
    check(single("Expand", (1, 4, 1), {"s": integers(1, 4, 5)}))
    check(single("Tile", (1, 4, 2), {"r": integers(1, 2, 3)}))
    check(single("DepthToSpace", blocksize=2))
    check(single("DepthToSpace", blocksize=2, mode="CRD"))
    check(single("SpaceToDepth", blocksize=2))
    check(single("Gather", constants={"i": integers(3, -1, 0)}, axis=1))
    check(single("Gather", constants={"i": np.array(2, np.int64)}, axis=2))
    check(single("Concat", {"x": (1, 4, 3), "z": (1, 2, 3)}, axis=1))
    check(single("Concat", (1, 4, 3), {"c": np.ones((1, 1, 3), np.float32)}, axis=1))


def test_slices() -> None:
    def cut(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
        values = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        check(single("Slice", constants={n: np.array(v) for n, v in values.items()}))

    cut([1, 0], [3, -2], [1, 3], [1, 2])
    cut([-3], [2**31 - 1], [2], [1])
    cut([-1], [-(2**31)], [2], [-2])
    cut([0, 4], [1, 1], [0, 3], [1, -1])


def test_padding() -> None:
    for mode in ("constant", "edge", "reflect", "wrap"):
        pads = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)
        check(single("Pad", constants={"p": pads}, opset=19, mode=mode))
    pads = np.array([1, 2, 2, 0], np.int64)
    made = {"p": pads, "v": np.float32(3), "axes": np.array([1, -1], np.int64)}
    check(single("Pad", constants=made))


def test_splits_have_several_outputs() -> None:
    split = helper.make_node("Split", ["x", "sizes"], ["a", "b"], name="split", axis=1)
    graph = model(
        [split, node("Neg", ["b"], "c")],
        {"x": (1, 4, 3)},
        ("a", "c"),
        {"sizes": np.array([1, 3], np.int64)},
    )
    check(graph)


MAPPINGS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@pytest.mark.parametrize("mode", MAPPINGS)
@pytest.mark.parametrize("sizes", [[1, 4, 12, 18], [1, 4, 4, 3], [1, 4, 9, 6]])
def test_resizing(mode: str, sizes: list[int]) -> None:
    made = {"roi": None, "scales": None, "sizes": np.array(sizes, np.int64)}
    given: dict[str, Any] = {"coordinate_transformation_mode": mode}
    check(single("Resize", constants=made, mode="linear", **given))
    rounding = "floor" if mode == "asymmetric" else "round_prefer_floor"
    check(single("Resize", constants=made, mode="nearest", nearest_mode=rounding, **given))


def test_resizing_by_factors() -> None:
    made = {"roi": None, "scales": np.array([1, 1, 2, 2.5], np.float32)}
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        check(single("Resize", constants=made, mode="nearest", nearest_mode=rounding))
    check(single("Resize", constants=made, mode="linear"))


def test_attention_moves_the_batch_and_back() -> None:
    nodes = [
        node("MatMul", ["x", "w"], "qkv"),
        node("Reshape", ["qkv", "parts"], "split"),
        node("Transpose", ["split"], "heads", perm=[2, 0, 3, 1, 4]),
        node("Gather", ["heads", "zero"], "q", axis=0),
        node("Gather", ["heads", "one"], "k", axis=0),
        node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "q"], "mixed"),
        node("Transpose", ["mixed"], "back", perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "flat"], "y"),
    ]
    made: dict[str, Array] = {
        "w": np.random.default_rng(3).standard_normal((8, 16)).astype(np.float32),
        "parts": np.array([1, 5, 2, 2, 4], np.int64),
        "flat": np.array([1, 5, 8], np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
    }
    check(model(nodes, {"x": (1, 5, 8)}, ("y",), made), tolerance=1e-4, scale=0.5)


def test_constants_may_be_results() -> None:
    nodes = [node("Relu", ["c"], "y"), node("Neg", ["x"], "z")]
    graph = model(nodes, {"x": (1, 2)}, ("z",), {"c": np.ones((3,), np.float32)})
    check(graph)


def refusal(graph: onnx.ModelProto) -> str:
    from deepseek_edge.quantization.qat import GraphModule

    with pytest.raises(UnsupportedError) as caught:
        GraphModule(graph)
    return str(caught.value)


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "graph",
    [
        single("Reshape", (1, 4, 6), {"s": integers(4, 6)}),
        single("Softmax", (1, 5), axis=0),
        single("ReduceMean", (1, 5), {"axes": integers(0, 1)}),
        single("Concat", {"x": (1, 5), "z": (1, 5)}, axis=0),
        single("MatMul", {"x": (1, 1), "z": (1, 4)}),
        single("Add", {"x": (1, 4, 5), "z": (1, 5)}),
        single("Add", (1, 4), {"c": np.ones((3, 4), np.float32)}),
        single("Tile", (1, 4), {"r": integers(2, 1)}),
        single("Pad", (1, 4), {"p": integers(1, 0, 0, 0)}),
        single("Gather", (1, 4), {"i": integers(0)}, axis=0),
        single("Expand", (1, 4), {"s": integers(3, 4)}),
        single("Gemm", (1, 4), {"w": np.ones((1, 3), np.float32)}, transA=1),
    ],
    ids=lambda graph: graph.graph.node[0].op_type,
)
def test_what_mixes_samples_is_refused(graph: onnx.ModelProto) -> None:
    op = graph.graph.node[0].op_type
    message = refusal(graph)
    assert f"'y_node' ({op})" in message and ("mixes" in message or "no batch" in message)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (single("Hardmax"), "no form"),
        (single("Resize", constants={"roi": None, "s": np.array([1, 1, 2, 2], np.float32)},
                mode="cubic"), "cubic"),
        (single("LRN", size=2), "middle"),
        (single("AveragePool", (1, 2, 3, 4, 5), kernel_shape=[2, 2, 2]), "3 spatial"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_other_forms_are_refused_with_the_reason(graph: onnx.ModelProto, reason: str) -> None:
    assert reason in refusal(graph)


def test_a_batch_that_is_written_into_the_graph_is_refused() -> None:
    assert "no batch of 1" in refusal(single("Relu", (2, 4)))


def test_another_number_of_inputs_is_refused() -> None:
    from deepseek_edge.quantization.qat import GraphModule

    module = GraphModule(single("Relu", (1, 4)))
    with pytest.raises(InputError, match="2 inputs are given"):
        module(torch.zeros(1, 4), torch.zeros(1, 4))


def test_integers_are_indices() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    one = node("Gather", ["t", "x"], "y", axis=0)
    graph = helper.make_graph(
        [one],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, (1, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "t")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    from deepseek_edge.quantization.qat import GraphModule

    places = torch.tensor([[0, 1, 2, 3, 0], [3, -1, 1, 0, 2]])
    found = GraphModule(onnx.shape_inference.infer_shapes(made))(places)
    assert np.array_equal(found.numpy(), table[places.numpy()])

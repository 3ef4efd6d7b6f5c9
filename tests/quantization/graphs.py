"""Small float graphs with static shapes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: tuple[str, ...],
    constants: dict[str, Array],
    opset: int = 17,
) -> onnx.ModelProto:
    """A checked model of float inputs and outputs."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    made = onnx.shape_inference.infer_shapes(made)
    onnx.checker.check_model(made)
    return made


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its output."""
    return helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes)


def conv(x: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A convolution with constants OUTPUT_w and OUTPUT_b."""
    return node("Conv", [x, f"{output}_w", f"{output}_b"], output, **attributes)


def conv_constants(output: str, shape: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    """Weights and bias of ``conv``."""
    random = np.random.default_rng([seed, *map(ord, output)])
    weights = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return {
        f"{output}_w": weights.astype(np.float32),
        f"{output}_b": random.standard_normal(shape[0]).astype(np.float32),
    }


def residual() -> onnx.ModelProto:
    """Conv, Relu -> depthwise Conv, Clip -> Conv, added to the first Relu; pooled; Gemm."""
    nodes = [
        conv("x", "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "a_relu"),
        conv("a_relu", "b", group=8, pads=[1, 1, 1, 1]),
        node("Clip", ["b", "zero", "six"], "b_clip"),
        conv("b_clip", "c"),
        node("Add", ["a_relu", "c"], "sum"),
        node("GlobalAveragePool", ["sum"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "fc_w", "fc_b"], "y", transB=1),
    ]
    constants = {
        **conv_constants("a", (8, 3, 3, 3)),
        **conv_constants("b", (8, 1, 3, 3)),
        **conv_constants("c", (8, 8, 1, 1)),
        **conv_constants("fc", (5, 8)),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    return model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants)


def samples(count: int, seed: int = 0, shape: tuple[int, ...] = (1, 3, 12, 12)) -> list[Any]:
    """Normal inputs "x"."""
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(count)]

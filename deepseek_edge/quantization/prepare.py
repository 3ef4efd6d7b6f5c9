"""The float graph made ready: one form of each layer, with what follows it linearly folded in.

Quantizing a convolution before its normalization is folded in would quantize other weights than
those that are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import ModelError
from deepseek_edge.opset import convert_opset, opset_of
from deepseek_edge.quantization.graph import GraphIndex, attribute, set_initializer

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

OLDEST_OPSET, NEWEST_OPSET = 17, 20
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, normalizations and per-channel arithmetic into the layers before them.

    Layers keep their nodes' names; a node without a name takes that of its first output.

    Args:
        model: float, static shapes; not changed.

    Returns:
        A copy of opset 17 to 20, whose constants are initializers and whose nodes have
        distinct names.

    Raises:
        ModelError: a shape is not static, or the graph is already quantized.
        UnsupportedError: the opset can't be converted.
    """
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv"):
            raise ModelError(
                f"the model is already quantized (node {node.name!r})",
                hint="calibrate the float model, or compile this one as it is",
            )
    opset = min(max(opset_of(model), OLDEST_OPSET), NEWEST_OPSET)
    hint = f"export it with opset {OLDEST_OPSET} to {NEWEST_OPSET}"
    prepared = convert_opset(model, opset, hint=hint)
    name_nodes(prepared)
    _constants_to_initializers(prepared)
    _drop_identities(prepared)
    _scale_gemm(prepared)
    while _fold_once(prepared):
        pass
    _expand_normalization(prepared)
    _drop_unused(prepared)
    del prepared.graph.value_info[:]
    return prepared


def name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes distinct names, in place; those that have one keep it."""
    seen: set[str] = set()
    for node in model.graph.node:
        name = node.name or node.output[0]
        node.name = name if name not in seen else f"{name}/{node.output[0]}"
        seen.add(node.name)


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = numpy_helper.to_array(node.attribute[0].t)
            set_initializer(model, node.output[0], value)
        else:
            kept.append(node)
    _replace_nodes(model, kept)


def _drop_identities(model: onnx.ModelProto) -> None:
    outputs = {value.name for value in model.graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        if node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(model, kept)


def _scale_gemm(model: onnx.ModelProto) -> None:
    """Fold alpha and beta into constant operands: a quantized layer is a plain product."""
    import numpy as np

    index = GraphIndex(model)
    for node in index.nodes:
        if node.op_type != "Gemm":
            continue
        for name, place in (("alpha", 1), ("beta", 2)):
            factor = attribute(node, name, 1.0)
            if (
                factor == 1.0
                or len(node.input) <= place
                or not index.is_constant(node.input[place])
            ):
                continue
            scaled = f"{node.name}/{name}"
            set_initializer(model, scaled, index.value(node.input[place]) * np.float32(factor))
            node.input[place] = scaled
            for old in [a for a in node.attribute if a.name == name]:
                node.attribute.remove(old)


def _fold_once(model: onnx.ModelProto) -> bool:
    """Fold every affine node whose convolution has no other reader; True if one was found."""
    index = GraphIndex(model)
    gone: set[int] = set()
    touched: set[int] = set()
    for node in index.nodes:
        if node.op_type not in _CONVOLUTIONS or not _has_constant_weights(index, node):
            continue
        follower = index.sole_consumer(node.output[0])
        if follower is None or id(follower) in touched:
            continue
        affine = _channel_affine(index, follower, node.output[0])
        if affine is None:
            continue
        _scale_convolution(model, index, node, *affine)
        node.output[0] = follower.output[0]
        gone.add(id(follower))
        touched |= {id(node), id(follower)}
    _replace_nodes(model, [node for node in index.nodes if id(node) not in gone])
    return bool(gone)


def _has_constant_weights(index: GraphIndex, node: onnx.NodeProto) -> bool:
    return all(index.is_constant(name) for name in node.input[1:] if name)


def _channel_affine(index: GraphIndex, node: onnx.NodeProto, x: str) -> tuple[Array, Array] | None:
    """(factor, offset) of each channel, if the node is that and nothing else; float64."""
    import numpy as np

    if node.op_type == "BatchNormalization":
        is_constant = all(index.is_constant(name) for name in node.input[1:])
        return _normalization(index, node) if is_constant else None
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or node.input[0] == node.input[1]:
        return None
    other = node.input[1] if node.input[0] == x else node.input[0]
    if not index.is_constant(other) or not index.is_float(other):
        return None
    value = _per_channel(index.value(other).astype(np.float64), index.shape(x))
    is_divisor = node.op_type == "Div" and node.input[1] == x
    if value is None or is_divisor or (node.op_type == "Div" and not value.all()):
        return None
    ones, zeros = np.ones_like(value), np.zeros_like(value)
    if node.op_type in ("Mul", "Div"):
        return (value if node.op_type == "Mul" else ones / value), zeros
    sign = -1.0 if node.op_type == "Sub" else 1.0
    return (-ones, value) if sign < 0 and node.input[1] == x else (ones, sign * value)


def _per_channel(value: Array, shape: tuple[int, ...]) -> Array | None:
    """A constant as one number a channel (axis 1), None if it is not that."""
    import numpy as np

    if value.ndim > len(shape):
        return None
    full = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if any(size != 1 for axis, size in enumerate(full.shape) if axis != 1):
        return None
    spread: Array = np.broadcast_to(full.reshape(-1), (shape[1],)).copy()
    return spread


def _normalization(index: GraphIndex, node: onnx.NodeProto) -> tuple[Array, Array]:
    import numpy as np

    gamma, beta, mean, variance = (index.value(n).astype(np.float64) for n in node.input[1:5])
    factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return factor, beta - mean * factor


def _scale_convolution(
    model: onnx.ModelProto, index: GraphIndex, node: onnx.NodeProto, factor: Array, offset: Array
) -> None:
    import numpy as np

    weights = index.value(node.input[1]).astype(np.float64)
    if node.op_type == "Conv":
        scaled = weights * factor.reshape((-1,) + (1,) * (weights.ndim - 1))
    else:  # (in, out / groups, ...): input channels of group g make its output channels
        groups = attribute(node, "group", 1)
        parts = factor.reshape((groups, 1, -1) + (1,) * (weights.ndim - 2))
        scaled = (weights.reshape((groups, -1, *weights.shape[1:])) * parts).reshape(weights.shape)
    has_bias = len(node.input) > 2 and node.input[2]
    bias = index.value(node.input[2]).astype(np.float64) if has_bias else np.zeros(len(factor))
    names = [f"{node.name}/weights", f"{node.name}/bias"]
    for name, value in zip(names, (scaled, bias * factor + offset), strict=True):
        set_initializer(model, name, value.astype(np.float32))
    del node.input[1:]
    node.input.extend(names)


def _expand_normalization(model: onnx.ModelProto) -> None:
    """A normalization that follows no convolution becomes Mul and Add: elementwise operators."""
    import numpy as np
    from onnx import helper

    index = GraphIndex(model)
    nodes: list[onnx.NodeProto] = []
    for node in index.nodes:
        constant = all(index.is_constant(name) for name in node.input[1:])
        if node.op_type != "BatchNormalization" or not constant:
            nodes.append(node)
            continue
        rank = len(index.shape(node.input[0]))
        for name, value in zip(("factor", "offset"), _normalization(index, node), strict=True):
            spread = value.reshape((1, -1) + (1,) * (rank - 2)).astype(np.float32)
            set_initializer(model, f"{node.name}/{name}", spread)
        scaled = f"{node.output[0]}/scaled"
        mul = (node.input[0], f"{node.name}/factor")
        add = (scaled, f"{node.name}/offset")
        nodes.append(helper.make_node("Mul", mul, [scaled], name=f"{node.name}/mul"))
        nodes.append(helper.make_node("Add", add, [node.output[0]], name=node.name))
    _replace_nodes(model, nodes)


def _drop_unused(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for field, values in ((model.graph.initializer, kept), (model.graph.input, inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    # Messages taken out of a repeated field are copied, since clearing it may free them.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)

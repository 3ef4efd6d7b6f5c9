"""A Q/DQ graph as TensorRT's parser wants it: rewritten where that is exact, refused otherwise.

TensorRT wants zero points of 0 and int8, and biases in float (seen with TensorRT for RTX 1.7.1;
"Working with Quantized Types" of its documentation says that it quantizes symmetrically).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

_HINT = "quantize it with zero points of 0: QuantConfig(quant_scheme='symmetric')"


def symmetric_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that TensorRT takes: int32 biases as float32, uint8 around 128 as int8 around 0.

    Both rewrites are exact.

    Args:
        model: a Q/DQ graph; not changed.

    Raises:
        UnsupportedError: a node breaks the rules in another way; node and rule are named.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    biases = {n.name or n.output[0]: n for n in copy.graph.node if _is_bias(n, constants)}
    for node in biases.values():
        _fold(copy, node, constants)
    _check_uint8(copy, constants)
    shifted: set[str] = set()
    for node in copy.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check(node, constants)
            _shift(node, constants, shifted)
    _retype(copy)
    return copy


def _is_bias(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    import onnx

    return (
        node.op_type == "DequantizeLinear"
        and all(name in constants for name in node.input if name)
        and constants[node.input[0]].data_type == onnx.TensorProto.INT32
    )


def _fold(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    """Replace a dequantized constant by its value: (int - zero point) x scale in float32."""
    import numpy as np
    from onnx import numpy_helper

    values = [numpy_helper.to_array(constants[name]) for name in node.input if name]
    shape = [1] * values[0].ndim
    if values[1].size > 1:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape[0 if values[0].ndim == 1 else axis] = -1
    zero = values[2].astype(np.int64).reshape(shape) if len(values) > 2 else 0
    scale = values[1].astype(np.float32).reshape(shape if values[0].ndim else ())
    result = ((values[0].astype(np.int64) - zero) * scale).astype(np.float32)
    tensor = numpy_helper.from_array(np.ascontiguousarray(result), node.output[0])
    model.graph.initializer.append(tensor)
    model.graph.node.remove(node)


def _check(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    where = f"{node.op_type} (node {node.name!r})"
    if len(node.input) < 3 or not node.input[2]:
        raise UnsupportedError(f"{where}: without a zero point it is uint8", hint=_HINT)
    if node.input[1] not in constants or node.input[2] not in constants:
        raise UnsupportedError(f"{where}: TensorRT wants a constant scale and zero point")
    tensor = constants[node.input[2]]
    zero = numpy_helper.to_array(tensor)
    if tensor.data_type == onnx.TensorProto.UINT8 and bool(np.all(zero == 128)):
        return
    if tensor.data_type != onnx.TensorProto.INT8 or bool(np.any(zero)):
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        found = zero.reshape(-1)[np.argmax(zero.reshape(-1) != 0)] if zero.size else 0
        raise UnsupportedError(
            f"{where}: TensorRT takes int8 with zero point 0, this is {kind} with {found}",
            hint=_HINT,
        )


def _check_uint8(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Integers that something else than a pair of Q and DQ sees can't be shifted."""
    import onnx

    pairs = ("QuantizeLinear", "DequantizeLinear")
    made = {n.output[0] for n in model.graph.node if n.op_type == pairs[0]}
    seen = {name for n in model.graph.node if n.op_type not in pairs for name in n.input}
    for node in model.graph.node:
        if node.op_type not in pairs or len(node.input) < 3:
            continue
        zero = constants.get(node.input[2])
        is_quantize = node.op_type == pairs[0]
        integers = node.output[0] if is_quantize else node.input[0]
        is_open = not is_quantize and integers not in made and integers not in constants
        is_uint8 = zero is not None and zero.data_type == onnx.TensorProto.UINT8
        if is_uint8 and (is_open or integers in seen):
            raise UnsupportedError(
                f"{node.op_type} (node {node.name!r}): its uint8 integers are used by other "
                "operators, and TensorRT takes int8 only",
                hint=_HINT,
            )


def _shift(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], shifted: set[str]) -> None:
    """uint8 around 128 -> int8 around 0: q - 128 saturates where q does."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    zero = constants[node.input[2]]
    if zero.data_type == onnx.TensorProto.UINT8:
        array = np.zeros(tuple(zero.dims), np.int8)
        zero.CopyFrom(numpy_helper.from_array(array, zero.name))
    data = constants.get(node.input[0])
    if node.op_type == "DequantizeLinear" and data is not None and data.name not in shifted:
        shifted.add(data.name)
        if data.data_type == onnx.TensorProto.UINT8:
            values = (numpy_helper.to_array(data).astype(np.int16) - 128).astype(np.int8)
            data.CopyFrom(numpy_helper.from_array(values, data.name))


def _retype(model: onnx.ModelProto) -> None:
    """Drop what the graph states about tensors between its nodes: their types may have changed."""
    from onnx import TensorProto

    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            raise UnsupportedError(
                f"tensor {value.name!r}: TensorRT has no uint8 there", hint="give a float32 tensor"
            )
    model.graph.ClearField("value_info")

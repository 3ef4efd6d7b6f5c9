"""A Q/DQ graph whose float parts are float16: what ``--int8 --fp16`` means where types are strong.

Scales become float16 too, as operators of one type ask for (ONNX 19 and newer). A scale moves by at
most 2^-11 of itself: a sixteenth of a step at the end of the range.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from deepseek_edge.backends.tensorrt.contract import symmetric_graph
from deepseek_edge.backends.tensorrt.half import to_float16
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.opset import convert_opset, opset_of

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

# QuantizeLinear and DequantizeLinear know float16 from here on.
_OPSET = 19
# The least float16 with all its digits. TensorRT refuses a scale of 0, which smaller ones become.
_LEAST_SCALE = 2.0**-14
_LARGEST = 65504.0
_HINT = "keep the graph's float parts in float32"


def with_float16_rest(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the float parts of a Q/DQ graph to float16; inputs and outputs stay float32.

    Args:
        model: a Q/DQ graph; not changed.

    Returns:
        A graph of opset 19 or newer that TensorRT 10 takes (8.5 knows opset 17, and mixes by its
        flags). Channels whose weights are too small for a float16 scale have a larger one, and
        their integers are rounded to it.

    Raises:
        UnsupportedError: a rule of ``symmetric_graph`` or ``to_float16`` is broken, an activation's
            scale is outside float16's range, or the opset can't be converted.
    """
    graph = symmetric_graph(model)
    if opset_of(graph) < _OPSET:
        graph = convert_opset(graph, _OPSET, hint=_HINT)
    _fit_scales(graph)
    return to_float16(graph, is_quantized=True)


def _fit_scales(model: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        tensor = constants[node.input[1]]
        scale = numpy_helper.to_array(tensor)
        if scale.size and scale.min() >= _LEAST_SCALE and scale.max() <= _LARGEST:
            continue
        weights = constants.get(node.input[0])
        is_shared = reads[node.input[0]] > 1 or reads[node.input[1]] > 1
        if weights is None or is_shared or scale.max(initial=0.0) > _LARGEST:
            raise UnsupportedError(
                f"{node.op_type} (node {node.name!r}): its scale is outside float16's range",
                hint=_HINT,
            )
        _rescale(node, weights, tensor)


def _rescale(node: onnx.NodeProto, weights: onnx.TensorProto, scale: onnx.TensorProto) -> None:
    """Give channels of tiny weights the least scale, and round their integers to it."""
    import numpy as np
    from onnx import numpy_helper

    old = numpy_helper.to_array(scale)
    new = np.maximum(old, np.float32(_LEAST_SCALE))
    values = numpy_helper.to_array(weights)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [1] * values.ndim
    if old.ndim:
        shape[axis] = -1
    factor = (old / new).reshape(shape)
    rounded = np.rint(values * factor).astype(values.dtype)
    weights.CopyFrom(numpy_helper.from_array(rounded, weights.name))
    scale.CopyFrom(numpy_helper.from_array(new, scale.name))

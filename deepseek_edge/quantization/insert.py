"""Write quantization into the graph: QuantizeLinear and DequantizeLinear, as the contract says.

Activations int8 per tensor, weights int8 per output channel with zero point 0, biases float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.quantization.affine import Affine
from deepseek_edge.quantization.placement import Placement, weight_axis

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class QuantizedWeights:
    """A layer's weights as integers.

    Attributes:
        values: int8, -127 to 127, in the layer's own order of axes.
        scales: (output channels,) float32; of a ConvTranspose (output channels / groups,).
    """

    values: Array
    scales: Array


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    activations: Mapping[str, Affine],
    weights: Mapping[str, QuantizedWeights],
) -> onnx.ModelProto:
    """Make the Q/DQ graph.

    Args:
        model: prepared; not changed.
        placement: of this model.
        activations: an entry for each tensor of the placement.
        weights: an entry for each layer whose weights become integers; others keep float ones.

    Returns:
        A copy. Tensor ``t`` has its integers in ``t/quantized`` and reads back as
        ``t/dequantized``; a layer's weights are in ``LAYER/weights/quantized``.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    del quantized.graph.node[:]
    writer = _Writer(quantized)
    pending = [v.name for v in model.graph.input if v.name in placement.edges]
    for name in pending:
        writer.quantize(name, activations[name])
    for node in model.graph.node:
        copy = type(node).FromString(node.SerializeToString())
        for place, name in enumerate(copy.input):
            if (copy.name, place) in placement.edges.get(name, ()):
                copy.input[place] = f"{name}/dequantized"
        if copy.name in weights:
            copy.input[1] = writer.dequantize_weights(copy, weights[copy.name])
        quantized.graph.node.append(copy)
        for name in copy.output:
            if name in placement.edges:
                writer.quantize(name, activations[name])
    _drop_unread_initializers(quantized)
    return quantized


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph

    def quantize(self, name: str, affine: Affine) -> None:
        import numpy as np

        scale, zero_point = f"{name}/scale", f"{name}/zero_point"
        self._constant(scale, np.array(affine.scale, np.float32))
        self._constant(zero_point, np.array(affine.zero_point, np.int8))
        self._node("QuantizeLinear", [name, scale, zero_point], f"{name}/quantized")
        self._node(
            "DequantizeLinear", [f"{name}/quantized", scale, zero_point], f"{name}/dequantized"
        )

    def dequantize_weights(self, node: onnx.NodeProto, weights: QuantizedWeights) -> str:
        import numpy as np

        base = f"{node.name}/weights"
        names = [f"{base}/quantized", f"{base}/scale", f"{base}/zero_point"]
        self._constant(names[0], weights.values)
        self._constant(names[1], weights.scales)
        self._constant(names[2], np.zeros(weights.scales.shape, np.int8))
        output = f"{base}/dequantized"
        self._node("DequantizeLinear", names, output, axis=weight_axis(node))
        return output

    def _constant(self, name: str, value: Array) -> None:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))


def _drop_unread_initializers(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    kept = [
        type(tensor).FromString(tensor.SerializeToString())
        for tensor in model.graph.initializer
        if tensor.name in read
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)

"""Where the error enters: each layer's noise, what came with its inputs and what it adds itself.

One graph computes the float model, the quantized one and each layer alone beside them, and sums
the squares of the differences itself: a run a sample, and no tensor leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import LayerError
from deepseek_edge.distance import signal_to_noise_db
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.graph import GraphIndex

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from deepseek_edge.quantization.quantizer import QuantizedModel

    Array = np.ndarray[Any, Any]
    Sample = Mapping[str, Array]

SAMPLES = 4
_INT8, _ALONE = "int8:", "alone:"


def layer_errors(quantized: QuantizedModel, samples: Sequence[Sample]) -> tuple[LayerError, ...]:
    """Signal to noise at the output of every quantized layer.

    A layer alone has the float bias: a corrected one makes up for its predecessors' errors too.

    Args:
        quantized: made with or without data.
        samples: checked; the first four are run.

    Returns:
        In the order of ``quantized.layers``.
    """
    import numpy as np

    layers = quantized.layers
    if not layers:
        return ()
    both = _side_by_side(quantized.parts.model, quantized.model, layers)
    run = session(both, optimize=False)
    sums = np.zeros((len(layers), 3))
    for sample in samples[:SAMPLES]:
        sums += np.array(run.run(None, dict(sample)), np.float64).reshape(sums.shape)
    return tuple(
        LayerError(name, signal_to_noise_db(signal, noise), signal_to_noise_db(signal, added))
        for name, (signal, noise, added) in zip(layers, sums, strict=True)
    )


def _side_by_side(
    model: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[str]
) -> onnx.ModelProto:
    """Three sums of squares a layer: its float output, its error, its error alone."""
    import onnx

    both = onnx.ModelProto()
    both.CopyFrom(model)
    del both.graph.output[:]
    _add_quantized(both, quantized)
    index = GraphIndex(model)
    nodes = {node.name: node for node in index.nodes}
    inputs = {node.name: node.input[0] for node in quantized.graph.node if node.name in nodes}
    for name in layers:
        node = nodes[name]
        is_quantized = inputs[name] != node.input[0]
        alone = _add_alone(both, node, is_quantized=is_quantized)
        output = node.output[0]
        _add_sum(both, output, f"{name}:signal")
        for other, label in ((_INT8 + output, "noise"), (alone, "added")):
            difference = f"{name}:{label}:difference"
            _add_node(both, "Sub", [other, output], difference)
            _add_sum(both, difference, f"{name}:{label}")
    return both


def _add_quantized(both: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    inputs = {value.name for value in quantized.graph.input}
    for tensor in quantized.graph.initializer:
        copy = both.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = _INT8 + tensor.name
    for node in quantized.graph.node:
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = _INT8 + node.name
        for names in (copy.input, copy.output):
            for place, name in enumerate(names):
                if name and name not in inputs:
                    names[place] = _INT8 + name


def _add_alone(both: onnx.ModelProto, node: onnx.NodeProto, *, is_quantized: bool) -> str:
    """A layer with float inputs, which it rounds itself, and int8 weights; its output's name."""
    x = node.input[0]
    if is_quantized:
        affine = [f"{_INT8}{x}/scale", f"{_INT8}{x}/zero_point"]
        rounded = f"{_ALONE}{node.name}/rounded"
        _add_node(both, "QuantizeLinear", [x, *affine], rounded)
        x = f"{_ALONE}{node.name}/input"
        _add_node(both, "DequantizeLinear", [rounded, *affine], x)
    copy = both.graph.node.add()
    copy.CopyFrom(node)
    output = f"{_ALONE}{node.name}"
    copy.name = copy.output[0] = output
    copy.input[0] = x
    copy.input[1] = f"{_INT8}{node.name}/weights/dequantized"
    return output


def _add_sum(both: onnx.ModelProto, name: str, output: str) -> None:
    from onnx import TensorProto, helper

    _add_node(both, "ReduceSumSquare", [name], output, keepdims=0)
    both.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ()))


def _add_node(
    both: onnx.ModelProto, op: str, inputs: list[str], output: str, **attributes: Any
) -> None:
    from onnx import helper

    both.graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))

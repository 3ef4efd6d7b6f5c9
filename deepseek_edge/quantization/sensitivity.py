"""Which layers cost accuracy: each one quantized alone, judged at the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepseek_edge.distance import signal_to_noise_db
from deepseek_edge.quantization.affine import Affine
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.graph import GraphIndex, attribute
from deepseek_edge.quantization.insert import QuantizedWeights, insert
from deepseek_edge.quantization.placement import Placement

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]
    Sample = Mapping[str, Array]

Progress = Callable[[int, int], None]

# A layer that costs accuracy shows on a few samples.
SAMPLES = 4


def layer_sensitivity(
    model: onnx.ModelProto,
    placement: Placement,
    activations: Mapping[str, Affine],
    weights: Mapping[str, QuantizedWeights],
    samples: Sequence[Sample],
    *,
    progress: Progress = lambda done, total: None,
) -> dict[str, float]:
    """SQNR at the outputs with one layer's input and weights quantized, everything else float.

    Args:
        model: prepared, float.
        placement: of this model.
        activations: of each quantized tensor.
        weights: of each layer.
        samples: the first four are run.
        progress: told (layers done, layers in all).

    Returns:
        Decibels by layer, in the graph's order; infinite where nothing changes.
    """
    few = samples[:SAMPLES]
    expected = _outputs(model, few)
    index = GraphIndex(model)
    inputs = {node.name: node.input[0] for node in index.nodes if node.input}
    found: dict[str, float] = {}
    for number, name in enumerate(placement.layers):
        edge = (name, 0)
        is_quantized = edge in placement.edges.get(inputs[name], ())
        edges = {inputs[name]: frozenset({edge})} if is_quantized else {}
        alone = replace(placement, edges=edges, tensors=tuple(edges))
        graph = insert(model, alone, activations, {name: weights[name]})
        found[name] = _sqnr_db(expected, _outputs(graph, few))
        progress(number + 1, len(placement.layers))
    return found


def choose_float(
    sensitivity: Mapping[str, float], macs: Mapping[str, int], budget: float
) -> dict[str, str]:
    """The layers that cost most, as many as a budget of multiply-accumulates allows.

    Args:
        sensitivity: as ``layer_sensitivity`` gives it.
        macs: of every layer.
        budget: share of all multiply-accumulates that may stay float, 0 to 1.

    Returns:
        The reason by layer, worst first.
    """
    left = budget * sum(macs.values())
    chosen: dict[str, str] = {}
    for name, sqnr_db in sorted(sensitivity.items(), key=lambda item: item[1]):
        if macs[name] <= left and math.isfinite(sqnr_db):
            left -= macs[name]
            chosen[name] = f"int8 in this layer alone leaves {sqnr_db:.1f} dB at the output"
    return chosen


def layer_macs(index: GraphIndex, names: Sequence[str]) -> dict[str, int]:
    """Multiply-accumulates of layers (Conv, ConvTranspose, Gemm, MatMul)."""
    nodes = {node.name: node for node in index.nodes}
    return {name: _macs(index, nodes[name]) for name in names}


def _macs(index: GraphIndex, node: onnx.NodeProto) -> int:
    x, w, y = (index.shape(name) for name in (*node.input[:2], node.output[0]))
    if node.op_type == "ConvTranspose":  # every input pixel meets every weight of its group
        return math.prod(x) * math.prod(w[1:])
    if node.op_type == "Conv":
        return math.prod(y) * math.prod(w[1:])
    return math.prod(y) * (x[0] if attribute(node, "transA", 0) else x[-1])


def _outputs(model: onnx.ModelProto, samples: Sequence[Sample]) -> list[Array]:
    run = session(model, optimize=False)
    return [value for sample in samples for value in run.run(None, dict(sample))]


def _sqnr_db(expected: Sequence[Array], actual: Sequence[Array]) -> float:
    import numpy as np

    pairs = [(f, q) for f, q in zip(expected, actual, strict=True) if f.dtype.kind == "f"]
    signal = sum(float(np.square(f, dtype=np.float64).sum()) for f, _ in pairs)
    noise = sum(float(np.square(f - q, dtype=np.float64).sum()) for f, q in pairs)
    return signal_to_noise_db(signal, noise)

"""Scales and zero points, and layers that count in the steps of the quantization behind them.

    IntegerConv -> Relu -> Q(s_y)      becomes      IntegerConv in steps of s_y -> bounded Q(1)

A bound is rounded like what it bounds and then holds for the integers: exact, since rounding
keeps the order. One outside of int8 vanishes in the saturation.
"""

from dataclasses import dataclass

import numpy as np

from deepseek_edge.backends.tvm.graph import Graph, Node, Value
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.requantization import Bounds, in_steps, up_to_quantization


@dataclass(frozen=True)
class Quantization:
    """x = (q - zero_point) * scale, for a whole tensor.

    Attributes:
        low, high: what (q - zero_point) is kept between, besides int8.
        largest: no input is larger, in steps.
    """

    scale: float
    zero_point: int
    low: float = -np.inf
    high: float = np.inf
    largest: float = np.inf


def read_parameters(node: Node) -> None:
    """Scale and zero point as attributes; axis stays for per-channel weights."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale, zero = node.value(1), node.optional(2)
    where = f"{node.op} (node {node.source!r})"
    if scale.data is None or (zero is not None and zero.data is None):
        raise UnsupportedError(f"{where}: scale and zero point must be constant")
    quantized = node.output if node.op == "QuantizeLinear" else node.value(0)
    if quantized.dtype not in ("int8", "int32") or node.attrs.get("block_size"):
        raise UnsupportedError(
            f"{where}: {quantized.dtype} is not int8 per tensor or channel",
            hint="activations and weights are int8, biases float32: quantize the float model "
            "with deepseek-edge quantize",
        )
    points = np.zeros(1, np.int64) if zero is None or zero.data is None else zero.data
    if scale.elements > 1 and (np.any(points) or node.value(0).data is None):
        raise UnsupportedError(f"{where}: only weights may be per channel, with zero point 0")
    node.attrs["scales"] = np.asarray(scale.data, np.float32).reshape(-1)
    if scale.elements == 1:
        node.attrs["quantization"] = Quantization(
            float(scale.data.reshape(-1)[0]), int(points.reshape(-1)[0])
        )
    if node.op == "QuantizeLinear" and scale.elements > 1:
        raise UnsupportedError(f"{where}: activations are quantized per tensor")
    node.inputs = node.inputs[:1]


def parameters(node: Node | None) -> Quantization | None:
    """The per-tensor parameters of a Q or DQ node."""
    return None if node is None else node.attrs.get("quantization")


def quantized_next(graph: Graph, layers: tuple[str, ...]) -> dict[Node, list[Node]]:
    """For each layer with nothing but bounds before its QuantizeLinear: those nodes, in order."""
    consumers = graph.consumers()

    def reader(node: Node) -> Node | None:
        readers = consumers.get(node.output, [])
        return readers[0] if len(readers) == 1 and node.output not in graph.outputs else None

    def is_quantization(node: Node) -> bool:
        return node.op == "QuantizeLinear" and parameters(node) is not None

    found = {
        node: up_to_quantization(node, reader, bounds, is_quantization)
        for node in graph.nodes
        if node.op in layers
    }
    return {node: behind for node, behind in found.items() if behind is not None}


def bounds(node: Node) -> Bounds | None:
    """What a Relu or Clip with constant bounds keeps its input between."""
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip" or "min" in node.attrs or "max" in node.attrs:
        return None
    limits = [-np.inf, np.inf]
    for place, value in enumerate(node.inputs[1:]):
        if value is not None:
            if value.data is None:
                return None
            limits[place] = float(value.data.reshape(()))
    return limits[0], limits[1]


def bound_steps(result: Value, behind: list[Node], largest: float) -> None:
    """Let the QuantizeLinear at the end read ``result``, whose elements are in its steps."""
    quantize = behind[-1]
    old = parameters(quantize)
    assert old is not None
    low, high = -np.inf, np.inf
    for node in behind[:-1]:
        limits = bounds(node)
        assert limits is not None
        first, last = (np.rint(in_steps(bound, old.scale)) for bound in limits)
        low, high = (min(max(bound, first), last) for bound in (low, high))
    quantize.inputs[0] = result
    quantize.attrs["quantization"] = Quantization(1.0, old.zero_point, low, high, largest)

"""Q/DQ -> integers: layers between DequantizeLinear and QuantizeLinear compute on int8.

    DQ(x), DQ(w) -> Conv -> ... -> Q      becomes      IntegerConv(x, w) -> ... -> Q

where IntegerConv sums int8 products and its bias in int32 and scales the sum, to a float result
or to the steps of the next quantization (requantization.py). What follows (bounds, or a residual
DQ and Add, then Q) is elementwise and fuses into its step, so that only int8 is written.
"""

import dataclasses
from typing import Any

import numpy as np

from deepseek_edge.artifacts import KeptFloat, Layers
from deepseek_edge.backends.tvm.graph import Array, Graph, Node, Value, constant
from deepseek_edge.backends.tvm.objections import objections
from deepseek_edge.backends.tvm.steps import (
    Quantization,
    bound_steps,
    parameters,
    quantized_next,
    read_parameters,
)
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.requantization import Requantization, requantization

# Operators that give the same answer on quantized values: they move or compare them.
MOVES = {
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "MaxPool",
    "Gather",
    "Concat",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
    "Tile",
    "Identity",
}
# Anchors that dequantize what they load.
READS_QUANTIZED = {
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceSum",
    "Resize",
    "Softmax",
    "LayerNormalization",
}
LAYERS = ("Conv", "Gemm", "MatMul")


def is_quantized(graph: Graph) -> bool:
    """True if the graph has Q/DQ nodes."""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes)


def lower_integers(graph: Graph, storage: str) -> Layers:
    """Rewrite a Q/DQ graph in place; a graph without Q/DQ stays as it is.

    Args:
        graph: as imported, before any other pass.
        storage: how int8 activations lie in memory: "int8", "int16", or "uint8" with 128 added.

    Returns:
        How the source graph's layers are computed, and why some stay float.

    Raises:
        UnsupportedError: a Q/DQ node that breaks the contract (which node, which rule).
    """
    macs = {node.source: _macs(node) for node in graph.nodes if node.op in LAYERS}
    if not is_quantized(graph):
        return Layers(len(macs), 0, 0, len(macs), None)
    for node in graph.nodes:
        read_parameters(node)
    # Before data movement changes places with quantization: as the reference sees the graph.
    behind = quantized_next(graph, LAYERS)
    _push_up_over_concat(graph)
    _push_down(graph)
    _cancel_pairs(graph)
    _one_reader_each(graph)
    kept: dict[str, str] = {}
    graph.rewrite(lambda node: _layer(graph, node, kept, behind.get(node)))
    graph.remove_dead()
    _absorb(graph)
    _fold_constants(graph)
    _store_as(graph, storage)
    graph.remove_dead()
    floats = sum(macs[name] for name in kept)
    return Layers(
        total=len(macs),
        int8=len(macs) - len(kept),
        float16=0,
        float32=len(kept),
        int8_macs_share=1 - floats / max(sum(macs.values()), 1),
        kept_float=tuple(KeptFloat(name, reason) for name, reason in kept.items()),
    )


def _macs(node: Node) -> int:
    """Multiply-accumulates of a Conv, Gemm or MatMul."""
    if node.op == "Conv":
        return node.output.elements * int(np.prod(node.value(1).shape[1:]))
    a = node.value(0).shape
    depth = a[0] if node.op == "Gemm" and node.attrs.get("transA") else a[-1]
    return node.output.elements * depth


def _moves(node: Node, producers: dict[Value, Node]) -> bool:
    """True if the node gives the same result on quantized inputs as on dequantized ones."""
    data = node.inputs if node.op == "Concat" else node.inputs[:1]
    if node.op == "Resize":
        movable = node.attrs.get("mode", "nearest") == "nearest"
    else:
        movable = node.op in MOVES
    sources = [producers.get(value) for value in data if value is not None]
    if not movable or not sources:
        return False
    first = sources[0]
    return all(
        source is not None
        and source.op == "DequantizeLinear"
        and parameters(source) is not None
        and parameters(source) == parameters(first)
        for source in sources
    )


def _push_down(graph: Graph) -> None:
    """move(DQ(x)) -> DQ(move(x)), so that data moves as int8."""
    producers = graph.producers()

    def rule(node: Node) -> list[Node] | None:
        if not _moves(node, producers):
            return None
        n_data = len(node.inputs) if node.op == "Concat" else 1
        sources = [producers[value] for value in node.inputs[:n_data] if value is not None]
        moved = Value(f"{node.output.name}/int8", "int8", node.output.shape)
        inner = Node(
            node.op,
            [*(s.value(0) for s in sources), *node.inputs[n_data:]],
            [moved],
            node.attrs,
            node.source,
        )
        outer = _dequantize(moved, node.output, sources[0].attrs, node.source)
        producers[moved], producers[node.output] = inner, outer
        return [inner, outer]

    graph.rewrite(rule)


def _dequantize(value: Value, out: Value, attrs: dict[str, Any], source: str) -> Node:
    kept = {key: attrs[key] for key in ("scales", "quantization")}
    return Node("DequantizeLinear", [value], [out], kept, source)


def _push_up_over_concat(graph: Graph) -> None:
    """Q(Concat(a, b)) -> Concat(Q(a), Q(b)): each part is quantized where it is made."""
    producers, consumers = graph.producers(), graph.consumers()

    def rule(node: Node) -> list[Node] | None:
        concat = producers.get(node.value(0)) if node.op == "QuantizeLinear" else None
        if concat is None or concat.op != "Concat" or concat.output in graph.outputs:
            return None
        if len(consumers[concat.output]) != 1:
            return None
        parts: list[Value | None] = []
        nodes: list[Node] = []
        for number, value in enumerate(concat.inputs):
            assert value is not None
            part = Value(f"{node.output.name}/part{number}", "int8", value.shape)
            nodes.append(Node("QuantizeLinear", [value], [part], dict(node.attrs), node.source))
            parts.append(part)
        joined = Node("Concat", parts, [node.output], concat.attrs, concat.source)
        return [*nodes, joined]

    graph.rewrite(rule)
    graph.remove_dead()


def _cancel_pairs(graph: Graph) -> None:
    """Q(DQ(x)) -> x where both have the same parameters."""
    producers = graph.producers()
    for node in graph.nodes:
        before = producers.get(node.value(0)) if node.op == "QuantizeLinear" else None
        if before is None or before.op != "DequantizeLinear":
            continue
        if parameters(before) == parameters(node) and before.value(0).dtype == "int8":
            graph.replace_uses(node.output, before.value(0))
    graph.remove_dead()


def _one_reader_each(graph: Graph) -> None:
    """A DQ node for each reader: it costs nothing where it is fused."""
    producers = graph.producers()
    nodes: list[Node] = []
    used: set[Value] = set(graph.outputs)
    for node in graph.nodes:
        for place, value in enumerate(node.inputs):
            producer = producers.get(value) if value is not None else None
            if value is None or producer is None or producer.op != "DequantizeLinear":
                continue
            if value in used:
                again = Value(f"{value.name}/{len(used)}", value.dtype, value.shape)
                nodes.append(
                    Node(
                        producer.op,
                        list(producer.inputs),
                        [again],
                        dict(producer.attrs),
                        producer.source,
                    )
                )
                node.inputs[place] = again
                used.add(again)
            used.add(value)
        nodes.append(node)
    graph.nodes = nodes


def _layer(
    graph: Graph, node: Node, kept: dict[str, str], behind: list[Node] | None
) -> list[Node] | None:
    """Conv, Gemm and MatMul on a dequantized activation and dequantized constant weights.

    ``behind`` are the nodes up to a QuantizeLinear, if only bounds stand before it.
    """
    if node.op not in LAYERS:
        return None
    producers = graph.producers()
    data, weights = (producers.get(node.value(i)) for i in range(2))
    reason = next(objections(node, data, weights), None)
    if reason is not None:
        kept[node.source] = reason
        return None
    assert data is not None and weights is not None
    if weights.value(0).data is None:
        return [_product(node, data, weights)]
    x, y = parameters(data), parameters(behind[-1]) if behind else None
    matrix = weights.value(0)
    assert x is not None and matrix.data is not None
    if node.op == "Gemm" and node.attrs.get("transB"):
        matrix = constant(f"{matrix.name}/transposed", matrix.data.T)
    op, axis = ("IntegerConv", 0) if node.op == "Conv" else ("IntegerMatMul", 1)
    channels, bias = matrix.shape[axis], node.optional(2)
    rest = requantization(
        x.scale,
        np.broadcast_to(weights.attrs["scales"], (channels,)),
        None if bias is None or bias.data is None else _row(bias.data, channels),
        products=matrix.elements // channels,
        y_scale=None if y is None else y.scale,
    )
    tables = {"factor": rest.factor, "bias": rest.bias, "offset": rest.offset}
    constants = [
        None if table is None else constant(f"{node.source}/{name}", table)
        for name, table in tables.items()
    ]
    attrs = {**node.attrs, "zero_point": x.zero_point}
    inputs = [data.value(0), matrix, *constants]
    if behind:
        bound_steps(node.output, behind, _largest(matrix, axis, rest))
    return [Node(op, inputs, list(node.outputs), attrs, node.source)]


def _product(node: Node, data: Node, other: Node) -> Node:
    """MatMul of two dequantized activations."""
    x, y = parameters(data), parameters(other)
    assert x is not None and y is not None
    factor = constant(f"{node.source}/factor", np.array([x.scale * y.scale], np.float32))
    attrs = {**node.attrs, "zero_point": x.zero_point, "second_zero_point": y.zero_point}
    inputs: list[Value | None] = [data.value(0), other.value(0), factor]
    return Node("IntegerMatMul", inputs, list(node.outputs), attrs, node.source)


def _row(bias: Array, channels: int) -> Array:
    return np.broadcast_to(bias.reshape(-1), (channels,))


def _largest(weights: Value, axis: int, rest: Requantization) -> float:
    """A bound of a layer's scaled sums."""
    assert weights.data is not None
    if rest.offset is not None:
        return np.inf
    others = tuple(other for other in range(weights.data.ndim) if other != axis)
    sums = 255.0 * np.abs(weights.data.astype(np.int64)).sum(axis=others)
    if rest.bias is not None:
        sums += np.abs(rest.bias)
    return float((sums * rest.factor).max())


def _absorb(graph: Graph) -> None:
    """Pooling and reductions dequantize what they load."""
    producers = graph.producers()
    for node in graph.nodes:
        before = producers.get(node.value(0)) if node.op in READS_QUANTIZED else None
        quantization = parameters(before)
        if before is not None and before.op == "DequantizeLinear" and quantization is not None:
            node.inputs[0] = before.value(0)
            node.attrs["dequantize"] = quantization


def _fold_constants(graph: Graph) -> None:
    """DQ of constants that stay float."""

    def rule(node: Node) -> list[Node] | None:
        if node.op != "DequantizeLinear" or node.value(0).data is None:
            return None
        data, scales = node.value(0).data, node.attrs["scales"]
        assert data is not None
        quantization = parameters(node)
        if quantization is not None:
            array = (data.astype(np.float32) - quantization.zero_point) * np.float32(
                quantization.scale
            )
        else:
            axis = node.attrs.get("axis", 1)
            shape = [1] * data.ndim
            shape[axis] = -1
            array = data.astype(np.float32) * scales.reshape(shape)
        graph.replace_uses(node.output, constant(node.output.name, array.astype(np.float32)))
        return []

    graph.rewrite(rule)


def _store_as(graph: Graph, storage: str) -> None:
    """Give quantized activations the storage that the target's multiply unit reads."""
    fixed = {value for value in [*graph.inputs, *graph.outputs] if value.dtype == "int8"}
    changed: set[Value] = set()
    for node in graph.nodes:
        made = node.op == "QuantizeLinear" or (
            node.op in MOVES | {"Resize"} and any(v in changed for v in node.inputs)
        )
        for value in node.outputs:
            if made and value.dtype == "int8" and value not in fixed:
                value.dtype = storage
                changed.add(value)
    shift = 128 if storage == "uint8" else 0
    for node in graph.nodes:
        quantized = node.output if node.op == "QuantizeLinear" else node.inputs[0]
        if quantized not in changed:
            if node.op.startswith("Integer") and storage != "int8":
                raise UnsupportedError(
                    f"{node.source!r} reads an int8 graph input on this target",
                    hint="let the graph take float inputs and quantize them",
                )
            continue
        if "zero_point" in node.attrs:
            node.attrs["zero_point"] += shift
        for key in ("quantization", "dequantize"):
            old = node.attrs.get(key)
            if isinstance(old, Quantization):
                node.attrs[key] = dataclasses.replace(old, zero_point=old.zero_point + shift)

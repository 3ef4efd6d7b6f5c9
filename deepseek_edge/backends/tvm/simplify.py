"""Rewrites that leave a graph of fewer operators: what remains is what the schedules know.

Each rule looks at one node and returns the nodes that replace it, or None. The order of the
list matters only where a comment says so.
"""

from collections.abc import Callable, Sequence

import numpy as np

from deepseek_edge.backends.tvm import decompose, einsum, recurrent, resampling
from deepseek_edge.backends.tvm.graph import Array, Graph, Node, Value, constant
from deepseek_edge.backends.tvm.writer import Writer
from deepseek_edge.errors import UnsupportedError

Rule = Callable[[Graph, Node], "list[Node] | None"]


def simplify(graph: Graph) -> None:
    """Apply every rule once over the graph, in order, in place."""
    for rule in RULES:
        graph.rewrite(lambda node, rule=rule: rule(graph, node))  # type: ignore[misc]
        graph.remove_dead()
    single_outputs(graph)


def own_outputs(graph: Graph, names: Sequence[str]) -> None:
    """Give every graph output memory of its own, and the name that the source graph gave it.

    It is a Copy where it is a view, an input, a constant or one value under two names.
    """
    producers = graph.producers()
    taken: set[Value] = set()
    for place, (value, name) in enumerate(zip(graph.outputs, names, strict=True)):
        producer = producers.get(value)
        if producer is not None and producer.op != "Reshape" and value not in taken:
            value.name = name
            taken.add(value)
            continue
        copy = Value(name, value.dtype, value.shape)
        graph.nodes.append(Node("Copy", [value], [copy], {}, name))
        graph.outputs[place] = copy


def drop_identity(graph: Graph, node: Node) -> list[Node] | None:
    """Identity, and Cast to the same dtype; CastLike is a Cast."""
    if node.op == "CastLike":
        node.op, node.inputs = "Cast", node.inputs[:1]
    same_cast = node.op == "Cast" and node.value(0).dtype == node.output.dtype
    if node.op != "Identity" and not same_cast:
        return None
    graph.replace_uses(node.output, node.value(0))
    return []


def batch_norm(graph: Graph, node: Node) -> list[Node] | None:
    """BatchNormalization -> x * scale + shift, folded into a convolution before it."""
    if node.op != "BatchNormalization":
        return None
    x, rest = node.value(0), [node.value(i) for i in range(1, 5)]
    if any(value.data is None for value in rest):
        raise UnsupportedError(
            f"BatchNormalization (node {node.source!r}) has weights that aren't constant",
            hint="export the model in eval mode",
        )
    gamma, beta, mean, variance = (np.asarray(value.data, np.float64) for value in rest)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    shift = beta - mean * scale
    before = graph.producers().get(x)
    if before is not None and _can_scale(graph, before):
        _scale_convolution(before, scale, shift)
        graph.replace_uses(node.output, before.output)
        return []
    shape = (1, -1) + (1,) * (len(x.shape) - 2)
    factor = constant(f"{node.source}/scale", scale.reshape(shape).astype(np.float32))
    offset = constant(f"{node.source}/shift", shift.reshape(shape).astype(np.float32))
    scaled = Value(f"{node.output.name}/scaled", x.dtype, x.shape)
    return [
        Node("Mul", [x, factor], [scaled], {}, node.source),
        Node("Add", [scaled, offset], [node.output], {}, node.source),
    ]


def _can_scale(graph: Graph, node: Node) -> bool:
    if node.op != "Conv" or node.output in graph.outputs:
        return False
    constants = node.value(1).data is not None and (
        node.optional(2) is None or node.value(2).data is not None
    )
    return constants and len(graph.consumers()[node.output]) == 1


def _scale_convolution(node: Node, scale: Array, shift: Array) -> None:
    weights = np.asarray(node.value(1).data, np.float64)
    bias = node.optional(2)
    old = np.asarray(bias.data, np.float64) if bias is not None else np.zeros(len(scale))
    weights = weights * scale.reshape((-1,) + (1,) * (weights.ndim - 1))
    node.inputs = [
        node.inputs[0],
        constant(f"{node.value(1).name}/folded", weights.astype(np.float32)),
        constant(f"{node.source}/bias", (old * scale + shift).astype(np.float32)),
    ]


def gemm(graph: Graph, node: Node) -> list[Node] | None:
    """Gemm -> MatMul and Add, alpha and beta folded into constants."""
    del graph
    if node.op != "Gemm":
        return None
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    nodes: list[Node] = []
    a = _transposed(node.value(0), node, nodes) if node.attrs.get("transA") else node.value(0)
    b = _transposed(node.value(1), node, nodes) if node.attrs.get("transB") else node.value(1)
    b = _scaled(b, alpha, node, nodes)
    addend = node.optional(2)
    if addend is None or beta == 0:
        return [*nodes, Node("MatMul", [a, b], [node.output], {}, node.source)]
    addend = _scaled(addend, beta, node, nodes)
    product = Value(f"{node.output.name}/product", node.output.dtype, node.output.shape)
    return [
        *nodes,
        Node("MatMul", [a, b], [product], {}, node.source),
        Node("Add", [product, addend], [node.output], {}, node.source),
    ]


def _transposed(value: Value, node: Node, nodes: list[Node]) -> Value:
    if value.data is not None:
        return constant(f"{value.name}/transposed", value.data.T)
    flipped = Value(f"{value.name}/transposed", value.dtype, value.shape[::-1])
    nodes.append(Node("Transpose", [value], [flipped], {"perm": [1, 0]}, node.source))
    return flipped


def _scaled(value: Value, factor: float, node: Node, nodes: list[Node]) -> Value:
    if factor == 1:
        return value
    if value.data is not None:
        return constant(f"{value.name}/scaled", (value.data * factor).astype(value.data.dtype))
    scaled = Value(f"{value.name}/scaled", value.dtype, value.shape)
    by = constant(f"{node.source}/factor", np.float32(factor).reshape(()))
    nodes.append(Node("Mul", [value, by], [scaled], {}, node.source))
    return scaled


def views(graph: Graph, node: Node) -> list[Node] | None:
    """Flatten, Squeeze, Unsqueeze and Reshape differ only in how they say the shape."""
    if node.op not in ("Flatten", "Squeeze", "Unsqueeze", "Reshape"):
        return None
    data = node.value(0).data
    if data is not None:
        graph.replace_uses(node.output, constant(node.output.name, data.reshape(node.output.shape)))
        return []
    return [Node("Reshape", [node.value(0)], [node.output], {}, node.source)]


def split(graph: Graph, node: Node) -> list[Node] | None:
    """Split -> one Slice for each output that is read."""
    del graph
    if node.op != "Split":
        return None
    axis, start, nodes = node.attrs.get("axis", 0), 0, []
    axis %= len(node.value(0).shape)
    for output in node.outputs:
        attrs = {"axes": (axis,), "starts": (start,), "steps": (1,)}
        nodes.append(Node("Slice", [node.value(0)], [output], attrs, node.source))
        start += output.shape[axis]
    return nodes


def slices(graph: Graph, node: Node) -> list[Node] | None:
    """Slice with constant bounds, made non-negative (ONNX Slice-13)."""
    del graph
    if node.op != "Slice" or "steps" in node.attrs:
        return None
    x = node.value(0)
    if any(node.optional(i) is not None and node.value(i).data is None for i in range(1, 5)):
        raise UnsupportedError(f"Slice (node {node.source!r}): its bounds depend on data")

    def given(index: int, name: str, default: list[int]) -> list[int]:
        value = node.optional(index)
        if value is not None and value.data is not None:
            return [int(v) for v in value.data.reshape(-1)]
        return list(node.attrs.get(name, default))

    starts = given(1, "starts", [])
    axes = given(3, "axes", list(range(len(starts))))
    steps = given(4, "steps", [1] * len(starts))
    axes = [axis % len(x.shape) for axis in axes]
    firsts = []
    for start, step, axis in zip(starts, steps, axes, strict=True):
        size = x.shape[axis]
        first = start + size if start < 0 else start
        firsts.append(min(max(first, 0), size if step > 0 else size - 1))
    attrs = {"axes": tuple(axes), "starts": tuple(firsts), "steps": tuple(steps)}
    return [Node("Slice", [x], [node.output], attrs, node.source)]


def explicit_pads(graph: Graph, node: Node) -> list[Node] | None:
    """Sliding windows with padding in numbers (all begins, then all ends) for auto_pad."""
    del graph
    if node.op not in ("Conv", "IntegerConv", "MaxPool", "AveragePool"):
        return None
    spatial = len(node.output.shape) - 2
    auto = node.attrs.pop("auto_pad", "NOTSET")
    begins = ends = [0] * spatial
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        kernel = node.attrs.get("kernel_shape") or node.value(1).shape[2:]
        strides = node.attrs.get("strides") or [1] * spatial
        dilations = node.attrs.get("dilations") or [1] * spatial
        sizes = zip(node.value(0).shape[2:], node.output.shape[2:], strict=True)
        totals = [
            max(0, (out - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size)
            for i, (size, out) in enumerate(sizes)
        ]
        begins = [(t + 1) // 2 if auto == "SAME_LOWER" else t // 2 for t in totals]
        ends = [total - begin for total, begin in zip(totals, begins, strict=True)]
    elif auto == "NOTSET" and node.attrs.get("pads"):
        return None
    node.attrs["pads"] = [*begins, *ends]
    return None


def fold_padding(graph: Graph, node: Node) -> list[Node] | None:
    """Pad with zeros before a convolution becomes the convolution's own padding."""
    if node.op != "Conv":
        return None
    pad = graph.producers().get(node.value(0))
    spatial = len(node.output.shape) - 2
    extra = None if pad is None else _spatial_zeros(pad, spatial)
    if pad is None or extra is None:
        return None
    old = node.attrs["pads"]
    node.attrs["pads"] = [a + b for a, b in zip(old, extra, strict=True)]
    node.inputs[0] = pad.value(0)
    return [node]


def _spatial_zeros(pad: Node, spatial: int) -> list[int] | None:
    """How many zeros the node adds around an image, as a convolution says it; None if not so."""
    if pad.op != "Pad" or pad.attrs.get("mode", "constant") != "constant":
        return None
    amounts, fill = pad.optional(1), pad.optional(2)
    if amounts is None or amounts.data is None or pad.optional(3) is not None:
        return None
    if fill is not None and (fill.data is None or np.any(fill.data)):
        return None
    begin = [int(v) for v in amounts.data[: spatial + 2]]
    end = [int(v) for v in amounts.data[spatial + 2 :]]
    if any(begin[:2] + end[:2]) or min(begin + end) < 0:
        return None
    return begin[2:] + end[2:]


def matmul_vectors(graph: Graph, node: Node) -> list[Node] | None:
    """MatMul of vectors -> of matrices with one row or column."""
    del graph
    if node.op != "MatMul" or min(len(v.shape) for v in node.inputs if v is not None) > 1:
        return None
    a, b = node.value(0), node.value(1)
    write = Writer(node)
    if len(a.shape) == 1:
        a = write.reshape(a, (1, *a.shape))
    if len(b.shape) == 1:
        b = write.reshape(b, (*b.shape, 1))
    return write.done(write.reshape(write.matmul(a, b), node.output.shape))


def padding(graph: Graph, node: Node) -> list[Node] | None:
    """Pad with amounts for all axes as input 1 (opset 2 has attributes, 18 has axes)."""
    del graph
    if node.op != "Pad":
        return None
    rank = len(node.value(0).shape)
    given, fill, axes = node.optional(1), node.optional(2), node.optional(3)
    if any(value is not None and value.data is None for value in (given, fill, axes)):
        raise UnsupportedError(
            f"Pad (node {node.source!r}): its amounts, fill value or axes depend on data"
        )
    amounts = np.asarray(node.attrs.get("pads", ()) if given is None else given.data)
    if axes is not None and axes.data is not None:
        places = axes.data % rank
        whole = np.zeros(2 * rank, np.int64)
        whole[[*places, *(places + rank)]] = amounts
        amounts = whole
    if fill is None and node.attrs.get("value"):
        fill = constant(f"{node.source}/fill", np.float32(node.attrs["value"]))
    pads = constant(f"{node.source}/amounts", amounts.astype(np.int64))
    node.inputs = [node.value(0), pads, fill]
    return [node]


def single_outputs(graph: Graph) -> None:
    """Drop outputs after the first, which no schedule computes.

    Raises:
        UnsupportedError: somebody reads one, naming the node.
    """
    read = {*graph.consumers(), *graph.outputs}
    for node in graph.nodes:
        for place, value in enumerate(node.outputs[1:], 2):
            if value in read:
                raise UnsupportedError(
                    f"output {place} of {node.op} (node {node.source!r}) is not supported",
                    hint="only its first output is computed",
                )
        node.outputs = node.outputs[:1]


RULES: list[Rule] = [
    drop_identity,
    padding,
    explicit_pads,
    fold_padding,
    batch_norm,
    decompose.strided_pointwise,
    gemm,
    recurrent.recurrent,
    einsum.einsum,
    decompose.space_and_depth,
    decompose.tile,
    decompose.cumulative_sum,
    decompose.triangle,
    decompose.variadic,
    decompose.conv_transpose,
    resampling.resize,
    decompose.concat,
    decompose.global_pools,
    split,
    slices,
    decompose.instance_norm,
    decompose.layer_norm,
    decompose.softmax,
    decompose.extremes,
    decompose.reductions,
    # After the rules above, which make such operators of their own.
    matmul_vectors,
    views,
]

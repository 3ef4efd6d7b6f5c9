"""Operators written out in simpler ones; each rule is as ``simplify.Rule`` describes."""

from math import prod

import numpy as np

from deepseek_edge.backends.tvm.graph import Graph, Node, Value
from deepseek_edge.backends.tvm.writer import Writer
from deepseek_edge.errors import UnsupportedError

MAX_CUMULATIVE = 1024  # CumSum multiplies by a triangle of this many rows


def global_pools(graph: Graph, node: Node) -> list[Node] | None:
    """GlobalAveragePool and GlobalMaxPool are reductions."""
    del graph
    reduction = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}.get(node.op)
    if reduction is None:
        return None
    attrs = {**node.attrs, "axes": tuple(range(2, len(node.output.shape))), "keepdims": 1}
    return [Node(reduction, [node.value(0)], [node.output], attrs, node.source)]


def reductions(graph: Graph, node: Node) -> list[Node] | None:
    """Give every reduction its axes as sorted attributes; write the compound ones out."""
    del graph
    if not node.op.startswith("Reduce") or isinstance(node.attrs.get("axes"), tuple):
        return None
    x = node.value(0)
    axes = _reduced_axes(node)
    before, core, after = _COMPOUND.get(node.op, ((), node.op, ()))
    write = Writer(node)
    value = x
    peak: Value | None = None
    if node.op == "ReduceLogSumExp" and axes:
        peak = write.reduce("ReduceMax", x, axes)
        value = write.elementwise("Sub", value, peak)
    for op in before:
        value = write.elementwise(op, *([value] * (2 if op == "Mul" else 1)))
    if axes:
        attrs = {**node.attrs, "axes": axes, "keepdims": node.attrs.get("keepdims", 1)}
        value = write.add(core, [value], node.output.shape, dtype=node.output.dtype, **attrs)
    for op in after:
        value = write.elementwise(op, value)
    if peak is not None:
        value = write.elementwise("Add", value, write.reshape(peak, node.output.shape))
    return write.done(value)


# operator -> (elementwise before, reduction, elementwise after)
_COMPOUND: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "ReduceL1": (("Abs",), "ReduceSum", ()),
    "ReduceL2": (("Mul",), "ReduceSum", ("Sqrt",)),
    "ReduceLogSum": ((), "ReduceSum", ("Log",)),
    "ReduceLogSumExp": (("Exp",), "ReduceSum", ("Log",)),
    "ReduceSumSquare": (("Mul",), "ReduceSum", ()),
}


def _reduced_axes(node: Node) -> tuple[int, ...]:
    """Axes as an input (opset 18; ReduceSum: 13) or an attribute; without any, all or none."""
    given = node.optional(1)
    if given is not None and given.data is None:
        raise UnsupportedError(f"{node.op} (node {node.source!r}): its axes depend on data")
    rank = len(node.value(0).shape)
    axes = node.attrs.get("axes") if given is None or given.data is None else given.data.tolist()
    if not axes:
        return () if node.attrs.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def extremes(graph: Graph, node: Node) -> list[Node] | None:
    """ArgMax and ArgMin with their axis as a reduction's axes."""
    del graph
    if node.op not in ("ArgMax", "ArgMin") or "axes" in node.attrs:
        return None
    axis = node.attrs.get("axis", 0) % len(node.value(0).shape)
    attrs = {**node.attrs, "axes": (axis,), "keepdims": node.attrs.get("keepdims", 1)}
    return [Node(node.op, [node.value(0)], [node.output], attrs, node.source)]


def softmax(graph: Graph, node: Node) -> list[Node] | None:
    """Softmax over one axis; before opset 13 it ran over all axes from ``axis`` on."""
    del graph
    if node.op not in ("Softmax", "LogSoftmax") or "axes" in node.attrs:
        return None
    x, is_old = node.value(0), node.attrs.get("opset", 13) < 13
    axis = node.attrs.get("axis", 1 if is_old else -1) % len(x.shape)
    write = Writer(node)
    if is_old:
        x = write.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
        axis = 1
    attrs = {**node.attrs, "axes": (axis,), "opset": 13}
    value = write.add(node.op, [x], x.shape, dtype=node.output.dtype, **attrs)
    return write.done(write.reshape(value, node.output.shape))


def layer_norm(graph: Graph, node: Node) -> list[Node] | None:
    """LayerNormalization over the last axis, with scale and shift of its size."""
    del graph
    if node.op != "LayerNormalization":
        return None
    x, scale, shift = node.value(0), node.value(1), node.optional(2)
    axis = node.attrs.get("axis", -1) % len(x.shape)
    normal = x.shape[axis:]
    simple = axis == len(x.shape) - 1
    if simple and all(v is None or v.shape == normal for v in (scale, shift)):
        return None
    write = Writer(node)
    rows = write.reshape(x, (prod(x.shape[:axis]), prod(normal)))
    extra = [_expanded(write, v, normal) for v in (scale, shift) if v is not None]
    attrs = {**node.attrs, "axis": -1}
    value = write.add(node.op, [rows, *extra], rows.shape, dtype=node.output.dtype, **attrs)
    return write.done(write.reshape(value, node.output.shape))


def _expanded(write: Writer, value: Value, shape: tuple[int, ...]) -> Value:
    """``value`` broadcast to ``shape``, then flat."""
    if value.data is not None:
        return write.constant(np.broadcast_to(value.data, shape).reshape(-1))
    if value.shape != shape:
        value = write.add("Expand", [value], shape)
    return write.reshape(value, (prod(shape),))


def instance_norm(graph: Graph, node: Node) -> list[Node] | None:
    """InstanceNormalization -> mean, variance, scale and shift."""
    del graph
    if node.op != "InstanceNormalization":
        return None
    x, scale, shift = node.value(0), node.value(1), node.value(2)
    axes = tuple(range(2, len(x.shape)))
    column = (1, x.shape[1], *(1 for _ in axes))
    write = Writer(node)
    centred = write.elementwise("Sub", x, write.reduce("ReduceMean", x, axes))
    variance = write.reduce("ReduceMean", write.elementwise("Mul", centred, centred), axes)
    epsilon = write.number(node.attrs.get("epsilon", 1e-5))
    deviation = write.elementwise("Sqrt", write.elementwise("Add", variance, epsilon))
    normal = write.elementwise("Div", centred, deviation)
    scaled = write.elementwise("Mul", normal, write.reshape(scale, column))
    return write.done(write.elementwise("Add", scaled, write.reshape(shift, column)))


def variadic(graph: Graph, node: Node) -> list[Node] | None:
    """Sum, Mean, Max and Min of any number of inputs -> two at a time."""
    del graph
    op = {"Sum": "Add", "Mean": "Add", "Max": "Max", "Min": "Min"}.get(node.op)
    if op is None or (node.op == op and len(node.inputs) == 2):
        return None
    write = Writer(node)
    values = [value for value in node.inputs if value is not None]
    total = values[0]
    for value in values[1:]:
        total = write.elementwise(op, total, value)
    if node.op == "Mean":
        total = write.elementwise("Mul", total, write.number(1 / len(values)))
    return write.done(total)


def concat(graph: Graph, node: Node) -> list[Node] | None:
    """Join many inputs a few at a time: a kernel takes a limited number of pointers."""
    del graph
    most = 16
    if node.op != "Concat":
        return None
    values = [value for value in node.inputs if value is not None and value.elements]
    if len(values) == len(node.inputs) and len(values) <= most:
        return None
    write = Writer(node)
    axis = node.attrs["axis"] % len(node.output.shape)
    while len(values) > 1:
        groups = [values[at : at + most] for at in range(0, len(values), most)]
        values = [write.concat(group, axis) for group in groups]
    return write.done(values[0])


def space_and_depth(graph: Graph, node: Node) -> list[Node] | None:
    """DepthToSpace and SpaceToDepth: split axes, reorder, merge."""
    del graph
    if node.op not in ("DepthToSpace", "SpaceToDepth"):
        return None
    x, size = node.value(0), node.attrs["blocksize"]
    batch, channels, height, width = x.shape
    write = Writer(node)
    if node.op == "SpaceToDepth":
        cells = (batch, channels, height // size, size, width // size, size)
        order = (0, 3, 5, 1, 2, 4)
    elif node.attrs.get("mode", "DCR") == "DCR":
        cells = (batch, size, size, channels // size**2, height, width)
        order = (0, 3, 4, 1, 5, 2)
    else:
        cells = (batch, channels // size**2, size, size, height, width)
        order = (0, 1, 4, 2, 5, 3)
    value = write.transpose(write.reshape(x, cells), order)
    return write.done(write.reshape(value, node.output.shape))


def tile(graph: Graph, node: Node) -> list[Node] | None:
    """Tile -> every axis beside a new one over which it is broadcast."""
    del graph
    if node.op != "Tile":
        return None
    x, repeats = node.value(0), node.value(1).data
    if repeats is None:
        raise UnsupportedError(f"Tile (node {node.source!r}): its repeats depend on data")
    write = Writer(node)
    thin = tuple(n for size in x.shape for n in (1, size))
    wide = tuple(
        int(n) for size, count in zip(x.shape, repeats, strict=True) for n in (count, size)
    )
    value = write.add("Expand", [write.reshape(x, thin)], wide)
    return write.done(write.reshape(value, node.output.shape))


def cumulative_sum(graph: Graph, node: Node) -> list[Node] | None:
    """CumSum -> a product with a triangle of ones."""
    del graph
    if node.op != "CumSum":
        return None
    x, where = node.value(0), node.value(1).data
    if where is None or x.dtype != "float32":
        raise UnsupportedError(f"CumSum (node {node.source!r}): only of float32, axis constant")
    axis = int(where.reshape(-1)[0]) % len(x.shape)
    size = x.shape[axis]
    if size > MAX_CUMULATIVE:
        raise UnsupportedError(
            f"CumSum (node {node.source!r}) over {size} elements",
            hint=f"up to {MAX_CUMULATIVE} are supported",
        )
    ones = np.tri(size, k=-1 if node.attrs.get("exclusive") else 0, dtype=np.float32).T
    ones = ones.T if node.attrs.get("reverse") else ones
    write = Writer(node)
    order = (*(a for a in range(len(x.shape)) if a != axis), axis)
    last = write.transpose(x, order)
    rows = write.reshape(last, (prod(last.shape[:-1]), size))
    value = write.reshape(write.matmul(rows, write.constant(ones)), last.shape)
    return write.done(write.transpose(value, tuple(int(a) for a in np.argsort(order))))


def triangle(graph: Graph, node: Node) -> list[Node] | None:
    """Trilu -> Where with a constant mask."""
    del graph
    if node.op != "Trilu":
        return None
    x, offset = node.value(0), node.optional(1)
    if offset is not None and offset.data is None:
        raise UnsupportedError(f"Trilu (node {node.source!r}): its diagonal depends on data")
    k = 0 if offset is None or offset.data is None else int(offset.data.reshape(-1)[0])
    ones = np.ones(x.shape[-2:], bool)
    mask = np.triu(ones, k) if node.attrs.get("upper", 1) else np.tril(ones, k)
    write = Writer(node)
    zero = write.number(0, x.dtype)
    return write.done(write.elementwise("Where", write.constant(mask), x, zero, dtype=x.dtype))


def conv_transpose(graph: Graph, node: Node) -> list[Node] | None:
    """ConvTranspose over height and width, with every attribute given and pads explicit."""
    del graph
    if node.op != "ConvTranspose" or node.attrs.get("is_explicit"):
        return None
    x, weights, out = node.value(0), node.value(1), node.output
    spatial = len(x.shape) - 2
    if spatial not in (1, 2) or weights.data is None:
        raise UnsupportedError(
            f"ConvTranspose (node {node.source!r}): {spatial} spatial dimensions, or weights that "
            "aren't constant",
            hint="1 and 2 spatial dimensions with constant weights are supported",
        )
    strides = list(node.attrs.get("strides") or [1] * spatial)
    dilations = list(node.attrs.get("dilations") or [1] * spatial)
    begins = _transposed_begins(node, strides, dilations)
    write = Writer(node)
    line = [1] * (2 - spatial)
    image = write.reshape(x, (*x.shape[:2], *line, *x.shape[2:]))
    taps = write.reshape(weights, (*weights.shape[:2], *line, *weights.shape[2:]))
    attrs = {
        "group": node.attrs.get("group", 1),
        "strides": line + strides,
        "dilations": line + dilations,
        "pads": [0] * (2 - spatial) + begins,
    }
    shape = (*out.shape[:2], *line, *out.shape[2:])
    inputs = [image, taps, node.optional(2)]
    value = write.add("ConvTranspose", inputs, shape, is_explicit=True, **attrs)
    return write.done(write.reshape(value, out.shape))


def strided_pointwise(graph: Graph, node: Node) -> list[Node] | None:
    """A 1x1 convolution with strides -> Slice of the pixels it reads, and one without.

    That is a matrix product over all pixels, which reads each weight once for many of them.
    """
    del graph
    if node.op not in ("Conv", "IntegerConv") or node.attrs.get("group", 1) != 1:
        return None
    strides = node.attrs.get("strides") or [1]
    is_pointwise = set(node.value(1).shape[2:]) == {1} and not any(node.attrs["pads"])
    if not is_pointwise or max(strides) == 1:
        return None
    x, spatial = node.value(0), node.output.shape[2:]
    axes = tuple(range(2, len(x.shape)))
    write = Writer(node)
    pixels = write.add(
        "Slice",
        [x],
        (*x.shape[:2], *spatial),
        axes=axes,
        starts=(0,) * len(axes),
        steps=tuple(strides),
    )
    attrs = {**node.attrs, "strides": [1] * len(strides)}
    dense = Node(node.op, [pixels, *node.inputs[1:]], [node.output], attrs, node.source)
    return [*write.nodes, dense]


def _transposed_begins(node: Node, strides: list[int], dilations: list[int]) -> list[int]:
    """What is cut off before the first output, along each axis."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    spatial = len(strides)
    if auto == "NOTSET" and not node.attrs.get("output_shape"):
        return list(node.attrs.get("pads") or [0] * 2 * spatial)[:spatial]
    kernel = node.value(1).shape[2:]
    extra = node.attrs.get("output_padding") or [0] * spatial
    begins = []
    for axis in range(spatial):
        before, after = node.value(0).shape[2 + axis], node.output.shape[2 + axis]
        whole = strides[axis] * (before - 1) + (kernel[axis] - 1) * dilations[axis] + 1
        cut = max(whole + extra[axis] - after, 0)
        begins.append(cut // 2 if auto == "SAME_UPPER" else cut - cut // 2)
    return begins if auto != "VALID" else [0] * spatial

"""Resize, transposed convolution and local response normalization, channels last."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, constant
from deepseek_edge.backends.tvm.schedules.arithmetic import exp, fconst, load_float, log
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    for_columns,
    index,
    load,
    load_splat,
    local,
    loop,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target


def resize(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Resize and Upsample along height and width: tables of sources and weights per axis."""
    x, out = node.value(0), node.output
    if len(x.shape) != 4 or node.attrs.get("axes") not in (None, [2, 3]):
        raise UnsupportedError(f"{node.op} (node {node.source!r}): only height and width")
    (rows, row_weights), (columns, column_weights) = (
        resize_taps(node, axis, x.shape[axis], out.shape[axis]) for axis in (1, 2)
    )
    taps_y, taps_x = rows.shape[1], columns.shape[1]
    tables = [
        constant(f"{node.source}/taps", table.reshape(-1))
        for table in (rows, row_weights, columns, column_weights)
    ]
    height, width, channels = x.shape[1:]
    lanes = target.vector_bits // 32

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, ys, y_weights, xs, x_weights, *rest = buffers
        fusion.attach(rest)
        item = tirx.indexdiv(row, index(out.shape[1]))
        y = bind(tirx.indexmod(row, index(out.shape[1])))
        found = [load(ys, y * index(taps_y) + index(t), 1) for t in range(taps_y)]
        lines = [bind((item * index(height) + at) * index(width * channels)) for at in found]
        with loop(out.shape[2]) as pixel:
            places = [
                bind(load(xs, pixel * index(taps_x) + index(t), 1) * index(channels))
                for t in range(taps_x)
            ]

            def write(column: Expr, lanes: int) -> None:
                total = None
                for a, line in enumerate(lines):
                    for b, place in enumerate(places):
                        value = load_float(node, source, line + place + column, lanes)
                        if taps_y * taps_x > 1:
                            wy = load_splat(y_weights, y * index(taps_y) + index(a), lanes)
                            wx = load_splat(x_weights, pixel * index(taps_x) + index(b), lanes)
                            value = value * (wy * wx)
                        total = value if total is None else total + value
                fusion.finish(total, row * index(out.shape[2]) + pixel, column, lanes)

            for_columns(channels, lanes, write)

    tensors = [x, *tables, *fusion.tensors]
    work = out.elements * taps_y * taps_x
    return Lowering(build(tensors, body), tuple(tensors), out.shape[0] * out.shape[1], work)


def resize_taps(node: Node, axis: int, size: int, whole: int) -> tuple[Array, Array]:
    """Sources (whole, taps) int64 and weights (whole, taps) float32 along one axis.

    Coordinate transformations and modes as ONNX Resize-19 defines them.
    """
    mode = node.attrs.get("mode", "nearest")
    transform = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample" or (node.op == "Resize" and node.attrs.get("opset", 19) < 11):
        transform = "asymmetric"
    scale = _scale(node, axis, size, whole)
    x = _coordinates(transform, np.arange(whole), scale, size, whole)
    if mode == "nearest":
        places = _nearest(node.attrs.get("nearest_mode", "round_prefer_floor"), x)
        if node.op == "Upsample":
            places = np.floor(x)
        sources, weights = places[:, None], np.ones((whole, 1))
    elif mode == "linear":
        low = np.floor(x)
        sources = np.stack([low, low + 1], axis=1)
        weights = np.stack([1 - (x - low), x - low], axis=1)
    elif mode == "cubic":
        sources, weights = _cubic(x, node.attrs.get("cubic_coeff_a", -0.75))
    else:
        raise UnsupportedError(f"{node.op} (node {node.source!r}): mode {mode!r}")
    if node.attrs.get("antialias") or node.attrs.get("exclude_outside"):
        raise UnsupportedError(f"Resize (node {node.source!r}): antialias and exclude_outside")
    sources = np.clip(sources, 0, size - 1).astype(np.int64)
    return sources, weights.astype(np.float32)


def _scale(node: Node, axis: int, size: int, whole: int) -> float:
    """The scale as given, else what the sizes say; axis counts in NHWC."""
    given = node.optional(1 if node.op == "Upsample" or len(node.inputs) == 2 else 2)
    if given is not None and given.data is not None and given.elements == 4:
        return float(given.data[axis + 1])
    if given is not None and given.data is not None and given.elements == 2:
        return float(given.data[axis - 1])
    return whole / size


def _coordinates(transform: str, out: Array, scale: float, size: int, whole: int) -> Array:
    if transform == "asymmetric":
        return out / scale
    if transform == "align_corners":
        return out * ((size - 1) / (whole - 1)) if whole > 1 else out * 0.0
    if transform == "half_pixel" or (transform == "pytorch_half_pixel" and whole > 1):
        return (out + 0.5) / scale - 0.5
    if transform == "pytorch_half_pixel":
        return out * 0.0
    if transform == "half_pixel_symmetric":
        adjustment = whole / (scale * size)
        centre = size / 2
        return centre * (1 - adjustment) + (out + 0.5) / scale - 0.5
    raise UnsupportedError(f"Resize: coordinate_transformation_mode {transform!r}")


def _nearest(mode: str, x: Array) -> Array:
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.ceil(x - 0.5)


def _cubic(x: Array, a: float) -> tuple[Array, Array]:
    """Keys' cubic convolution with parameter ``a`` over the four nearest elements."""
    low = np.floor(x)
    t = x - low

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    sources = np.stack([low - 1, low, low + 1, low + 2], axis=1)
    return sources, np.stack([far(1 + t), near(t), near(1 - t), far(2 - t)], axis=1)


def conv_transpose(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Each output pixel gathers the taps that reach it; vectors run over output channels."""
    x, out, bias = node.value(0), node.output, node.optional(2)
    weights = _transpose_weights(node)
    stride = node.attrs.get("strides") or [1, 1]
    dilation = node.attrs.get("dilations") or [1, 1]
    top, left = (node.attrs.get("pads") or [0, 0, 0, 0])[:2]
    depth, columns, kernel_h, kernel_w = weights.shape
    packed = constant(f"{node.source}/packed", weights.transpose(2, 3, 0, 1).reshape(-1))
    height, width = x.shape[1:3]
    extra = [] if bias is None else [bias]
    lanes = target.vector_bits // 32

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, taps, *rest = buffers
        fusion.attach(rest[len(extra) :])
        item = tirx.indexdiv(row, index(out.shape[1]))
        y = bind(tirx.indexmod(row, index(out.shape[1])))

        def gather_tap(total: Buffer, line: Expr, place: Expr, tap: int, column: Expr) -> None:
            vector = int(total.shape[0])
            base = bind(((item * index(height) + line) * index(width) + place) * index(depth))
            with loop(depth) as k:
                at = index(tap * depth * columns) + k * index(columns) + column
                weight = load(taps, at, vector)
                value = load_splat(source, base + k, vector)
                store(total, 0, vector, load(total, 0, vector) + value * weight)

        with loop(out.shape[2]) as pixel:

            def write(column: Expr, lanes: int) -> None:
                total = local("float32", lanes)
                store(total, 0, lanes, load(rest[0], column, lanes) if extra else zeros(lanes))
                for r in range(kernel_h):
                    line, has_line = _reaches(y, r * dilation[0] - top, stride[0], height)
                    with when(has_line):
                        for s in range(kernel_w):
                            place, has_pixel = _reaches(
                                pixel, s * dilation[1] - left, stride[1], width
                            )
                            with when(has_pixel):
                                gather_tap(total, line, place, r * kernel_w + s, column)
                out_row = row * index(out.shape[2]) + pixel
                fusion.finish(load(total, 0, lanes), out_row, column, lanes)

            for_columns(columns, lanes, write)

    tensors = [x, packed, *extra, *fusion.tensors]
    macs = x.elements * columns * kernel_h * kernel_w
    return Lowering(build(tensors, body), tuple(tensors), out.shape[0] * out.shape[1], macs)


def _transpose_weights(node: Node) -> Array:
    """The weights (in, out, kh, kw); refuses what ``conv_transpose`` doesn't compute."""
    weights, bias = node.value(1).data, node.optional(2)
    if weights is None or (bias is not None and bias.data is None):
        raise UnsupportedError(f"ConvTranspose (node {node.source!r}): weights aren't constant")
    if node.attrs.get("group", 1) != 1 or weights.ndim != 4:
        raise UnsupportedError(f"ConvTranspose (node {node.source!r}): groups or 1-d kernels")
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or node.attrs.get("output_shape"):
        raise UnsupportedError(f"ConvTranspose (node {node.source!r}): give pads explicitly")
    return weights


def _reaches(at: Expr, shift: int, step: int, size: int) -> tuple[Expr, Expr]:
    """Input coordinate of a tap, and whether there is one."""
    distance = bind(at - index(shift))
    place = bind(tirx.indexdiv(tirx.max(distance, index(0)), index(step)))
    is_tap = tirx.And(tirx.EQ(place * index(step), distance), place < index(size))
    return place, tirx.And(distance >= index(0), is_tap)


def local_response_norm(node: Node, target: Target) -> Lowering:
    """LRN over channels: x / (bias + alpha / size * sum of squares) ** beta."""
    x, out = node.value(0), node.output
    channels = x.shape[-1]
    size = node.attrs["size"]
    alpha, beta = node.attrs.get("alpha", 1e-4), node.attrs.get("beta", 0.75)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    del target

    def body(buffers: Sequence[Buffer], pixel: Expr) -> None:
        source, target_buffer = buffers
        base = bind(pixel * index(channels))
        with loop(channels) as channel:
            total = local("float32", 1)
            store(total, 0, 1, zeros(1))
            low = bind(tirx.max(channel - index(before), index(0)))
            high = bind(tirx.min(channel + index(after + 1), index(channels)))
            with loop(high - low, low) as other:
                value = bind(load(source, base + other, 1))
                store(total, 0, 1, load(total, 0, 1) + value * value)
            norm = fconst(node.attrs.get("bias", 1.0), 1) + fconst(alpha / size, 1) * load(
                total, 0, 1
            )
            power = exp(fconst(-beta, 1) * log(norm, 1), 1)
            store(target_buffer, base + channel, 1, load(source, base + channel, 1) * power)

    tensors = [x, out]
    return Lowering(
        build(tensors, body), tuple(tensors), x.elements // channels, x.elements * (size + 20)
    )

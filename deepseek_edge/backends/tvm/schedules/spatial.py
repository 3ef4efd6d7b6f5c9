"""Resize, transposed convolution and local response normalization, channels last."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, constant
from deepseek_edge.backends.tvm.schedules.arithmetic import load_float
from deepseek_edge.backends.tvm.schedules.functions import exp, fconst, log
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
    """Resize along height and width, by the tables that resampling.py made."""
    x, out = node.value(0), node.output
    (rows, row_weights), (columns, column_weights) = node.attrs["taps"]
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


def conv_transpose(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Each output pixel gathers the taps that reach it; vectors run over output channels."""
    x, out, bias = node.value(0), node.output, node.optional(2)
    weights = transpose_weights(node)
    groups, kernel_h, kernel_w, depth, columns = weights.shape
    packed = constant(f"{node.source}/packed", weights.reshape(-1))
    extra = [] if bias is None else [bias]
    height, width = x.shape[1:3]
    (stride_h, stride_w), (dilation_h, dilation_w) = node.attrs["strides"], node.attrs["dilations"]
    top, left = node.attrs["pads"][:2]
    lanes = target.vector_bits // 32

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, taps, *rest = buffers
        fusion.attach(rest[len(extra) :])
        group, row = tirx.indexmod(task, index(groups)), bind(tirx.indexdiv(task, index(groups)))
        item = tirx.indexdiv(row, index(out.shape[1]))
        y = bind(tirx.indexmod(row, index(out.shape[1])))

        def add_tap(total: Buffer, line: Expr, place: Expr, tap: int, column: Expr) -> None:
            vector = int(total.shape[0])
            pixel = bind((item * index(height) + line) * index(width) + place)
            channels = bind((pixel * index(groups) + group) * index(depth))
            first = bind((group * index(kernel_h * kernel_w) + index(tap)) * index(depth))
            with loop(depth) as k:
                weight = load(taps, (first + k) * index(columns) + column, vector)
                value = load_splat(source, channels + k, vector)
                store(total, 0, vector, load(total, 0, vector) + value * weight)

        def pixel_of(pixel: Expr, column: Expr, lanes: int) -> None:
            total, channel = local("float32", lanes), bind(group * index(columns) + column)
            store(total, 0, lanes, load(rest[0], channel, lanes) if extra else zeros(lanes))
            for r in range(kernel_h):
                line, has_line = reaches(y, r * dilation_h - top, stride_h, height)
                with when(has_line):
                    for s in range(kernel_w):
                        place, has_pixel = reaches(pixel, s * dilation_w - left, stride_w, width)
                        with when(has_pixel):
                            add_tap(total, line, place, r * kernel_w + s, column)
            out_row = row * index(out.shape[2]) + pixel
            fusion.finish(load(total, 0, lanes), out_row, channel, lanes)

        with loop(out.shape[2]) as pixel:
            for_columns(columns, lanes, lambda column, lanes: pixel_of(pixel, column, lanes))

    tensors = [x, packed, *extra, *fusion.tensors]
    tasks, macs = out.shape[0] * out.shape[1] * groups, x.elements * weights[0, ..., 0, :].size
    return Lowering(build(tensors, body), tuple(tensors), tasks, macs)


def transpose_weights(node: Node) -> Array:
    """The weights (in, out / group, kh, kw) as (group, kh, kw, in / group, out / group)."""
    weights, bias = node.value(1).data, node.optional(2)
    if weights is None or (bias is not None and bias.data is None):
        raise UnsupportedError(f"ConvTranspose (node {node.source!r}): weights aren't constant")
    groups = node.attrs["group"]
    grouped = weights.reshape(groups, -1, *weights.shape[1:])
    return np.ascontiguousarray(grouped.transpose(0, 3, 4, 1, 2))


def reaches(at: Expr, shift: int, step: int, size: int) -> tuple[Expr, Expr]:
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

"""Pooling, resizing and the like on a GPU: a thread for each element of the result, NHWC."""

from collections.abc import Sequence

from tvm import tirx

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.gathered import window_constants
from deepseek_edge.backends.tvm.cuda.launch import Launch
from deepseek_edge.backends.tvm.cuda.template import template
from deepseek_edge.backends.tvm.cuda.threads import (
    Tensor,
    launch_threads,
    load_number,
    number_type,
)
from deepseek_edge.backends.tvm.cuda.value import Epilogue
from deepseek_edge.backends.tvm.graph import Node, Value, constant
from deepseek_edge.backends.tvm.schedules.arithmetic import apply_input_scale
from deepseek_edge.backends.tvm.schedules.functions import exp, fconst, log
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    index,
    load,
    local,
    loop,
    lowest,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div
from deepseek_edge.backends.tvm.schedules.spatial import reaches, transpose_weights
from deepseek_edge.backends.tvm.schedules.window import pixel_counts

Tensors = Sequence[Tensor]


def _split(number: Expr, size: int) -> tuple[Expr, Expr]:
    """(number / size, number % size)."""
    return bind(tirx.indexdiv(number, index(size))), bind(tirx.indexmod(number, index(size)))


def pooling(node: Node, fusion: DeviceFusion) -> Launch:
    """MaxPool and AveragePool."""
    kernel = node.attrs["kernel_shape"]
    size = (1, kernel[0]) if len(kernel) == 1 else (kernel[0], kernel[1])
    shape, is_max = Geometry.of(node, size), node.op == "MaxPool"
    dtype = number_type(node.value(0)) if is_max else "float32"
    if is_max and shape.channels % 4 == 0 and dtype in ("float32", "int8"):
        return _max_pool(node, fusion, shape)
    counts: list[Value] = []
    if not is_max:
        counts.append(constant(f"{node.source}/count", pixel_counts(node, shape)))

    def body(tensors: Tensors, number: Expr) -> None:
        source, *rest = tensors
        fusion.take(rest[len(counts) :])
        pixel, channel = _split(number, shape.channels)
        row, out_x = _split(pixel, shape.out_width)
        batch, out_y = shape.split_row(row)
        total = local(dtype, 1)
        store(total, 0, 1, lowest(dtype, 1) if is_max else zeros(1))
        with loop(shape.kernel_h) as r:
            y = bind(
                out_y * index(shape.stride_h) + r * index(shape.dilation_h) - index(shape.pad_top)
            )
            with when(shape.row_exists(y)), loop(shape.kernel_w) as s:
                x = out_x * index(shape.stride_w) + s * index(shape.dilation_w)
                x = bind(x - index(shape.pad_left))
                with when(tirx.And(x >= index(0), x < index(shape.width))):
                    at = bind(shape.line(batch, y) + x * index(shape.channels) + channel)
                    value = load_number(node, source, at, scaled=False)
                    known = load(total, 0, 1)
                    store(total, 0, 1, tirx.max(known, value) if is_max else known + value)
        result = load(total, 0, 1)
        if not is_max:
            place = bind(out_y * index(shape.out_width) + out_x)
            result = apply_input_scale(node, bind(result / rest[0].load(place)), 1)
        fusion.finish(result, pixel, channel, 1)

    tensors = [node.value(0), *counts, *fusion.tensors]
    outputs = shape.batch * shape.out_height * shape.out_width * shape.channels
    return launch_threads(tensors, outputs, body, work=outputs * shape.kernel_h * shape.kernel_w)


def _max_pool(node: Node, fusion: DeviceFusion, shape: Geometry) -> Launch:
    """Some channels a thread."""
    x, width = node.value(0), 8 if shape.channels % 8 == 0 else 4
    sum_type = "int32" if x.dtype == "int8" else "float32"
    epilogue = Epilogue.of(fusion, {}, sum_type)
    tensors = [x, *epilogue.tensors]
    numbers = {**window_constants(shape), "C": shape.channels, "V": width}
    kernel = template(
        "pooling.cuh",
        tensors,
        numbers=numbers,
        call=f"dse_max_pool<S>(t0, {epilogue.text(1, shape.channels, width)})",
        epilogue=epilogue,
        threads=128,
    )
    outputs = node.output.elements
    blocks = ceil_div(outputs // width, 128)
    work = outputs * shape.kernel_h * shape.kernel_w
    return Launch(kernel, tuple(tensors), (blocks, 1, 1), work, 128)


def resize(node: Node, fusion: DeviceFusion) -> Launch:
    """Resize along height and width, by the tables that resampling.py made."""
    x, out = node.value(0), node.output
    (lines, line_weights), (columns, column_weights) = node.attrs["taps"]
    taps_y, taps_x = lines.shape[1], columns.shape[1]
    tables = [
        constant(f"{node.source}/taps", table.reshape(-1))
        for table in (lines, line_weights, columns, column_weights)
    ]
    height, width, channels = x.shape[1:]

    def body(tensors: Tensors, number: Expr) -> None:
        source, ys, y_weights, xs, x_weights, *rest = tensors
        fusion.take(rest)
        pixel, channel = _split(number, channels)
        row, out_x = _split(pixel, out.shape[2])
        item, out_y = _split(row, out.shape[1])
        total: Expr = None
        for a in range(taps_y):
            line = bind(
                (item * index(height) + ys.load(out_y * index(taps_y) + index(a)))
                * index(width * channels)
            )
            for b in range(taps_x):
                place = xs.load(out_x * index(taps_x) + index(b)) * index(channels)
                value = load_number(node, source, bind(line + place + channel))
                if taps_y * taps_x > 1:
                    wy = y_weights.load(out_y * index(taps_y) + index(a))
                    wx = x_weights.load(out_x * index(taps_x) + index(b))
                    value = value * (wy * wx)
                total = value if total is None else total + value
        fusion.finish(total, pixel, channel, 1)

    count = out.elements
    return launch_threads([x, *tables, *fusion.tensors], count, body, work=count * taps_y * taps_x)


def conv_transpose(node: Node, fusion: DeviceFusion) -> Launch:
    """Each output element gathers the taps that reach it."""
    x, out, bias = node.value(0), node.output, node.optional(2)
    weights = transpose_weights(node)
    groups, kernel_h, kernel_w, depth, columns = weights.shape
    extra = [constant(f"{node.source}/packed", weights.reshape(-1)), *([bias] if bias else [])]
    height, width = x.shape[1:3]
    (stride_h, stride_w), (dilation_h, dilation_w) = node.attrs["strides"], node.attrs["dilations"]
    top, left = node.attrs["pads"][:2]

    def body(tensors: Tensors, number: Expr) -> None:
        source, taps, *rest = tensors
        fusion.take(rest[len(extra) - 1 :])
        pixel, channel = _split(number, groups * columns)
        group, column = _split(channel, columns)
        row, out_x = _split(pixel, out.shape[2])
        item, out_y = _split(row, out.shape[1])
        total = local("float32", 1)
        store(total, 0, 1, rest[0].load(channel) if bias else zeros(1))
        for r in range(kernel_h):
            line, has_line = reaches(out_y, r * dilation_h - top, stride_h, height)
            for s in range(kernel_w):
                place, has_place = reaches(out_x, s * dilation_w - left, stride_w, width)
                with when(tirx.And(has_line, has_place)):
                    spot = (item * index(height) + line) * index(width) + place
                    first = bind((spot * index(groups) + group) * index(depth))
                    tap = group * index(kernel_h * kernel_w) + index(r * kernel_w + s)
                    with loop(depth) as k:
                        weight = taps.load((tap * index(depth) + k) * index(columns) + column)
                        known = load(total, 0, 1)
                        store(total, 0, 1, known + source.load(first + k) * weight)
        fusion.finish(load(total, 0, 1), pixel, channel, 1)

    macs = x.elements * weights[0, ..., 0, :].size
    return launch_threads([x, *extra, *fusion.tensors], out.elements, body, work=macs)


def local_response_norm(node: Node) -> Launch:
    """LRN over channels: x / (bias + alpha / size * sum of squares) ** beta."""
    x, out = node.value(0), node.output
    channels, size = x.shape[-1], node.attrs["size"]
    alpha, beta = node.attrs.get("alpha", 1e-4), node.attrs.get("beta", 0.75)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2

    def body(tensors: Tensors, number: Expr) -> None:
        source, target = tensors
        pixel, channel = _split(number, channels)
        total = local("float32", 1)
        store(total, 0, 1, zeros(1))
        low = bind(tirx.max(channel - index(before), index(0)))
        high = bind(tirx.min(channel + index(after + 1), index(channels)))
        with loop(bind(high - low), low) as other:
            value = bind(source.load(pixel * index(channels) + other))
            store(total, 0, 1, load(total, 0, 1) + value * value)
        scaled = fconst(alpha / size, 1) * load(total, 0, 1)
        norm = fconst(node.attrs.get("bias", 1.0), 1) + scaled
        target.store(number, source.load(number) * exp(fconst(-beta, 1) * log(norm, 1), 1))

    return launch_threads([x, out], x.elements, body, work=x.elements * (size + 20))

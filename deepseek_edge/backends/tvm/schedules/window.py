"""Depthwise convolution and pooling: each output channel sees its own input channel.

A task is one output row. Vectors run over channels; a tile of neighbouring output pixels
shares the inputs it reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.arithmetic import (
    apply_input_scale,
    dequantize,
    load_float,
)
from deepseek_edge.backends.tvm.schedules.blocks import split_evenly
from deepseek_edge.backends.tvm.schedules.depthwise import integer_depthwise, is_suited
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry, Span, spans
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
    lowest,
    ramp,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.schedules.weights import scaled
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target
from deepseek_edge.tensors import DTYPE_BYTES

TILE = 4  # output pixels; more would spill on 16 registers


def depthwise(
    node: Node, fusion: Fusion, target: Target, shape: Geometry, weights: Array
) -> Lowering:
    """Conv with one input channel a group; weights (channels, 1, kh, kw).

    Integers are multiplied as floats where nothing better is: exact, as no sum reaches 2**24.
    """
    if node.op == "IntegerConv" and is_suited(target, shape.channels):
        return integer_depthwise(node, fusion, target, shape, weights)
    ordered = weights[:, 0].transpose(1, 2, 0)  # (kh, kw, channels)
    extra = {"weights": constant(f"{node.source}/packed", ordered.reshape(-1))}
    rest = {"bias": node.optional(2)}
    if node.op == "IntegerConv":
        if weights[0].size * 255 * 127 >= 1 << 24:
            raise UnsupportedError(f"Conv (node {node.source!r}) sums too many integer products")
        bias = node.optional(3)
        rest = {"factor": node.value(2), "offset": node.optional(4)}
        if bias is not None and bias.data is not None:
            rest["whole bias"] = constant(bias.name, bias.data.astype(np.float32))
    extra.update({name: value for name, value in rest.items() if value is not None})
    return _Window(node, fusion, target, shape, "depthwise", extra).lower()


def pooling(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """MaxPool and AveragePool."""
    kernel = node.attrs["kernel_shape"]
    size = (1, kernel[0]) if len(kernel) == 1 else (kernel[0], kernel[1])
    shape = Geometry.of(node, size)
    if node.op == "MaxPool":
        return _Window(node, fusion, target, shape, "max", {}).lower()
    count = constant(f"{node.source}/count", pixel_counts(node, shape))
    return _Window(node, fusion, target, shape, "average", {"count": count}).lower()


def pixel_counts(node: Node, shape: Geometry) -> Array:
    """The number of inputs averaged, for each output pixel."""
    pads = node.attrs["pads"]
    ends = (pads[-2], pads[-1]) if len(pads) == 4 else (0, pads[-1])
    counts = []
    axes = [
        (
            shape.out_height,
            shape.stride_h,
            shape.pad_top,
            shape.kernel_h,
            shape.dilation_h,
            shape.height,
            ends[0],
        ),
        (
            shape.out_width,
            shape.stride_w,
            shape.pad_left,
            shape.kernel_w,
            shape.dilation_w,
            shape.width,
            ends[1],
        ),
    ]
    for out, stride, pad, kernel, dilation, size, end in axes:
        low, high = (-pad, size + end) if node.attrs.get("count_include_pad") else (0, size)
        taps = np.arange(out)[:, None] * stride - pad + np.arange(kernel) * dilation
        counts.append(((taps >= low) & (taps < high)).sum(axis=1))
    return np.outer(counts[0], counts[1]).astype(np.float32).reshape(-1)


@dataclass
class _Window:
    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    kind: str
    extra: dict[str, Value]  # constants by role

    def lower(self) -> Lowering:
        shape = self.shape
        # Only a maximum leaves its input's type.
        self.dtype = self.node.value(0).dtype if self.kind == "max" else "float32"
        tensors = [self.node.value(0), *self.extra.values(), *self.fusion.tensors]
        rows = shape.batch * shape.out_height
        macs = rows * shape.out_width * shape.channels * shape.kernel_h * shape.kernel_w
        return Lowering(build(tensors, self._task), tuple(tensors), rows, macs)

    def _task(self, buffers: Sequence[Buffer], row: Expr) -> None:
        self.source, *rest = buffers
        self.buffers = dict(zip(self.extra, rest, strict=False))
        self.fusion.attach(rest[len(self.extra) :])
        tile = 7 if self.target.vector_registers >= 32 else TILE
        lanes = self.target.vector_bits // (8 * DTYPE_BYTES[self.dtype])
        for span in spans(self.shape, split_evenly(self.shape.out_width, tile)):
            with loop(span.count) as i:
                start = bind(index(span.start) + i * index(span.width))
                for_columns(
                    self.shape.channels,
                    lanes,
                    lambda column, width, span=span, start=start: self._tile(  # type: ignore[misc]
                        span, (row, start, column), width
                    ),
                )

    def _tile(self, span: Span, at: tuple[Expr, Expr, Expr], lanes: int) -> None:
        shape = self.shape
        row, start, column = at
        sums = local(self.dtype, span.width * lanes)
        first = self._start(column, lanes)
        for pixel in range(span.width):
            store(sums, pixel * lanes, lanes, first)
        batch, out_y = shape.split_row(row)
        with loop(shape.kernel_h) as r:
            y = bind(
                out_y * index(shape.stride_h) + r * index(shape.dilation_h) - index(shape.pad_top)
            )
            with when(shape.row_exists(y)):
                base = bind(
                    shape.line(batch, y)
                    + column
                    + (start * index(shape.stride_w) - index(shape.pad_left))
                    * index(shape.channels)
                )
                self._filter_row((base, r, column), span, sums, lanes)
        for pixel in range(span.width):
            out_pixel = out_y * index(shape.out_width) + start + index(pixel)
            value = self._result(load(sums, pixel * lanes, lanes), column, out_pixel, lanes)
            out_row = row * index(shape.out_width) + start + index(pixel)
            self.fusion.finish(value, out_row, column, lanes)

    def _start(self, column: Expr, lanes: int) -> Expr:
        if self.kind == "max":
            return lowest(self.dtype, lanes)
        if "bias" in self.buffers:
            return bind(load(self.buffers["bias"], column, lanes))
        return zeros(lanes)

    def _result(self, total: Expr, column: Expr, out_pixel: Expr, lanes: int) -> Expr:
        if "count" in self.buffers:
            mean = total / load_splat(self.buffers["count"], out_pixel, lanes)
            return apply_input_scale(self.node, mean, lanes)
        if "factor" not in self.buffers:
            return total
        if "whole bias" in self.buffers:
            total = total + load(self.buffers["whole bias"], column, lanes)
        return scaled(total, self.buffers, column, lanes)

    def _load(self, at: Expr, lanes: int) -> Expr:
        """Input elements; quantized ones as floats, without their zero point."""
        if self.node.op == "IntegerConv":
            value = load(self.source, at, lanes)
            return dequantize(value, 1, self.node.attrs["zero_point"], lanes)
        return load_float(self.node, self.source, at, lanes, scaled=False)

    def _filter_row(
        self, at: tuple[Expr, Expr, Expr], span: Span, sums: Buffer, lanes: int
    ) -> None:
        shape = self.shape
        base, r, column = at
        inputs: dict[int, Expr] = {}  # by distance from the tile's first input pixel
        for s in range(shape.kernel_w):
            weight = None
            if self.kind == "depthwise":
                tap = (r * index(shape.kernel_w) + index(s)) * index(shape.channels) + column
                weight = load(self.buffers["weights"], tap, lanes)
                if self.node.op == "IntegerConv":
                    weight = dequantize(weight, 1, 0, lanes)
                weight = bind(weight)
            for pixel in range(span.width):
                if not span.hits(pixel, s, shape):
                    continue
                x = pixel * shape.stride_w + s * shape.dilation_w
                if x not in inputs:
                    inputs[x] = bind(self._load(base + index(x * shape.channels), lanes))
                total = sums[ramp(pixel * lanes, lanes)]
                store(sums, pixel * lanes, lanes, self._combine(total, inputs[x], weight))

    def _combine(self, total: Expr, value: Expr, weight: Expr | None) -> Expr:
        if self.kind == "max":
            return tirx.max(total, value)
        return total + (value if weight is None else value * weight)

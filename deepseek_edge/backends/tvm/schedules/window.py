"""Depthwise convolution and pooling: each output channel sees its own input channel.

A task is one output row. Vectors run over channels; a tile of neighbouring output pixels
shares the inputs it reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.blocks import split_evenly
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry, Span, spans
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    for_columns,
    index,
    literal,
    load,
    load_splat,
    local,
    loop,
    ramp,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.target import Target

TILE = 4  # output pixels; more would spill on 16 registers


def depthwise(
    node: Node, fusion: Fusion, target: Target, shape: Geometry, weights: Array
) -> Lowering:
    """Conv with one input channel a group; weights (channels, 1, kh, kw)."""
    ordered = weights[:, 0].transpose(1, 2, 0)  # (kh, kw, channels)
    packed = constant(f"{node.source}/packed", ordered.reshape(-1))
    bias = node.optional(2)
    extra = [packed] if bias is None else [packed, bias]
    return _Window(node, fusion, target, shape, "depthwise", extra).lower()


def pooling(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """MaxPool and AveragePool."""
    kernel = node.attrs["kernel_shape"]
    size = (1, kernel[0]) if len(kernel) == 1 else (kernel[0], kernel[1])
    shape = Geometry.of(node, size)
    if node.op == "MaxPool":
        return _Window(node, fusion, target, shape, "max", []).lower()
    share = constant(f"{node.source}/share", _shares(node, shape))
    return _Window(node, fusion, target, shape, "average", [share]).lower()


def _shares(node: Node, shape: Geometry) -> Array:
    """1 / (number of inputs averaged), for each output pixel."""
    pads = node.attrs.get("pads") or [0, 0, 0, 0]
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
    return (1.0 / np.outer(counts[0], counts[1])).astype(np.float32).reshape(-1)


@dataclass
class _Window:
    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    kind: str
    extra: list[Value]

    def lower(self) -> Lowering:
        shape = self.shape
        tensors = [self.node.value(0), *self.extra, *self.fusion.tensors]
        rows = shape.batch * shape.out_height
        macs = rows * shape.out_width * shape.channels * shape.kernel_h * shape.kernel_w
        return Lowering(build(tensors, self._task), tuple(tensors), rows, macs)

    def _task(self, buffers: Sequence[Buffer], row: Expr) -> None:
        source, *rest = buffers
        extra = rest[: len(self.extra)]
        self.fusion.attach(rest[len(self.extra) :])
        tile = 7 if self.target.vector_registers >= 32 else TILE
        lanes = self.target.vector_bits // 32
        for span in spans(self.shape, split_evenly(self.shape.out_width, tile)):
            with loop(span.count) as i:
                start = bind(index(span.start) + i * index(span.width))
                for_columns(
                    self.shape.channels,
                    lanes,
                    lambda column, width, span=span, start=start: self._tile(  # type: ignore[misc]
                        (source, extra), span, (row, start, column), width
                    ),
                )

    def _tile(
        self,
        buffers: tuple[Buffer, list[Buffer]],
        span: Span,
        at: tuple[Expr, Expr, Expr],
        lanes: int,
    ) -> None:
        shape = self.shape
        extra = buffers[1]
        row, start, column = at
        sums = local("float32", span.width * lanes)
        first = self._start(extra, column, lanes)
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
                self._filter_row(buffers, (base, r, column), span, sums, lanes)
        for pixel in range(span.width):
            value = load(sums, pixel * lanes, lanes)
            out_row = row * index(shape.out_width) + start + index(pixel)
            if self.kind == "average":
                at_pixel = out_y * index(shape.out_width) + start + index(pixel)
                value = value * load_splat(extra[0], at_pixel, lanes)
            self.fusion.finish(value, out_row, column, lanes)

    def _start(self, extra: list[Buffer], column: Expr, lanes: int) -> Expr:
        if self.kind == "max":
            return literal(float(np.finfo(np.float32).min), "float32", lanes)
        if self.kind == "depthwise" and len(self.extra) > 1:
            return bind(load(extra[1], column, lanes))
        return zeros(lanes)

    def _filter_row(
        self,
        buffers: tuple[Buffer, list[Buffer]],
        at: tuple[Expr, Expr, Expr],
        span: Span,
        sums: Buffer,
        lanes: int,
    ) -> None:
        shape = self.shape
        source, extra = buffers
        base, r, column = at
        inputs: dict[int, Expr] = {}  # by distance from the tile's first input pixel
        for s in range(shape.kernel_w):
            weight = None
            if self.kind == "depthwise":
                tap = (r * index(shape.kernel_w) + index(s)) * index(shape.channels) + column
                weight = bind(load(extra[0], tap, lanes))
            for pixel in range(span.width):
                if not span.hits(pixel, s, shape):
                    continue
                x = pixel * shape.stride_w + s * shape.dilation_w
                if x not in inputs:
                    inputs[x] = bind(load(source, base + index(x * shape.channels), lanes))
                total = sums[ramp(pixel * lanes, lanes)]
                store(sums, pixel * lanes, lanes, self._combine(total, inputs[x], weight))

    def _combine(self, total: Expr, value: Expr, weight: Expr | None) -> Expr:
        if self.kind == "max":
            return tirx.max(total, value)
        return total + (value if weight is None else value * weight)

"""Convolution, channels last. 1x1 convolutions are matrix products; depthwise ones windows.

Padding costs nothing inside: a row of outputs is cut into tiles, and only tiles that touch the
border know which of their pixels a filter column misses, at compile time. Filter rows outside
the image are skipped at run time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules import contraction, window
from deepseek_edge.backends.tvm.schedules.contraction import (
    Accumulators,
    Columns,
    choose_tile,
    column_blocks,
    for_blocks,
    pack,
    padded_bias,
    split_evenly,
    streams_weights,
)
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry, Span, spans
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
    loop,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target


def convolution(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Choose the schedule for one Conv node with constant weights (out, in/group, kh, kw)."""
    weights = node.value(1).data
    bias = node.optional(2)
    if weights is None or (bias is not None and bias.data is None):
        raise UnsupportedError(f"Conv (node {node.source!r}) has weights that aren't constant")
    if weights.ndim == 3:
        weights = weights[:, :, None, :]
    shape = Geometry.of(node, weights.shape[2:])
    groups = node.attrs.get("group", 1)
    if groups == shape.channels and weights.shape[0] == groups and groups > 1:
        return window.depthwise(node, fusion, target, shape, weights)
    pointwise = weights.shape[2:] == (1, 1) and shape.is_dense()
    if pointwise and groups == 1 and not shape.channels_first:
        matrix = weights[:, :, 0, 0].T
        rows = shape.batch * shape.out_height * shape.out_width
        return contraction.packed_matmul(node, fusion, target, matrix, rows=rows, bias=bias)
    return _Direct(node, fusion, target, shape, weights, bias).lower()


@dataclass
class _Direct:
    """A task is one output row by one block of output channels of one group."""

    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    weights: Array
    bias: Value | None

    def lower(self) -> Lowering:
        shape = self.shape
        out_channels, depth, kernel_h, kernel_w = self.weights.shape
        self.groups = shape.channels // depth
        self.columns = out_channels // self.groups
        self.depth = depth
        self.tile = choose_tile(self.target, shape.out_width, self.columns)
        self.blocks = column_blocks(self.columns, self.tile, padded=True)
        self.parts = split_evenly(shape.out_width, self.tile.rows)
        self.taps = kernel_h * kernel_w * depth
        n_blocks = self.blocks[0] + (self.blocks[2] is not None)
        rows = shape.batch * shape.out_height
        packed, bias = self._pack()
        self.blocks_outer = streams_weights(
            self.weights.size, self.node.value(0).elements, rows, n_blocks, self.target
        )
        self.n_blocks, self.rows = n_blocks, rows
        extra = [] if bias is None else [bias]
        tensors = [self.node.value(0), packed, *extra, *self.fusion.tensors]
        function = build(tensors, lambda buffers, task: self._task(buffers, task, len(extra)))
        macs = rows * shape.out_width * out_channels * self.taps
        return Lowering(function, tuple(tensors), rows * n_blocks * self.groups, macs)

    def _pack(self) -> tuple[Value, Value | None]:
        grouped = self.weights.reshape(self.groups, self.columns, *self.weights.shape[1:])
        # (group, kh, kw, in, out): the order in which the inner loops read.
        ordered = grouped.transpose(0, 3, 4, 2, 1).reshape(self.groups, self.taps, self.columns)
        packed = np.concatenate([pack(matrix, self.blocks) for matrix in ordered])
        bias = None
        if self.bias is not None and self.bias.data is not None:
            per_group = self.bias.data.reshape(self.groups, self.columns)
            bias = constant(
                f"{self.bias.name}/padded",
                np.concatenate(
                    [padded_bias(constant("", row), self.blocks).data for row in per_group]
                ),
            )
        return constant(f"{self.node.source}/packed", packed), bias

    def _task(self, buffers: Sequence[Buffer], task: Expr, n_bias: int) -> None:
        source, packed, *rest = buffers
        bias = rest[0] if n_bias else None
        self.fusion.attach(rest[n_bias:])
        group: Expr = index(0)
        if self.groups > 1:
            group = bind(tirx.indexmod(task, index(self.groups)))
            task = bind(tirx.indexdiv(task, index(self.groups)))
        inner = self.rows if self.blocks_outer else self.n_blocks
        first, second = tirx.indexdiv(task, index(inner)), tirx.indexmod(task, index(inner))
        row, number = (second, first) if self.blocks_outer else (first, second)
        row = bind(row)
        padded = self.blocks[0] * self.tile.columns + (
            self.blocks[2].width if self.blocks[2] else 0
        )

        def emit(block: Columns, which: Expr) -> None:
            column = bind(which * index(self.tile.columns))
            base = bind((group * index(padded) + column) * index(self.taps))
            place = _Place(
                source, packed, bias, base, column, group, row, bind(group * index(padded) + column)
            )
            for span in spans(self.shape, self.parts):
                with loop(span.count) as i:
                    start = index(span.start) + i * index(span.width)
                    self._tile(place, block, span, bind(start) if span.count > 1 else start)

        for_blocks(self.blocks, number, emit)

    def _tile(self, place: "_Place", block: Columns, span: Span, start: Expr) -> None:
        shape = self.shape
        sums = Accumulators(span.width, block, place.bias, place.bias_base)
        batch, out_y = shape.split_row(place.row)
        with loop(shape.kernel_h) as r:
            y = out_y * index(shape.stride_h) + r * index(shape.dilation_h) - index(shape.pad_top)
            y = bind(y) if shape.kernel_h > 1 or shape.can_miss_rows() else y
            with when(shape.row_exists(y)):
                self._filter_row(place, block, span, start, (sums, batch, y, r))
        out_row = place.row * index(shape.out_width) + start
        column = place.group * index(self.columns) + place.column
        sums.finish(self.fusion, lambda row: out_row + index(row), column)

    def _filter_row(
        self,
        place: "_Place",
        block: Columns,
        span: Span,
        start: Expr,
        at: "tuple[Accumulators, Expr, Expr, Expr]",
    ) -> None:
        shape, depth = self.shape, self.depth
        sums, batch, y, r = at
        weights = bind(place.base + r * index(shape.kernel_w * depth * block.width))
        line = bind(shape.line(batch, y) + place.group * index(depth))
        step = shape.pixel_stride
        first = bind(line + (start * index(shape.stride_w) - index(shape.pad_left)) * index(step))
        unroll = 4 if self.target.arch == "aarch64" else 2
        if span.is_inside and shape.dilation_w == 1 and depth == step:
            # Neighbouring pixels lie end to end: filter columns and channels are one loop.
            sums.multiply(
                shape.kernel_w * depth,
                place.packed,
                weights,
                block.width,
                source=lambda row, k: place.source[first + k + index(row * shape.stride_w * step)],
                rows=range(span.width),
                unroll=unroll,
            )
            return
        for s in range(shape.kernel_w):
            rows = [row for row in range(span.width) if span.hits(row, s, shape)]
            offset = s * shape.dilation_w * step
            sums.multiply(
                depth,
                place.packed,
                weights + index(s * depth * block.width),
                block.width,
                source=lambda row, k, offset=offset: place.source[  # type: ignore[misc]
                    first
                    + k * index(shape.channel_stride)
                    + index(row * shape.stride_w * step + offset)
                ],
                rows=rows,
                unroll=depth if depth <= 4 else unroll,
            )


@dataclass(frozen=True)
class _Place:
    """Where a task reads: buffers and the bases of its block, group and row."""

    source: Buffer
    packed: Buffer
    bias: Buffer | None
    base: Expr
    column: Expr
    group: Expr
    row: Expr
    bias_base: Expr

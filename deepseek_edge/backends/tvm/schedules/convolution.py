"""Convolution, channels last. 1x1 convolutions are matrix products; depthwise ones windows.

Padding costs nothing inside: a row of outputs is cut into tiles, and only tiles that touch the
border know which of their pixels a filter column misses, at compile time. Filter rows outside
the image are skipped at run time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from tvm import tirx

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.backends.tvm.graph import Array, Node
from deepseek_edge.backends.tvm.schedules import contraction, window, winograd
from deepseek_edge.backends.tvm.schedules.accumulators import (
    Accumulators,
    Products,
    accumulators,
    prefetch_of,
    unroll_of,
)
from deepseek_edge.backends.tvm.schedules.blocks import (
    Columns,
    Tiling,
    for_blocks,
    streams_weights,
)
from deepseek_edge.backends.tvm.schedules.dot import Unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry, Span, spans
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
    lanes_of,
    load,
    loop,
    otherwise,
    pieces,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.schedules.minimal_filtering import F2
from deepseek_edge.backends.tvm.schedules.weights import filters_of, prepare, unit_of
from deepseek_edge.target import Target

WIDEST_ROW = 11  # filter columns of an NCHW input that are written out


def convolution(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Choose the schedule for one Conv node with constant weights (out, in/group, kh, kw)."""
    weights = filters_of(node)
    shape = Geometry.of(node, weights.shape[2:])
    groups = node.attrs.get("group", 1)
    if groups == shape.channels and weights.shape[0] == groups and groups > 1:
        return window.depthwise(node, fusion, target, shape, weights)
    pointwise = weights.shape[2:] == (1, 1) and shape.is_dense()
    if pointwise and groups == 1 and not shape.channels_first:
        matrix = weights[:, :, 0, 0].T
        rows = shape.batch * shape.out_height * shape.out_width
        return contraction.packed_matmul(node, fusion, target, matrix, rows=rows)
    direct = _Direct(node, fusion, target, shape, weights)
    if not winograd.can_filter(node, fusion, shape, weights):
        return direct.lower()
    filtering = winograd.choose_filtering(node, fusion, target, shape, weights)
    if filtering is None:
        return chosen_as("direct", direct.lower())
    lowering = winograd.winograd(node, fusion, target, shape, weights, filtering=filtering)
    return chosen_as("F2" if filtering is F2 else "F4", lowering)


def chosen_as(filtering: Literal["direct", "F2", "F4"], lowering: Lowering) -> Lowering:
    """The lowering of a convolution that could also be filtered otherwise."""
    choice = replace(lowering.choice or BY_MODEL, filtering=filtering)
    return replace(lowering, choice=choice)


@dataclass
class _Direct:
    """A task is one output row by one block of output channels of one group."""

    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    kernel: Array

    def lower(self) -> Lowering:
        shape = self.shape
        out_channels, self.depth = self.kernel.shape[:2]
        self.groups = shape.channels // self.depth
        self.columns = out_channels // self.groups
        width = shape.out_width
        paired = unit_of(self.node, self.target, self.depth, width).paired
        choice = self.fusion.step.choice
        self.tiling = Tiling.of(
            self.target, width, self.columns, padded=True, paired=paired, choice=choice
        )
        grouped = self.kernel.reshape(self.groups, self.columns, *self.kernel.shape[1:])
        # (group, kh, kw, in, out): the order in which the inner loops read.
        self.weights = prepare(
            self.node,
            self.target,
            grouped.transpose(0, 3, 4, 2, 1),
            self.tiling.blocks,
            width,
            can_miss=shape.can_miss_rows()
            or not all(span.is_inside for span in spans(shape, self.tiling.parts)),
            has_lines=shape.has_lines(self.depth),
        )
        self.unroll = choice.unroll or unroll_of(self.target, self.weights.unit)
        n_blocks, self.rows = self.tiling.n_blocks, shape.batch * shape.out_height
        streams = streams_weights(
            self.kernel.size, self.node.value(0).elements, self.rows, n_blocks, self.target
        )
        self.blocks_outer = streams if choice.blocks_outer is None else choice.blocks_outer
        tensors = [self.node.value(0), *self.weights.tensors, *self.fusion.tensors]
        macs = self.rows * shape.out_width * self.kernel.size
        tasks = self.rows * n_blocks * self.groups
        tile = self.tiling.tile
        chosen = Choice(None, tile.rows, tile.vectors, self.blocks_outer, self.unroll)
        return Lowering(build(tensors, self._task), tuple(tensors), tasks, macs, chosen)

    def _task(self, buffers: Sequence[Buffer], task: Expr) -> None:
        source, *rest = buffers
        self.fusion.attach(self.weights.attach(rest))
        group: Expr = index(0)
        if self.groups > 1:
            group = bind(tirx.indexmod(task, index(self.groups)))
            task = bind(tirx.indexdiv(task, index(self.groups)))
        inner = self.rows if self.blocks_outer else self.tiling.n_blocks
        first, second = tirx.indexdiv(task, index(inner)), tirx.indexmod(task, index(inner))
        row, number = (second, first) if self.blocks_outer else (first, second)
        row = bind(row)
        taps = self.shape.kernel_h * self.shape.kernel_w * self.weights.depth

        def emit(block: Columns, which: Expr) -> None:
            column = bind(which * index(self.tiling.tile.columns))
            padded = bind(group * index(self.weights.padded) + column)
            place = _Place(source, block, column, group, row, padded, bind(padded * index(taps)))
            for span in spans(self.shape, self.tiling.parts):
                with loop(span.count) as i:
                    start = index(span.start) + i * index(span.width)
                    self._tile(place, span, bind(start) if span.count > 1 else start)

        for_blocks(self.tiling.blocks, number, emit)

    def _tile(self, place: "_Place", span: Span, start: Expr) -> None:
        shape, buffers = self.shape, self.weights.buffers
        sums = accumulators(
            self.weights.unit, span.width, place.block, buffers.get("start"), place.padded_column
        )
        batch, out_y = shape.split_row(place.row)
        with loop(shape.kernel_h) as r:
            y = out_y * index(shape.stride_h) + r * index(shape.dilation_h) - index(shape.pad_top)
            y = bind(y) if shape.kernel_h > 1 or shape.can_miss_rows() else y
            exists = shape.row_exists(y)
            with when(exists):
                self._filter_row(place, span, start, (sums, batch, y, r))
            if "border" in buffers and exists is not True:
                with otherwise(exists), loop(shape.kernel_w) as s:
                    self._give_back(sums, range(span.width), place, r, s)
        out_row = place.row * index(shape.out_width) + start
        column = place.group * index(self.columns) + place.column
        sums.finish(self.fusion, lambda row: out_row + index(row), column, self.weights.result)

    def _give_back(
        self, sums: Accumulators, rows: Sequence[int], place: "_Place", r: Expr, s: Expr
    ) -> None:
        """Undo the zero point's share of a tap that isn't there."""
        shape = self.shape
        tap = (place.group * index(shape.kernel_h) + r) * index(shape.kernel_w) + s
        base = tap * index(self.weights.padded) + place.column
        sums.add(rows, self.weights.buffers["border"], bind(base))

    def _filter_row(
        self,
        place: "_Place",
        span: Span,
        start: Expr,
        at: "tuple[Accumulators, Expr, Expr, Expr]",
    ) -> None:
        shape, depth, width = self.shape, self.weights.depth, place.block.width
        sums, _, _, r = at
        packed = self.weights.buffers["packed"]
        weights, first = self._first(place, start, at)
        if self._reads_planes():
            self._filter_planes(place, span, sums, (weights, first))
            return
        line = self._line(place, r, weights) if span.is_inside else None
        if line is not None:
            self._multiply(sums, place, line, first, range(span.width))
            return

        def filter_column(s: Expr, rows: Sequence[int]) -> None:
            origin = bind(first + s * index(shape.dilation_w * shape.pixel_stride))
            tap = (depth, packed, bind(weights + s * index(depth * width)))
            self._multiply(sums, place, tap, origin, rows)

        if span.is_inside:
            # A loop, not straight code: there LLVM keeps inputs that two columns share in
            # registers, and spills the sums.
            with loop(shape.kernel_w) as s:
                filter_column(s, range(span.width))
            return
        for column in range(shape.kernel_w):
            rows = [row for row in range(span.width) if span.hits(row, column, shape)]
            filter_column(index(column), rows)
            if "border" in self.weights.buffers:
                missing = [row for row in range(span.width) if row not in rows]
                self._give_back(sums, missing, place, r, index(column))

    def _line(self, place: "_Place", r: Expr, weights: Expr) -> tuple[int, Buffer, Expr] | None:
        """A filter row as one tap: its k, and where its weights are; None if it is several."""
        shape, buffers = self.shape, self.weights.buffers
        if "lines" in buffers:
            line = self.weights.line
            row = place.padded_column * index(shape.kernel_h) + r * index(place.block.width)
            return line, buffers["lines"], bind(row * index(line))
        if not shape.has_lines(self.weights.depth):
            return None
        return shape.kernel_w * self.weights.depth, buffers["packed"], weights

    def _multiply(
        self,
        sums: Accumulators,
        place: "_Place",
        tap: tuple[int, Buffer, Expr],
        origin: Expr,
        rows: Sequence[int],
    ) -> None:
        """Add one tap, (its k, weights, where they start), to the sums of some pixels."""
        shape, (run, weights, base) = self.shape, tap
        sums.multiply(
            Products(
                run,
                weights,
                base,
                place.block.width,
                source=place.source,
                address=lambda row, k: (
                    origin
                    + k * index(shape.channel_stride)
                    + index(row * shape.stride_w * shape.pixel_stride)
                ),
                rows=rows,
                contiguous=shape.channel_stride == 1,
            ),
            unroll=run if run <= 4 else self.unroll,
            ahead=prefetch_of(self.target) if self.blocks_outer else 0,
        )

    def _first(
        self, place: "_Place", start: Expr, at: "tuple[Accumulators, Expr, Expr, Expr]"
    ) -> tuple[Expr, Expr]:
        """Where the weights of a filter row start, and what its first column reads."""
        shape, (_, batch, y, r) = self.shape, at
        row = shape.kernel_w * self.weights.depth * place.block.width
        weights = bind(place.weight_base + r * index(row))
        line = bind(shape.line(batch, y) + place.group * index(self.depth))
        x = start * index(shape.stride_w) - index(shape.pad_left)
        return weights, bind(line + x * index(shape.pixel_stride))

    def _reads_planes(self) -> bool:
        """True if a multiplication takes any of a vector's NCHW pixels, and few columns do."""
        unit, shape = self.weights.unit, self.shape
        by_lane = unit.lane is not None and unit.group == 1
        return shape.channels_first and by_lane and shape.kernel_w <= WIDEST_ROW

    def _filter_planes(
        self, place: "_Place", span: Span, sums: Accumulators, at: tuple[Expr, Expr]
    ) -> None:
        """A filter row of an NCHW input: vectors of neighbouring pixels serve all its columns."""
        shape, depth, width = self.shape, self.weights.depth, place.block.width
        (weights, first), unit = at, self.weights.unit
        taps = {
            s: [row for row in range(span.width) if span.hits(row, s, shape)]
            for s in range(shape.kernel_w)
        }
        reach = [self._distance(row, s) for s, rows in taps.items() for row in rows]
        if not reach:
            return
        with loop(depth) as k:
            line = bind(first + k * index(shape.channel_stride) + index(min(reach)))
            values: list[Callable[[int], Expr]] = []
            for offset, lanes in pieces(max(reach) + 1 - min(reach), 4):
                vector = bind(load(place.source, line + index(offset), lanes))
                values += [partial(_lane, unit, vector, lane) for lane in range(lanes)]
            for s, rows in taps.items():
                base = weights + (k + index(s * depth)) * index(width)
                vectors = [
                    unit.weights(self.weights.buffers["packed"], base + index(offset), lanes)
                    for offset, lanes in place.block.vectors
                ]
                for row in rows:
                    sums.multiply_row(row, values[self._distance(row, s) - min(reach)], vectors)

    def _distance(self, row: int, s: int) -> int:
        """Pixels between the tile's first and what filter column ``s`` reads for ``row``."""
        return row * self.shape.stride_w + s * self.shape.dilation_w


def _lane(unit: Unit, vector: Expr, which: int, lanes: int) -> Any:
    assert unit.lane
    return vector if lanes_of(vector) == 1 else unit.lane(vector, which, lanes)


@dataclass(frozen=True)
class _Place:
    """Where a task works: its block, group and row, and the bases that follow from them."""

    source: Buffer
    block: Columns
    column: Expr
    group: Expr
    row: Expr
    padded_column: Expr
    weight_base: Expr

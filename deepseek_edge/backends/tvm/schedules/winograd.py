"""3x3 convolution by minimal filtering (Winograd): fewer multiplications, more weights.

The products of all channels at one of a tile's positions are a matrix product: tiles by input
channels times input channels by output channels. A task takes some tiles and some blocks of
output channels. It transforms the tiles' inputs into its thread's scratch memory, where the next
task finds them if it has the same tiles; then, block by block, it multiplies at all positions
and transforms the sums back while the caches hold them.

An infinite or NaN input spreads over its tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.choice import Choice
from deepseek_edge.backends.tvm.graph import Array, Node, Scratch, Value, constant
from deepseek_edge.backends.tvm.schedules.accumulators import (
    Accumulators,
    Products,
    prefetch_of,
    unroll_of,
)
from deepseek_edge.backends.tvm.schedules.blocks import (
    Columns,
    Tiling,
    for_blocks,
    for_parts,
    pack,
    padded_width,
    part_start,
)
from deepseek_edge.backends.tvm.schedules.dot import float_unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build_in_order,
    for_columns,
    index,
    load,
    local,
    loop,
    otherwise,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, ceil_div
from deepseek_edge.backends.tvm.schedules.minimal_filtering import F2, F4, TAPS, Filtering
from deepseek_edge.target import Target

# A transform stores each element twice, and loads and computes about as much beside it.
TRANSFORM_MACS = 8
# What memory gives all cores together where the target doesn't say, in bytes a cycle.
MEMORY_BYTES_PER_CYCLE = 8.0
# Below this gain, weights that are 1.8 or 4 times as large aren't worth it.
LEAST_GAIN = 0.1


def choose_filtering(
    node: Node, fusion: Fusion, target: Target, shape: Geometry, kernel: Array
) -> Filtering | None:
    """The fastest way to compute a Conv, or the step's own choice; None for the direct one.

    All batch sizes choose alike, so that they share the weights.
    """
    if not can_filter(node, fusion, shape, kernel):
        return None
    choice = fusion.step.choice.filtering
    if choice is not None:
        return {"direct": None, "F2": F2, "F4": F4}[choice]
    best, least = None, cycles(None, target, shape, len(kernel))
    for filtering in (F2, F4):
        needed = cycles(filtering, target, shape, len(kernel))
        if needed < (1 - LEAST_GAIN) * least:
            best, least = filtering, needed
    return best


def can_filter(node: Node, fusion: Fusion, shape: Geometry, kernel: Array) -> bool:
    """True for float32 3x3 layers of stride 1 of float32 graphs.

    Integer programs promise the results of the direct sum.
    """
    return not (
        node.op != "Conv"
        or fusion.is_integer
        or node.attrs.get("is_quantized_graph")
        or {node.value(0).dtype, str(kernel.dtype)} != {"float32"}
        or kernel.shape[1:] != (shape.channels, TAPS, TAPS)
        or (shape.stride_h, shape.stride_w, shape.dilation_h, shape.dilation_w) != (1, 1, 1, 1)
        or shape.channels_first
    )


def cycles(
    filtering: Filtering | None, target: Target, shape: Geometry, out_channels: int
) -> float:
    """What one item of the batch takes on all cores: arithmetic, or weights out of memory.

    Weights are read once for each inference, and the other layers' have driven them out of the
    caches; half the memory interface's peak is what programs get of it.
    """
    pixels, channels = shape.out_height * shape.out_width, shape.channels * out_channels
    peak = target.peak_fma_per_cycle * target.cores
    if filtering is None:
        arithmetic, weights = pixels * TAPS * TAPS * channels / peak, TAPS * TAPS * channels
    else:
        size = filtering.outputs
        tiles = ceil_div(shape.out_height, size) * ceil_div(shape.out_width, size)
        transforms = TRANSFORM_MACS * (shape.channels + out_channels)
        weights = filtering.positions * channels
        arithmetic = tiles * filtering.positions * (channels + transforms) / peak
    rate = MEMORY_BYTES_PER_CYCLE
    if target.memory_bandwidth_bytes_s and target.clock_hz:
        rate = target.memory_bandwidth_bytes_s / target.clock_hz / 2
    return max(arithmetic, weights * 4 / rate)


def winograd(
    node: Node,
    fusion: Fusion,
    target: Target,
    shape: Geometry,
    kernel: Array,
    *,
    filtering: Filtering,
) -> Lowering:
    """A 3x3 Conv of stride 1; ``kernel`` (out, in, 3, 3) and the bias are constants."""
    return _Winograd(node, fusion, target, shape, kernel, filtering).lower()


@dataclass
class _Winograd:
    node: Node
    fusion: Fusion
    target: Target
    shape: Geometry
    kernel: Array
    filtering: Filtering

    def lower(self) -> Lowering:
        shape, size = self.shape, self.filtering.outputs
        columns, self.depth = self.kernel.shape[:2]
        self.lanes = min(self.target.vector_bits // 32, 16)
        self.unit = float_unit(self.target)
        self.tiles_y, self.tiles_x = (
            ceil_div(shape.out_height, size),
            ceil_div(shape.out_width, size),
        )
        tiles = shape.batch * self.tiles_y * self.tiles_x
        items = self.node.attrs.get("items", 1)
        choice = self.fusion.step.choice
        self.tiling = Tiling.of(
            self.target, tiles, columns, padded=True, items=items, choice=choice
        )
        self.unroll = choice.unroll or unroll_of(self.target, self.unit)
        self.width = self.tiling.tile.columns
        # An odd number of cache lines between rows, so that they don't share a cache set.
        self.row = (ceil_div(self.depth, 16) | 1) * 16
        self._choose_tasks()
        weights = self._weights(columns)
        tensors = [self.node.value(0), *weights, self._scratch(), *self.fusion.tensors]
        macs = tiles * self.filtering.positions * columns * self.depth
        kernel = build_in_order(tensors, self._task)
        tile = self.tiling.tile
        chosen = Choice(None, tile.rows, tile.vectors, None, self.unroll)
        return Lowering(kernel, tuple(tensors), self.strips * self.groups, macs, chosen)

    def _weights(self, columns: int) -> list[Value]:
        """Weights as (block, position, in, out of the block), and what the sums start from."""
        name = self.node.source or self.node.output.name
        matrices = self.filtering.transform_weights(self.kernel).reshape(-1, columns)
        values = [constant(f"{name}/packed", pack(matrices, self.tiling.blocks, self.unit))]
        self.padded = padded_width(self.tiling.blocks)
        bias = self.node.optional(2)
        self.has_bias = bias is not None and bias.data is not None
        if bias is not None and bias.data is not None:
            start = self.filtering.transform_bias(bias.data)
            room = ((0, 0), (0, self.padded - columns))
            values.append(constant(f"{name}/start", np.pad(start, room)))
        return values

    def _choose_tasks(self) -> None:
        """A strip's inputs and sums stay in the last private cache, with all weights if they fit.

        The blocks of a strip are several tasks if there are few strips.
        """
        target, positions = self.target, self.filtering.positions
        # Without a third level the second is the one that the cores share.
        cache = target.l2_bytes // (1 if target.l3_bytes else target.cores)
        weights = 4 * positions * self.kernel.shape[0] * self.depth
        room = cache * 7 // 8 - (weights if weights <= cache * 5 // 8 else cache // 8)
        part = 4 * positions * self.tiling.parts[0] * (self.row + self.width)
        count = len(self.tiling.parts)
        wanted = 4 * target.cores
        self.parts_per_strip = max(1, min(room // part, ceil_div(count, wanted)))
        if weights > cache:  # each strip reads them again
            self.parts_per_strip = max(1, min(room // part, count))
        self.strips = ceil_div(count, self.parts_per_strip)
        groups = min(self.tiling.n_blocks, ceil_div(wanted, self.strips))
        self.blocks_per_task = ceil_div(self.tiling.n_blocks, groups)
        self.groups = ceil_div(self.tiling.n_blocks, self.blocks_per_task)

    def _scratch(self) -> Scratch:
        """(position, tile, in), then (tile, position, out of a block), then one tile half done."""
        positions = self.filtering.positions
        most_tiles = sum(self.tiling.parts[: self.parts_per_strip])
        self.plane = most_tiles * self.row
        self.sums_base = positions * self.plane
        self.half_base = self.sums_base + positions * most_tiles * self.width
        return Scratch("scratch", "float32", (self.half_base + positions * self.row,))

    def _task(self, buffers: Sequence[Buffer], task: Expr, first: Expr) -> None:
        self.source, self.packed, *rest = buffers
        self.start = rest.pop(0) if self.has_bias else None
        self.scratch, *rest = rest
        self.fusion.attach(rest)
        strip = bind(tirx.indexdiv(task, index(self.groups)))
        group = bind(tirx.indexmod(task, index(self.groups)))
        parts, blocks = self.tiling.parts, self.tiling.blocks
        part = bind(strip * index(self.parts_per_strip))
        n_parts = bind(tirx.min(index(self.parts_per_strip), index(len(parts)) - part))
        tile = bind(part_start(parts, part))
        n_tiles = bind(part_start(parts, part + n_parts) - tile)
        with when(tirx.Or(first, tirx.EQ(group, index(0)))), loop(n_tiles) as t:
            self._transform_tile(t, bind(tile + t))

        def emit(block: Columns, which: Expr) -> None:
            column = bind(which * index(self.width))
            with loop(self.filtering.positions) as p, loop(n_parts) as q:
                for_parts(
                    parts,
                    bind(part + q),
                    lambda size, start: self._multiply(block, column, p, size, bind(start - tile)),
                )
            with loop(n_tiles) as t:
                self._finish_tile(block, column, t, bind(tile + t))

        number = bind(group * index(self.blocks_per_task))
        left = index(self.tiling.n_blocks) - number
        with loop(bind(tirx.min(index(self.blocks_per_task), left))) as i:
            for_blocks(blocks, bind(number + i), emit)

    def _place(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """(batch item, first output line, first output column) of a tile."""
        item: Expr = index(0)
        if self.shape.batch > 1:
            per_item = index(self.tiles_y * self.tiles_x)
            item, tile = bind(tirx.indexdiv(tile, per_item)), bind(tirx.indexmod(tile, per_item))
        size, across = index(self.filtering.outputs), index(self.tiles_x)
        y, x = tirx.indexdiv(tile, across) * size, tirx.indexmod(tile, across) * size
        return item, bind(y), bind(x)

    def _transform_tile(self, t: Expr, tile: Expr) -> None:
        """B' d B: first down each column of pixels, then along the lines."""
        shape, n = self.shape, self.filtering.inputs
        item, y, x = self._place(tile)
        y, x = bind(y - index(shape.pad_top)), bind(x - index(shape.pad_left))
        origin = bind(shape.line(item, y) + x * index(shape.channels))
        inside = bind(tirx.And(y >= index(0), y + index(n) <= index(shape.height)))
        with loop(n) as j:
            exists = bind(tirx.And(x + j >= index(0), x + j < index(shape.width)))
            pixel = bind(origin + j * index(shape.channels))
            with when(tirx.And(exists, inside)):
                self._down(j, lambda c, lanes: self._pixels(pixel + c, lanes))
            with when(tirx.And(exists, tirx.Not(inside))):
                self._down(j, lambda c, lanes: self._pixels_that_exist(pixel + c, y, lanes))
            with otherwise(exists):
                self._down(j, lambda c, lanes: [zeros(lanes)] * n)
        with loop(n) as i:

            def along(c: Expr, lanes: int) -> None:
                at = self.half_base + i * index(n * self.row) + c
                values = [
                    bind(load(self.scratch, at + index(j * self.row), lanes)) for j in range(n)
                ]
                results = self.filtering.transform_inputs(values, lanes)
                at = i * index(n * self.plane) + t * index(self.row) + c
                for j, result in enumerate(results):
                    store(self.scratch, at + index(j * self.plane), lanes, result)

            for_columns(self.depth, self.lanes, along)

    def _down(self, j: Expr, fetch: Callable[[Expr, int], list[Expr]]) -> None:
        """Transform pixel column ``j`` of a tile; ``fetch(channel, lanes)`` gives its pixels."""

        def body(c: Expr, lanes: int) -> None:
            at = index(self.half_base) + j * index(self.row) + c
            results = self.filtering.transform_inputs(fetch(c, lanes), lanes)
            for i, result in enumerate(results):
                line = i * self.filtering.inputs * self.row
                store(self.scratch, at + index(line), lanes, result)

        for_columns(self.depth, self.lanes, body)

    def _pixels(self, at: Expr, lanes: int) -> list[Expr]:
        line = self.shape.width * self.shape.channels
        return [
            bind(load(self.source, at + index(i * line), lanes))
            for i in range(self.filtering.inputs)
        ]

    def _pixels_that_exist(self, at: Expr, y: Expr, lanes: int) -> list[Expr]:
        """As ``_pixels`` from line ``y``, with zeros above and below the image."""
        n, line = self.filtering.inputs, self.shape.width * self.shape.channels
        values = local("float32", n * lanes)
        for i in range(n):
            store(values, i * lanes, lanes, zeros(lanes))
            exists = tirx.And(y + index(i) >= index(0), y + index(i) < index(self.shape.height))
            with when(exists):
                store(values, i * lanes, lanes, load(self.source, at + index(i * line), lanes))
        return [bind(load(values, i * lanes, lanes)) for i in range(n)]

    def _multiply(self, block: Columns, column: Expr, p: Expr, size: int, start: Expr) -> None:
        """Sums of ``size`` tiles from ``start`` of the strip, at position ``p``."""
        positions = index(self.filtering.positions)
        sums = Accumulators(
            self.unit, size, block, self.start, bind(p * index(self.padded) + column)
        )
        source = bind(p * index(self.plane) + start * index(self.row))
        sums.multiply(
            Products(
                self.depth,
                self.packed,
                bind((column * positions + p * index(block.width)) * index(self.depth)),
                block.width,
                source=self.scratch,
                address=lambda row, k: source + k + index(row * self.row),
                rows=range(size),
            ),
            unroll=self.unroll,
            # The next position's weights come while this one's are multiplied.
            ahead=4 * self.depth * block.width if prefetch_of(self.target) else 0,
        )
        base = bind(index(self.sums_base) + (start * positions + p) * index(self.width))
        for row in range(size):
            for offset, lanes in block.vectors:
                at = base + index(row * self.filtering.positions * self.width + offset)
                store(self.scratch, at, lanes, load(sums.buffer, row * block.width + offset, lanes))

    def _finish_tile(self, block: Columns, column: Expr, t: Expr, tile: Expr) -> None:
        """A' M A, the followers, and the outputs of a tile that lie inside the image."""
        shape, n, size = self.shape, self.filtering.inputs, self.filtering.outputs
        item, y, x = self._place(tile)
        base = bind(index(self.sums_base) + t * index(self.filtering.positions * self.width))
        row = bind((item * index(shape.out_height) + y) * index(shape.out_width) + x)

        def exists(first: Expr, number: int, length: int) -> Expr:
            return first + index(number) < index(length) if length % size else True

        def body(c: Expr, lanes: int) -> None:
            columns = []
            for j in range(n):
                at = [base + index((i * n + j) * self.width) + c for i in range(n)]
                values = [bind(load(self.scratch, place, lanes)) for place in at]
                columns.append(self.filtering.transform_sums(values, lanes))
            for i in range(size):
                with when(exists(y, i, shape.out_height)):
                    line = self.filtering.transform_sums([part[i] for part in columns], lanes)
                    for j in range(size):
                        with when(exists(x, j, shape.out_width)):
                            pixel = row + index(i * shape.out_width + j)
                            self.fusion.finish(line[j], pixel, column + c, lanes)

        for_columns(block.stored, self.lanes, body)

"""Convolution and matrix multiplication: one register tile for both.

The tile is ``rows x columns`` of accumulators: rows are output pixels (or matrix rows), whose
inputs are broadcast; columns are output channels in vectors, whose weights were packed so that
the inner loop reads them in order. A 1x1 convolution is a matrix product over all pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.fusion import Fusion, broadcast_row
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
    load,
    local,
    loop,
    pieces,
    ramp,
    splat,
    store,
    when,
    zeros,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, ceil_div
from deepseek_edge.target import Target


@dataclass(frozen=True)
class Tile:
    """The largest register tile: ``rows`` broadcasts by ``vectors`` of ``lanes`` floats."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Output channels in one full tile."""
        return self.vectors * self.lanes


def choose_tile(target: Target, rows: int, columns: int) -> Tile:
    """The tile that keeps the multipliers busy within the register file.

    Two weight vectors and one broadcast stay beside the accumulators. With few rows the tile
    grows in columns instead, so that enough independent sums hide the multiplier's latency.
    """
    lanes = min(target.vector_bits // 32, 16)
    while lanes > 4 and columns <= lanes // 2:
        lanes //= 2
    vectors = min(2, ceil_div(columns, lanes))
    most = 8 if target.arch == "aarch64" else (target.vector_registers - 4) // max(vectors, 1)
    most = max(1, min(most, 14))
    if rows * vectors * 2 <= most:
        vectors = max(1, min(most // rows, ceil_div(columns, lanes), 8))
    return Tile(min(rows, most), vectors, lanes)


def split_evenly(length: int, most: int) -> list[int]:
    """Cut ``length`` into the fewest parts of at most ``most``, as equal as possible."""
    parts = ceil_div(length, most)
    small, larger = divmod(length, parts)
    return [small + 1] * larger + [small] * (parts - larger)


@dataclass(frozen=True)
class Columns:
    """One block of output channels: vectors of (offset, lanes), of which ``stored`` count."""

    vectors: tuple[tuple[int, int], ...]
    stored: int

    @property
    def width(self) -> int:
        """Columns computed, padding included."""
        return sum(lanes for _, lanes in self.vectors)


def column_blocks(columns: int, tile: Tile, *, padded: bool) -> tuple[int, Columns, Columns | None]:
    """(number of full blocks, full block, the remaining block or None).

    ``padded``: weights are packed with zeros up to whole vectors; else every load is exact.
    """
    full = Columns(tuple((v * tile.lanes, tile.lanes) for v in range(tile.vectors)), tile.columns)
    count, rest = divmod(columns, tile.columns)
    if not rest:
        return count, full, None
    if not padded:
        return count, full, Columns(tuple(pieces(rest, tile.lanes)), rest)
    cut = pieces(rest - rest % 4, tile.lanes)
    if rest % 4:
        cut.append((rest - rest % 4, 4))
    return count, full, Columns(tuple(cut), rest)


def pack(weights: Array, blocks: tuple[int, Columns, Columns | None]) -> Array:
    """Weights (depth, columns) -> one run of (depth, width) for each block, flat."""
    count, full, rest = blocks
    depth = weights.shape[0]
    main = weights[:, : count * full.width].reshape(depth, count, full.width)
    runs = [np.ascontiguousarray(main.transpose(1, 0, 2)).reshape(-1)]
    if rest is not None:
        tail = weights[:, count * full.width :]
        runs.append(np.pad(tail, ((0, 0), (0, rest.width - rest.stored))).reshape(-1))
    return np.concatenate(runs)


class Accumulators:
    """A register tile of rows x block.width float32 sums."""

    def __init__(self, rows: int, block: Columns, bias: Buffer | None, bias_base: Expr) -> None:
        self.rows, self.block = rows, block
        self.buffer = local("float32", rows * block.width)
        for offset, lanes in block.vectors:
            start = (
                zeros(lanes) if bias is None else bind(load(bias, bias_base + index(offset), lanes))
            )
            for row in range(rows):
                store(self.buffer, row * block.width + offset, lanes, start)

    def multiply(
        self,
        depth: int,
        weights: Buffer,
        weight_base: Expr,
        weight_stride: int,
        *,
        source: Callable[[int, Expr], Expr],
        rows: Sequence[int],
        unroll: int,
    ) -> None:
        """Add ``source(row, k) * weights[weight_base + k * weight_stride ...]`` over k."""
        factor = next(f for f in (unroll, 4, 2, 1) if f <= unroll and depth % f == 0)
        with loop(depth // factor) as outer:
            for inner in range(factor):
                k = outer * index(factor) + index(inner)
                base = weight_base + k * index(weight_stride)
                vectors = [
                    bind(load(weights, base + index(offset), lanes))
                    for offset, lanes in self.block.vectors
                ]
                for row in rows:
                    scalar = bind(source(row, k))
                    self._add(row, scalar, vectors)

    def _add(self, row: int, scalar: Expr, vectors: Sequence[Expr]) -> None:
        for (offset, lanes), vector in zip(self.block.vectors, vectors, strict=True):
            at = ramp(row * self.block.width + offset, lanes)
            total = self.buffer[at] + splat(scalar, lanes) * vector
            store(self.buffer, row * self.block.width + offset, lanes, total)

    def finish(self, fusion: Fusion, row_of: Callable[[int], Expr], column: Expr) -> None:
        """Apply the followers and write the tile."""
        for row in range(self.rows):
            for offset, lanes in self.block.vectors:
                valid = min(lanes, self.block.stored - offset)
                for shift, width in pieces(valid, lanes):
                    at = row * self.block.width + offset + shift
                    fusion.finish(
                        load(self.buffer, at, width),
                        row_of(row),
                        column + index(offset + shift),
                        width,
                    )


def for_blocks(
    blocks: tuple[int, Columns, Columns | None],
    which: Expr,
    body: Callable[[Columns, Expr], None],
) -> None:
    """Emit ``body(block, number)`` for the block that ``which`` selects."""
    count, full, rest = blocks
    if rest is None:
        body(full, which)
        return
    if count == 0:
        body(rest, index(0))
        return
    with when(which < index(count)):
        body(full, which)
    with when(which >= index(count)):
        body(rest, index(count))


def for_parts(parts: list[int], which: Expr, body: Callable[[int, Expr], None]) -> None:
    """Emit ``body(size, start)`` for the part of ``split_evenly`` that ``which`` selects."""
    large, small = parts[0], parts[-1]
    count = parts.count(large)
    if large == small:
        body(large, which * index(large))
        return
    with when(which < index(count)):
        body(large, which * index(large))
    with when(which >= index(count)):
        body(small, index(count * large) + (which - index(count)) * index(small))


def streams_weights(weights: int, data: int, row_parts: int, blocks: int, target: Target) -> bool:
    """True if each block of weights should be read once, and the data again for each block.

    Sizes in floats. Compares what must come from beyond the last private cache.
    """
    cache = max(target.l2_bytes, 256 * 1024) // 8
    rows_outer = data + weights * (row_parts if weights > cache else 1)
    blocks_outer = weights + data * (blocks if data > cache else 1)
    return blocks_outer < rows_outer


def matmul(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """MatMul: (..., m, k) x (k, n) with constant weights, or a batch of both."""
    a, b = node.value(0), node.value(1)
    a_shape = a.shape if len(a.shape) > 1 else (1, *a.shape)
    b_shape = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    depth, columns = b_shape[-2:]
    if b.data is not None and all(size == 1 for size in b_shape[:-2]):
        weights = b.data.reshape(depth, columns)
        return packed_matmul(node, fusion, target, weights, rows=a.elements // depth)
    batch = tuple(np.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
    return _batched_matmul(node, fusion, target, (a_shape, b_shape, batch))


@dataclass(frozen=True)
class Tiling:
    """A matrix cut into parts of rows and blocks of columns."""

    tile: Tile
    blocks: tuple[int, Columns, Columns | None]
    parts: list[int]

    @classmethod
    def of(cls, target: Target, rows: int, columns: int, *, padded: bool) -> "Tiling":
        """The tiling for ``target``; ``padded`` as in ``column_blocks``."""
        tile = choose_tile(target, rows, columns)
        return cls(tile, column_blocks(columns, tile, padded=padded), split_evenly(rows, tile.rows))

    @property
    def n_blocks(self) -> int:
        """Blocks of columns, the remaining one included."""
        return self.blocks[0] + (self.blocks[2] is not None)

    def select(
        self, number: Expr, part: Expr, emit: Callable[[Columns, Expr, int, Expr], None]
    ) -> None:
        """Emit ``emit(block, its number, rows, first row)`` for a block number and a part."""
        for_blocks(
            self.blocks,
            number,
            lambda block, which: for_parts(
                self.parts, part, lambda size, start: emit(block, which, size, start)
            ),
        )


def packed_matmul(
    node: Node,
    fusion: Fusion,
    target: Target,
    weights: Array,
    *,
    rows: int,
    bias: Value | None = None,
) -> Lowering:
    """(rows, k) x constant weights (k, n): a task is one part of rows by one block of columns."""
    depth, columns = weights.shape
    tiling = Tiling.of(target, rows, columns, padded=True)
    packed = constant(f"{node.source}/packed", pack(weights, tiling.blocks))
    extra = [] if bias is None else [padded_bias(bias, tiling.blocks)]
    n_parts, n_blocks = len(tiling.parts), tiling.n_blocks
    blocks_outer = streams_weights(depth * columns, rows * depth, n_parts, n_blocks, target)
    unroll = 4 if target.arch == "aarch64" else 2

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, packed_buffer, *rest = buffers
        bias_buffer = rest[0] if bias is not None else None
        fusion.attach(rest[len(extra) :])
        inner = n_parts if blocks_outer else n_blocks
        first, second = tirx.indexdiv(task, index(inner)), tirx.indexmod(task, index(inner))
        part, number = (second, first) if blocks_outer else (first, second)

        def emit(block: Columns, which: Expr, size: int, start: Expr) -> None:
            column = bind(which * index(tiling.tile.columns))
            origin = bind(start * index(depth))
            sums = Accumulators(size, block, bias_buffer, column)
            sums.multiply(
                depth,
                packed_buffer,
                bind(column * index(depth)),
                block.width,
                source=lambda row, k: source[origin + k + index(row * depth)],
                rows=range(size),
                unroll=unroll,
            )
            sums.finish(fusion, lambda row: start + index(row), column)

        tiling.select(number, part, emit)

    tensors = [node.value(0), packed, *extra, *fusion.tensors]
    macs = rows * depth * columns
    return Lowering(build(tensors, body), tuple(tensors), n_parts * n_blocks, macs)


def padded_bias(bias: Value, blocks: tuple[int, Columns, Columns | None]) -> Value:
    """The bias with zeros for the columns that only padding computes."""
    assert bias.data is not None
    count, full, rest = blocks
    width = count * full.width + (rest.width if rest else 0)
    return constant(
        f"{bias.name}/padded", np.pad(bias.data.reshape(-1), (0, width - bias.elements))
    )


def _batched_matmul(
    node: Node,
    fusion: Fusion,
    target: Target,
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> Lowering:
    a_shape, b_shape, batch = shapes
    rows, depth = a_shape[-2:]
    columns = b_shape[-1]
    tiling = Tiling.of(target, rows, columns, padded=False)
    n_parts, n_blocks, batches = len(tiling.parts), tiling.n_blocks, int(np.prod(batch))
    whole = (*batch, 1)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        a, b, *rest = buffers
        fusion.attach(rest)
        number = tirx.indexmod(task, index(n_blocks))
        outer = bind(tirx.indexdiv(task, index(n_blocks)))
        part = tirx.indexmod(outer, index(n_parts))
        item = bind(tirx.indexdiv(outer, index(n_parts)))
        a_base = bind(broadcast_row((*a_shape[:-2], 1), whole, item) * index(rows * depth))
        b_base = bind(broadcast_row((*b_shape[:-2], 1), whole, item) * index(depth * columns))

        def emit(block: Columns, which: Expr, size: int, start: Expr) -> None:
            column = bind(which * index(tiling.tile.columns))
            origin = bind(a_base + start * index(depth))
            sums = Accumulators(size, block, None, column)
            sums.multiply(
                depth,
                b,
                b_base + column,
                columns,
                source=lambda row, k: a[origin + k + index(row * depth)],
                rows=range(size),
                unroll=2,
            )
            sums.finish(fusion, lambda row: item * index(rows) + start + index(row), column)

        tiling.select(number, part, emit)

    tensors = [node.value(0), node.value(1), *fusion.tensors]
    macs = batches * rows * depth * columns
    return Lowering(build(tensors, body), tuple(tensors), batches * n_parts * n_blocks, macs)

"""Matrix multiplication, and the register tile that convolution shares with it.

The tile is ``rows x columns`` of accumulators: rows are output pixels (or matrix rows), whose
inputs are broadcast; columns are output channels in vectors, whose weights were packed so that
the inner loop reads them in order. A 1x1 convolution is a matrix product over all pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node
from deepseek_edge.backends.tvm.schedules.blocks import Columns, Tiling, streams_weights
from deepseek_edge.backends.tvm.schedules.dot import Unit, float_unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion, broadcast_row
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
    literal,
    load,
    local,
    loop,
    pieces,
    store,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.schedules.weights import prepare
from deepseek_edge.target import Target


class Accumulators:
    """A register tile of rows x block.width sums.

    Args:
        start: what each channel's sum starts from, at ``start_base``; zeros if None.
    """

    def __init__(
        self, unit: Unit, rows: int, block: Columns, start: Buffer | None, start_base: Expr
    ) -> None:
        self.unit, self.rows, self.block = unit, rows, block
        self.buffer = local(unit.sum_type, rows * block.width)
        for offset, lanes in block.vectors:
            first = (
                literal(0, unit.sum_type, lanes)
                if start is None
                else bind(load(start, start_base + index(offset), lanes))
            )
            for row in range(rows):
                store(self.buffer, row * block.width + offset, lanes, first)

    def multiply(
        self,
        depth: int,
        weights: Buffer,
        weight_base: Expr,
        weight_stride: int,
        *,
        source: Buffer,
        address: Callable[[int, Expr], Expr],
        rows: Sequence[int],
        unroll: int,
        contiguous: bool = True,
    ) -> None:
        """Add ``source[address(row, k)] * weights[weight_base + k * weight_stride ...]`` over k.

        ``depth`` is a multiple of the unit's group; the weights beyond the real depth are zero.
        ``contiguous``: the inputs of successive k lie side by side.
        """
        unit = self.unit
        groups = depth // unit.group
        factor = next(f for f in (unroll, 4, 2, 1) if f <= unroll and groups % f == 0)
        by_lane = unit.lane if contiguous and factor == 4 else None
        with loop(groups // factor) as outer:
            first = outer * index(factor * unit.group)
            blocks = {
                row: bind(load(source, address(row, first), factor * unit.group))
                for row in (rows if by_lane else ())
            }
            for inner in range(factor):
                k = first + index(inner * unit.group)
                base = weight_base + k * index(weight_stride)
                vectors = [
                    unit.weights(weights, base + index(offset * unit.group), lanes)
                    for offset, lanes in self.block.vectors
                ]
                for row in rows:
                    if by_lane:
                        value = partial(by_lane, blocks[row], inner)
                    else:
                        value = partial(unit.broadcast, source, address(row, k))
                    self._multiply_row(row, value, vectors)

    def _multiply_row(self, row: int, value: Callable[[int], Any], vectors: Sequence[Expr]) -> None:
        """Add value(lanes) * vectors to a row's sums."""
        values: dict[int, Any] = {}
        for (offset, lanes), vector in zip(self.block.vectors, vectors, strict=True):
            if lanes not in values:
                values[lanes] = value(lanes)
            at = row * self.block.width + offset
            total = self.unit.accumulate(load(self.buffer, at, lanes), values[lanes], vector, lanes)
            store(self.buffer, at, lanes, total)

    def add(self, rows: Sequence[int], table: Buffer, base: Expr) -> None:
        """Add one vector of the table to the sums of some rows."""
        for offset, lanes in self.block.vectors if rows else ():
            vector = bind(load(table, base + index(offset), lanes))
            for row in rows:
                at = row * self.block.width + offset
                store(self.buffer, at, lanes, load(self.buffer, at, lanes) + vector)

    def finish(
        self,
        fusion: Fusion,
        row_of: Callable[[int], Expr],
        column: Expr,
        result: "Callable[[Expr, Expr, int], Expr]",
    ) -> None:
        """Turn sums into results, apply the followers and write the tile.

        ``result`` maps (sum, column, lanes) to the anchor's float result.
        """
        for row in range(self.rows):
            for offset, lanes in self.block.vectors:
                valid = min(lanes, self.block.stored - offset)
                for shift, width in pieces(valid, lanes):
                    at = row * self.block.width + offset + shift
                    place = column + index(offset + shift)
                    value = result(load(self.buffer, at, width), place, width)
                    fusion.finish(value, row_of(row), place, width)


def unroll_of(target: Target) -> int:
    """How many steps of the inner loop are written out."""
    return 4 if target.arch == "aarch64" else 2


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


def packed_matmul(
    node: Node, fusion: Fusion, target: Target, matrix: Array, *, rows: int
) -> Lowering:
    """(rows, k) x constant (k, n): a task is one part of rows by one block of columns."""
    depth, columns = matrix.shape
    items = node.attrs.get("items", 1)
    tiling = Tiling.of(target, rows, columns, padded=True, items=items)
    weights = prepare(node, target, matrix[None, None, None], tiling.blocks)
    n_parts, n_blocks = len(tiling.parts), tiling.n_blocks
    blocks_outer = streams_weights(depth * columns, rows * depth, n_parts, n_blocks, target)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, *rest = buffers
        fusion.attach(weights.attach(rest))
        inner = n_parts if blocks_outer else n_blocks
        first, second = tirx.indexdiv(task, index(inner)), tirx.indexmod(task, index(inner))
        part, number = (second, first) if blocks_outer else (first, second)

        def emit(block: Columns, which: Expr, size: int, start: Expr) -> None:
            column = bind(which * index(tiling.tile.columns))
            origin = bind(start * index(depth))
            sums = Accumulators(weights.unit, size, block, weights.buffers.get("start"), column)
            sums.multiply(
                weights.depth,
                weights.buffers["packed"],
                bind(column * index(weights.depth)),
                block.width,
                source=source,
                address=lambda row, k: origin + k + index(row * depth),
                rows=range(size),
                unroll=unroll_of(target),
            )
            sums.finish(fusion, lambda row: start + index(row), column, weights.result)

        tiling.select(number, part, emit)

    tensors = [node.value(0), *weights.tensors, *fusion.tensors]
    macs = rows * depth * columns
    return Lowering(build(tensors, body), tuple(tensors), n_parts * n_blocks, macs)


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
            sums = Accumulators(float_unit(target), size, block, None, column)
            sums.multiply(
                depth,
                b,
                b_base + column,
                columns,
                source=a,
                address=lambda row, k: origin + k + index(row * depth),
                rows=range(size),
                unroll=2,
            )
            sums.finish(
                fusion,
                lambda row: item * index(rows) + start + index(row),
                column,
                lambda total, column, lanes: total,
            )

        tiling.select(number, part, emit)

    tensors = [node.value(0), node.value(1), *fusion.tensors]
    macs = batches * rows * depth * columns
    return Lowering(build(tensors, body), tuple(tensors), batches * n_parts * n_blocks, macs)

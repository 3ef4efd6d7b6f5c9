"""Matrix multiplication; a 1x1 convolution is a matrix product over all pixels."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.choice import Choice
from deepseek_edge.backends.tvm.graph import Array, Node
from deepseek_edge.backends.tvm.schedules.accumulators import (
    Products,
    accumulators,
    prefetch_of,
    unroll_of,
)
from deepseek_edge.backends.tvm.schedules.activations import activation_product
from deepseek_edge.backends.tvm.schedules.blocks import Columns, Tiling, streams_weights
from deepseek_edge.backends.tvm.schedules.dot import float_unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion, broadcast_row
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    index,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, ceil_div
from deepseek_edge.backends.tvm.schedules.weights import prepare, unit_of
from deepseek_edge.target import Target


def matmul(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """MatMul: (..., m, k) x (k, n) with constant weights, or a batch of both."""
    a, b = node.value(0), node.value(1)
    if node.op == "IntegerMatMul" and b.data is None:
        return activation_product(node, fusion, target)
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
    each = ceil_div(rows, items)
    paired = unit_of(node, target, depth, each).paired
    choice = fusion.step.choice
    tiling = Tiling.of(
        target, rows, columns, padded=True, items=items, paired=paired, choice=choice
    )
    weights = prepare(node, target, matrix[None, None, None], tiling.blocks, each)
    n_parts, n_blocks = len(tiling.parts), tiling.n_blocks
    blocks_outer = choice.blocks_outer
    if blocks_outer is None:
        blocks_outer = streams_weights(depth * columns, rows * depth, n_parts, n_blocks, target)
    unroll = choice.unroll or unroll_of(target, weights.unit)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, *rest = buffers
        fusion.attach(weights.attach(rest))
        inner = n_parts if blocks_outer else n_blocks
        first, second = tirx.indexdiv(task, index(inner)), tirx.indexmod(task, index(inner))
        part, number = (second, first) if blocks_outer else (first, second)

        def emit(block: Columns, which: Expr, size: int, start: Expr) -> None:
            column = bind(which * index(tiling.tile.columns))
            origin = bind(start * index(depth))
            sums = accumulators(weights.unit, size, block, weights.buffers.get("start"), column)
            products = Products(
                weights.depth,
                weights.buffers["packed"],
                bind(column * index(weights.depth)),
                block.width,
                source=source,
                address=lambda row, k: origin + k + index(row * depth),
                rows=range(size),
            )
            ahead = prefetch_of(target) if blocks_outer and n_parts > 1 else 0
            sums.multiply(products, unroll=unroll, ahead=ahead)
            sums.finish(fusion, lambda row: start + index(row), column, weights.result)

        tiling.select(number, part, emit)

    tensors = [node.value(0), *weights.tensors, *fusion.tensors]
    macs = rows * depth * columns
    chosen = Choice(None, tiling.tile.rows, tiling.tile.vectors, blocks_outer, unroll)
    return Lowering(build(tensors, body), tuple(tensors), n_parts * n_blocks, macs, chosen)


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
            sums = accumulators(float_unit(target), size, block, None, column)
            products = Products(
                depth,
                b,
                b_base + column,
                columns,
                source=a,
                address=lambda row, k: origin + k + index(row * depth),
                rows=range(size),
            )
            sums.multiply(products, unroll=2)
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

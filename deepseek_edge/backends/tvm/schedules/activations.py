"""Products of two int8 activations, as attention has them.

For x = (q - z) s and y = (p - w) t the sum over k of (q - z)(p - w) is

    sum(q p) - z sum(p) - w sum(q) + K z w

where sum(p) belongs to a column and sum(q) to a row. A task packs one block of columns of the
second operand on its stack, as weights are packed at compile time, and multiplies all rows by it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.schedules.accumulators import accumulators, unroll_of
from deepseek_edge.backends.tvm.schedules.arithmetic import constant_vector
from deepseek_edge.backends.tvm.schedules.blocks import Columns, Tiling, for_blocks
from deepseek_edge.backends.tvm.schedules.dot import Unit, activation_unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion, broadcast_row
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    element_type,
    index,
    literal,
    load,
    local,
    loop,
    pieces,
    rounded,
    store,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.target import Target


def activation_product(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """IntegerMatMul of two activations: (..., m, k) x (..., k, n), k up to LONGEST_PRODUCT."""
    a, b, factor = (node.value(place) for place in range(3))
    rows, depth = a.shape[-2:]
    columns = b.shape[-1]
    lead = tuple(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    batches = int(np.prod(lead))
    tiling = Tiling.of(target, rows, columns, padded=True)
    unit = activation_unit(target)
    zero, second_zero = node.attrs["zero_point"], node.attrs["second_zero_point"]
    assert factor.data is not None
    scale = factor.data

    def result(total: Expr, column: Expr, lanes: int) -> Expr:
        del column
        value = tirx.Cast("float32" if lanes == 1 else f"float32x{lanes}", total)
        return rounded(value * constant_vector(scale, lanes), lanes)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        first, second, *rest = buffers
        fusion.attach(rest)
        number = tirx.indexmod(task, index(tiling.n_blocks))
        item = bind(tirx.indexdiv(task, index(tiling.n_blocks)))
        whole = (*lead, 1)
        a_base = bind(broadcast_row((*a.shape[:-2], 1), whole, item) * index(rows * depth))
        b_base = bind(broadcast_row((*b.shape[:-2], 1), whole, item) * index(depth * columns))

        def emit(block: Columns, which: Expr) -> None:
            column = bind(which * index(tiling.tile.columns))
            operand = _Operand(second, bind(b_base + column), depth, columns)
            packed, start = operand.pack(unit, block, zero, second_zero)

            def tile(size: int, row: Expr) -> None:
                origin = bind(a_base + row * index(depth))
                sums = accumulators(unit, size, block, start, index(0))
                sums.multiply(
                    depth + -depth % unit.group,
                    packed,
                    index(0),
                    block.width,
                    source=first,
                    address=lambda row, k: origin + k + index(row * depth),
                    rows=range(size),
                    unroll=unroll_of(target),
                )
                for number in range(size if second_zero else 0):
                    total = _row_sum(first, origin + index(number * depth), depth)
                    sums.add_to_row(number, total * literal(-second_zero, "int32", 1))
                base = item * index(rows) + row
                sums.finish(fusion, lambda number: base + index(number), column, result)

            _for_tiles(tiling.parts, tile)

        for_blocks(tiling.blocks, number, emit)

    tensors = [a, b, *fusion.tensors]
    tasks = batches * tiling.n_blocks
    return Lowering(build(tensors, body), tuple(tensors), tasks, batches * rows * depth * columns)


def _for_tiles(parts: Sequence[int], tile: Callable[[int, Expr], None]) -> None:
    """Emit ``tile(rows, first row)`` for all parts, a loop for each height."""
    start = 0
    for size in sorted(set(parts), reverse=True):
        count = parts.count(size)
        with loop(count) as number:
            tile(size, bind(index(start) + number * index(size)))
        start += count * size


def _row_sum(buffer: Buffer, base: Expr, depth: int) -> Expr:
    """The sum of ``depth`` consecutive integers."""
    total = local("int32", 1)
    store(total, 0, 1, literal(0, "int32", 1))
    for offset, lanes in pieces(depth, 16):
        value = load(buffer, base + index(offset), lanes)
        if lanes > 1:
            wide = tirx.Cast(f"int32x{lanes}", value)
            value = tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.add.v{lanes}i32", wide)
        store(total, 0, 1, load(total, 0, 1) + tirx.Cast("int32", value))
    return bind(load(total, 0, 1))


class _Operand:
    """A block of columns of the second operand: element (k, i) at base + k * stride + i."""

    def __init__(self, buffer: Buffer, base: Expr, depth: int, stride: int) -> None:
        self.buffer, self.base, self.depth, self.stride = buffer, base, depth, stride

    def pack(
        self, unit: Unit, block: Columns, zero: int, second_zero: int
    ) -> tuple[Buffer, Buffer | None]:
        """The packed block, as ``blocks.pack`` does it, and what sums start from.

        Columns beyond the matrix hold whatever lies there; their sums are never stored.
        """
        groups, rest = divmod(self.depth, unit.group)
        packed = local("int8", (groups + bool(rest)) * unit.group * block.width)
        start = local("int32", block.width)
        for offset, lanes in block.vectors:
            first = literal(self.depth * zero * second_zero, "int32", lanes)
            store(start, offset, lanes, first)

            def group(number: Expr, present: int, offset: int = offset, lanes: int = lanes) -> None:
                k = number * index(unit.group)
                rows = [self._load(k + index(i), offset, lanes) for i in range(present)]
                for row in rows if zero else ():
                    wide = tirx.Cast(f"int32x{lanes}", row) * literal(zero, "int32", lanes)
                    store(start, offset, lanes, load(start, offset, lanes) - wide)
                rows += [literal(0, "int8", lanes)] * (unit.group - present)
                places = np.arange(unit.group * lanes).reshape(1, unit.group, lanes)
                order = unit.arrange(places.transpose(0, 2, 1)).reshape(-1)
                vector = tirx.Shuffle(rows, [tirx.const(int(i), "int32") for i in order])
                at = k * index(block.width) + index(offset * unit.group)
                store(packed, at, unit.group * lanes, vector)

            if groups:
                with loop(groups) as number:
                    group(number, unit.group)
            if rest:
                group(index(groups), rest)
        return packed, start if zero else None

    def _load(self, k: Expr, offset: int, lanes: int) -> Expr:
        """One row as int8, whatever its storage is."""
        at = self.base + k * index(self.stride) + index(offset)
        value = load(self.buffer, at, lanes)
        dtype = f"int8x{lanes}"
        if element_type(value) == "uint8":  # holds value + 128
            value = tirx.bitwise_xor(value, literal(128, "uint8", lanes))
            return bind(tirx.reinterpret(dtype, value))
        return bind(value if element_type(value) == "int8" else tirx.Cast(dtype, value))

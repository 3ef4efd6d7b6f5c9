"""Products of two int8 activations, as attention has them.

For x = (q - z) s and y = (p - w) t the sum over k of (q - z)(p - w) is

    sum(q p) - z sum(p) - w sum(q) + K z w

where sum(p) belongs to a column and sum(q) to a row. A task packs one block of columns of the
second operand on its stack, as weights are packed at compile time, and multiplies all rows by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules.accumulators import (
    Accumulators,
    Products,
    accumulators,
    unroll_of,
)
from deepseek_edge.backends.tvm.schedules.arithmetic import constant_vector
from deepseek_edge.backends.tvm.schedules.blocks import Columns, Tiling, for_blocks
from deepseek_edge.backends.tvm.schedules.dot import Unit, activation_unit
from deepseek_edge.backends.tvm.schedules.functions import converted
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
    select,
    store,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.target import Target


def activation_product(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """IntegerMatMul of two activations: (..., m, k) x (..., k, n), k up to LONGEST_PRODUCT."""
    return _Product(node, fusion, target).lower()


@dataclass
class _Product:
    """A task is one matrix of the batch by one block of columns."""

    node: Node
    fusion: Fusion
    target: Target

    def lower(self) -> Lowering:
        self.a, self.b = self.node.value(0), self.node.value(1)
        self.rows, self.depth = self.a.shape[-2:]
        self.columns = self.b.shape[-1]
        self.lead = tuple(np.broadcast_shapes(self.a.shape[:-2], self.b.shape[:-2]))
        self.tiling = Tiling.of(self.target, self.rows, self.columns, padded=True)
        self.unit = activation_unit(self.target)
        batches = int(np.prod(self.lead))
        tensors = [self.a, self.b, *self.fusion.tensors]
        macs = batches * self.rows * self.depth * self.columns
        tasks = batches * self.tiling.n_blocks
        return Lowering(build(tensors, self._task), tuple(tensors), tasks, macs)

    def _task(self, buffers: Sequence[Buffer], task: Expr) -> None:
        first, second, *rest = buffers
        self.fusion.attach(rest)
        number = tirx.indexmod(task, index(self.tiling.n_blocks))
        item = bind(tirx.indexdiv(task, index(self.tiling.n_blocks)))
        source, base = (self._start(value, item) for value in (self.a, self.b))

        def emit(block: Columns, which: Expr) -> None:
            column = bind(which * index(self.tiling.tile.columns))
            operand = _Operand(second, bind(base + column), self.depth, self.columns)
            packed, start = operand.pack(self.unit, block, *self._zero_points())

            def tile(size: int, row: Expr) -> None:
                sums = accumulators(self.unit, size, block, start, index(0))
                self._multiply(sums, first, bind(source + row * index(self.depth)), packed)
                base = item * index(self.rows) + row
                sums.finish(self.fusion, lambda number: base + index(number), column, self._result)

            _for_tiles(self.tiling.parts, tile)

        for_blocks(self.tiling.blocks, number, emit)

    def _start(self, value: Value, item: Expr) -> Expr:
        """Where the matrix of a batch item starts."""
        row = broadcast_row((*value.shape[:-2], 1), (*self.lead, 1), item)
        return bind(row * index(value.shape[-2] * value.shape[-1]))

    def _zero_points(self) -> tuple[int, int]:
        return self.node.attrs["zero_point"], self.node.attrs["second_zero_point"]

    def _multiply(self, sums: Accumulators, first: Buffer, origin: Expr, packed: Buffer) -> None:
        sums.multiply(
            Products(
                self.depth + -self.depth % self.unit.group,
                packed,
                index(0),
                sums.block.width,
                source=first,
                address=lambda row, k: origin + k + index(row * self.depth),
                rows=range(sums.rows),
            ),
            unroll=unroll_of(self.target, self.unit),
        )
        _, second_zero = self._zero_points()
        for row in range(sums.rows if second_zero else 0):
            total = _row_sum(first, origin + index(row * self.depth), self.depth)
            sums.add_to_row(row, total * literal(-second_zero, "int32", 1))

    def _result(self, total: Expr, column: Expr, lanes: int) -> Expr:
        del column
        factor = self.node.value(2).data
        assert factor is not None
        value = converted(total, lanes, "float32")
        return rounded(value * constant_vector(factor, lanes), lanes)


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
                vector = select(rows, order.tolist())
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

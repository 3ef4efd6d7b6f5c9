"""The register tile of a contraction, which matrix products and convolutions share.

The tile is ``rows x columns`` of accumulators: rows are output pixels (or matrix rows), whose
inputs are broadcast; columns are output channels in vectors, whose weights were packed so that
the inner loop reads them in order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepseek_edge.backends.tvm.schedules.blocks import Columns
from deepseek_edge.backends.tvm.schedules.dot import MADD, Unit
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    index,
    lanes_of,
    literal,
    load,
    local,
    loop,
    pieces,
    prefetch,
    select,
    splat,
    store,
)
from deepseek_edge.target import Target

CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Products:
    """What a tile adds up: each row's inputs times the weights of all columns, over k.

    Attributes:
        depth: of the sum, a multiple of the unit's group; weights beyond the real one are zero.
        weights: those of k begin at ``weight_base + k * weight_stride``.
        source: the input of a row and k lies at ``address(row, k)``.
        rows: those of the tile that take part.
        contiguous: the inputs of successive k lie side by side.
    """

    depth: int
    weights: Buffer
    weight_base: Expr
    weight_stride: int
    source: Buffer
    address: Callable[[int, Expr], Expr]
    rows: Sequence[int]
    contiguous: bool = True

    def weights_at(self, k: Expr) -> Expr:
        """Where the weights of k begin."""
        return self.weight_base + k * index(self.weight_stride)

    def load(self, row: int, k: Expr, length: int) -> Expr:
        """A row's inputs of ``length`` successive k."""
        return load(self.source, self.address(row, k), length)


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
                store(self.buffer, self._at(row, offset), lanes, first)

    def _at(self, row: int, column: int) -> int:
        """Where a row's sum of a column lies; the columns of a vector lie side by side."""
        return row * self.block.width + column

    def multiply(self, products: Products, *, unroll: int, ahead: int = 0) -> None:
        """Add them all up, ``unroll`` groups in the body of a loop.

        ``ahead``: how many bytes before their use weights are fetched, 0 to leave that to the
        processor.
        """
        unit, rows = self.unit, products.rows
        by_lane = unit.lane if products.contiguous else None
        groups = products.depth // unit.group
        # By lane a rest, written out behind the loop, is worth its code, unless that spills.
        lot = _lot(groups, unroll, divides=by_lane is None or unit.widens)

        def step(number: int, k: Expr, values: Mapping[int, Callable[[int], Any]]) -> None:
            base = products.weights_at(k)
            vectors = [
                unit.weights(products.weights, base + index(offset * unit.group), lanes)
                for offset, lanes in self.block.vectors
            ]
            if ahead:
                # Here, not once for all steps of the loop: there LLVM spills sums.
                each = unit.group * products.weight_stride
                _prefetch(products.weights, base, number, each, ahead)
            for row, value in values.items():
                self.multiply_row(row, value, vectors)

        def steps(first: Expr, count: int) -> None:
            for shift, width in pieces(count, 4 if by_lane else 1):
                k = [first + index((shift + n) * unit.group) for n in range(width)]
                if by_lane is None or width == 1:
                    read = partial(unit.broadcast, products.source)
                    step(shift, k[0], {r: partial(read, products.address(r, k[0])) for r in rows})
                    continue
                blocks = {r: bind(products.load(r, k[0], width * unit.group)) for r in rows}
                for n in range(width):
                    step(shift + n, k[n], {r: partial(by_lane, blocks[r], n) for r in rows})

        count, rest = divmod(groups, lot)
        with loop(count) as outer:
            steps(outer * index(lot * unit.group), lot)
        steps(index(count * lot * unit.group), rest)

    def multiply_row(self, row: int, value: Callable[[int], Any], vectors: Sequence[Expr]) -> None:
        """Add value(lanes) * vectors to a row's sums."""
        values: dict[int, Any] = {}
        for (offset, lanes), vector in zip(self.block.vectors, vectors, strict=True):
            if lanes not in values:
                values[lanes] = value(lanes)
            at = self._at(row, offset)
            total = self.unit.accumulate(load(self.buffer, at, lanes), values[lanes], vector, lanes)
            store(self.buffer, at, lanes, total)

    def add(self, rows: Sequence[int], table: Buffer, base: Expr) -> None:
        """Add one vector of the table to the sums of some rows."""
        for offset, lanes in self.block.vectors if rows else ():
            vector = bind(load(table, base + index(offset), lanes))
            for row in rows:
                at = self._at(row, offset)
                store(self.buffer, at, lanes, load(self.buffer, at, lanes) + vector)

    def add_to_row(self, row: int, value: Expr) -> None:
        """Add one number to all sums of a row."""
        for offset, lanes in self.block.vectors:
            at = self._at(row, offset)
            store(self.buffer, at, lanes, load(self.buffer, at, lanes) + splat(value, lanes))

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
            for offset, parts in self._finished_at_once(fusion.target):
                sums = [load(self.buffer, self._at(row, o), lanes) for o, lanes in parts]
                width = sum(lanes for _, lanes in parts)
                total = sums[0] if len(sums) == 1 else select(sums, range(width))
                place = column + index(offset)
                fusion.finish(result(total, place, width), row_of(row), place, width)

    def _finished_at_once(self, target: Target) -> list[tuple[int, list[tuple[int, int]]]]:
        """(column, vectors by column and lanes): of a row's integers, two vectors at a time.

        They are narrowed to a quarter or half of their width, whose registers then are full.
        """
        valid = [
            (offset + shift, width)
            for offset, lanes in self.block.vectors
            for shift, width in pieces(min(lanes, self.block.stored - offset), lanes)
        ]
        joined: list[tuple[int, list[tuple[int, int]]]] = []
        for offset, lanes in valid:
            before = joined[-1][1] if joined else []
            full = 32 * lanes == target.vector_bits < 512 and self.unit.is_integer
            if full and len(before) == 1 and before[0][1] == lanes:
                before.append((offset, lanes))
            else:
                joined.append((offset, [(offset, lanes)]))
        return joined


class PairedAccumulators(Accumulators):
    """The same for instructions that multiply two rows by two columns, ``unit.group`` deep.

    A register holds a 2x2 block of sums until ``finish`` sorts them into rows. Where one row of
    a pair isn't there, its inputs are zeros.
    """

    def __init__(
        self, unit: Unit, rows: int, block: Columns, start: Buffer | None, start_base: Expr
    ) -> None:
        self.unit, self.rows, self.block = unit, rows, block
        self.buffer = local(unit.sum_type, (rows + rows % 2) * block.width)
        for place in range(0, (rows + rows % 2) * block.width, 4):
            store(self.buffer, place, 4, literal(0, unit.sum_type, 4))
        if start is not None:
            self.add(range(rows + rows % 2), start, start_base)

    def _at(self, row: int, column: int) -> int:
        within = column % 4
        return self._block(row // 2, column - within) + 4 * (row % 2) + within

    def _block(self, pair: int, column: int) -> int:
        """Where the 2x2 block of a pair of rows and of two columns lies."""
        return 2 * (pair * self.block.width + column)

    def multiply(self, products: Products, *, unroll: int, ahead: int = 0) -> None:
        """As ``Accumulators.multiply``; the inputs of successive k must be contiguous."""
        assert products.contiguous
        del unroll, ahead
        group = self.unit.group

        def emit(k: Expr, steps: int) -> None:
            length = steps * group
            values = {
                pair: _pairs(
                    [
                        bind(products.load(row, k, length))
                        if row in products.rows
                        else literal(0, "int8", length)
                        for row in (2 * pair, 2 * pair + 1)
                    ],
                    group,
                )
                for pair in _pairs_of(products.rows)
            }
            for step in range(steps):
                base = products.weights_at(k + index(step * group))
                for column in range(0, self.block.width, 2):
                    vector = self.unit.weights(products.weights, base + index(column * group), 4)
                    for pair, vectors in values.items():
                        at = self._block(pair, column)
                        total = load(self.buffer, at, 4)
                        total = self.unit.accumulate(total, vectors[step], vector, 4)
                        store(self.buffer, at, 4, total)

        # A load of each row serves two steps.
        twice, once_more = divmod(products.depth // group, 2)
        if twice:
            with loop(twice) as i:
                emit(i * index(2 * group), 2)
        if once_more:
            emit(index(2 * twice * group), 1)

    def add(self, rows: Sequence[int], table: Buffer, base: Expr) -> None:
        """As ``Accumulators.add``."""
        nothing = literal(0, self.unit.sum_type, 4)
        for offset, lanes in self.block.vectors if rows else ():
            vector = bind(load(table, base + index(offset), lanes))
            for pair in _pairs_of(rows):
                for half in (0, 2):
                    places = [
                        place
                        for row in (2 * pair, 2 * pair + 1)
                        for place in ([half, half + 1] if row in rows else [4, 5])
                    ]
                    at = self._block(pair, offset + half)
                    both = select([vector, nothing], places)
                    store(self.buffer, at, 4, load(self.buffer, at, 4) + both)

    def finish(
        self,
        fusion: Fusion,
        row_of: Callable[[int], Expr],
        column: Expr,
        result: "Callable[[Expr, Expr, int], Expr]",
    ) -> None:
        """As ``Accumulators.finish``."""
        for pair in _pairs_of(range(self.rows)):
            for offset, _ in self.block.vectors:
                at = self._block(pair, offset)
                blocks = [bind(load(self.buffer, at + 4 * half, 4)) for half in range(2)]
                store(self.buffer, at, 4, select(blocks, [0, 1, 4, 5]))
                store(self.buffer, at + 4, 4, select(blocks, [2, 3, 6, 7]))
        super().finish(fusion, row_of, column, result)


def _pairs_of(rows: Sequence[int]) -> list[int]:
    return sorted({row // 2 for row in rows})


def _pairs(rows: Sequence[Expr], group: int) -> list[Expr]:
    """For each step of two rows' inputs: ``group`` of the first, then of the second."""
    length = lanes_of(rows[0])
    steps = [range(first, first + group) for first in range(0, length, group)]
    return [bind(select(rows, [*step, *(length + k for k in step)])) for step in steps]


def accumulators(
    unit: Unit, rows: int, block: Columns, start: Buffer | None, start_base: Expr
) -> Accumulators:
    """The register tile as ``unit`` needs it; arguments as of ``Accumulators``."""
    kind = PairedAccumulators if unit.paired else Accumulators
    return kind(unit, rows, block, start, start_base)


def _lot(groups: int, unroll: int, *, divides: bool) -> int:
    """How many groups of a sum a loop's body adds; a divisor of all, if ``divides``."""
    if not divides:
        return min(unroll, groups)
    return next(f for f in (unroll, 4, 2, 1) if f <= unroll and groups % f == 0)


def unroll_of(target: Target, unit: Unit) -> int:
    """How many steps of the inner loop are written out.

    Eight take 3 % off a network's instructions on ARM; what widens its products spills in them.
    """
    if target.arch != "aarch64":
        return 1 if unit is MADD else 2
    return 4 if unit.widens else 8


def prefetch_of(target: Target) -> int:
    """How many bytes ahead of their use streamed weights are fetched, 0 for not at all.

    Hardware prefetchers stop at the end of a 4 KB page. On Zen 5 EfficientNet-Lite0, ResNet-50
    and MiniLM take 7, 9 and 16 % longer without; 4 KB ahead does as well as 8. Where weights
    stay in L2 it gains nothing. On ARM nothing was measured, so nothing is spent.
    """
    return 8192 if target.arch == "x86_64" else 0


def _prefetch(weights: Buffer, base: Expr, step: int, elements: int, ahead: int) -> None:
    """Ask for each cache line that begins in an unrolled step of ``elements`` at ``base``."""
    size = np.dtype(weights.dtype).itemsize
    line, first = CACHE_LINE // size, step * elements
    for place in range(-(-first // line) * line, first + elements, line):
        prefetch(weights, base + index(place - first + ahead // size))

"""Cutting a contraction into register tiles: parts of rows by blocks of columns."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.backends.tvm.graph import Array
from deepseek_edge.backends.tvm.schedules.dot import Unit
from deepseek_edge.backends.tvm.schedules.kernel import Expr, index, pieces, when
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div
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


def choose_tile(target: Target, rows: int, columns: int, items: int = 1) -> Tile:
    """The tile that keeps the multipliers busy within the register file.

    Weights and broadcasts stay beside the accumulators. Ten rows of two 512-bit vectors are 20 of
    32 registers: with 14 rows LLVM runs out of them, which costs INT8 nets 13 to 24 % on Zen 5 and
    float ones up to 5. With few rows the tile
    grows in columns instead, so that enough independent sums hide the multiplier's latency.
    The width follows from the rows of one of the batch's ``items``: it says how weights are
    packed, which all batch sizes share.
    """
    lanes = min(target.vector_bits // 32, 16)
    while lanes > 4 and columns <= lanes // 2:
        lanes //= 2
    vectors = min(2, ceil_div(columns, lanes))
    most = 8 if target.arch == "aarch64" else (target.vector_registers - 4) // max(vectors, 1)
    most = max(1, min(most, 10))
    sums, few = most * vectors, ceil_div(rows, items)
    if few * vectors * 2 <= most:
        vectors = max(1, min(most // few, ceil_div(columns, lanes), 8))
    return Tile(min(rows, max(1, sums // vectors)), vectors, lanes)


def split_full(length: int, most: int) -> list[int]:
    """Cut ``length`` into parts of ``most`` and what remains."""
    full, rest = divmod(length, most)
    return [most] * full + [rest] * (rest > 0)


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


Blocks = tuple[int, Columns, Columns | None]


def column_blocks(columns: int, tile: Tile, *, padded: bool) -> Blocks:
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


def pack(weights: Array, blocks: Blocks, unit: Unit) -> Array:
    """Weights (depth, columns) -> one run for each block, flat.

    A run is (depth / group, width, group), padded with zeros and arranged as ``unit`` reads it.
    """
    count, full, rest = blocks
    depth = weights.shape[0]
    padded = np.pad(weights, ((0, -depth % unit.group), (0, 0)))
    grouped = padded.reshape(-1, unit.group, weights.shape[1]).transpose(0, 2, 1)
    runs = [
        unit.arrange(grouped[:, number * full.width : (number + 1) * full.width])
        for number in range(count)
    ]
    if rest is not None:
        tail = grouped[:, count * full.width :]
        runs.append(unit.arrange(np.pad(tail, ((0, 0), (0, rest.width - rest.stored), (0, 0)))))
    return np.concatenate([run.reshape(-1) for run in runs])


def padded_width(blocks: Blocks) -> int:
    """Columns of all blocks, padding included."""
    count, full, rest = blocks
    return count * full.width + (rest.width if rest else 0)


def for_blocks(
    blocks: Blocks,
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


def part_start(parts: list[int], which: Expr) -> Expr:
    """The first row of a part of ``split_evenly``; for one behind the last, the number of rows."""
    large, small = parts[0], parts[-1]
    if large == small:
        return which * index(large)
    larger = tirx.min(which, index(parts.count(large)))
    return which * index(small) + larger * index(large - small)


def streams_weights(weights: int, data: int, row_parts: int, blocks: int, target: Target) -> bool:
    """True if each block of weights should be read once, and the data again for each block.

    Sizes in floats. Compares what must come from beyond the last private cache.
    """
    cache = max(target.l2_bytes, 256 * 1024) // 8
    rows_outer = data + weights * (row_parts if weights > cache else 1)
    blocks_outer = weights + data * (blocks if data > cache else 1)
    return blocks_outer < rows_outer


@dataclass(frozen=True)
class Tiling:
    """A matrix cut into parts of rows and blocks of columns."""

    tile: Tile
    blocks: Blocks
    parts: list[int]

    @classmethod
    def of(
        cls,
        target: Target,
        rows: int,
        columns: int,
        *,
        padded: bool,
        items: int = 1,
        paired: bool = False,
        choice: Choice = BY_MODEL,
    ) -> "Tiling":
        """The tiling for ``target``, or a chosen one; ``padded`` as in ``column_blocks``.

        ``paired``: rows are multiplied in pairs, so that only one tile should have an odd one.
        """
        tile = choose_tile(target, rows, columns, items)
        tile = replace(
            tile,
            rows=min(rows, choice.rows or tile.rows),
            vectors=min(choice.vectors or tile.vectors, ceil_div(columns, tile.lanes)),
        )
        split = split_full if paired else split_evenly
        return cls(tile, column_blocks(columns, tile, padded=padded), split(rows, tile.rows))

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

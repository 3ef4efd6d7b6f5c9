"""Which tile of a matrix product a block computes: the least of an estimate of the time.

The estimate counts cycles of one multiprocessor: what its tensor cores and its share of the second
cache need for a slice, or the latency that the buffers don't hide; times slices, times rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deepseek_edge.backends.tvm.cuda.launch import MOST_COUNTERS, Board
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div

# (BM, BN, warps along m, warps along n): at most 64 x 32 results a warp, which fit its registers.
_SHAPES = (
    (128, 128, 2, 4),
    (128, 64, 4, 2),
    (64, 128, 2, 4),
    (64, 64, 2, 2),
    (128, 32, 4, 1),
    (32, 128, 1, 4),
    (64, 32, 4, 1),
    (32, 64, 2, 2),
    (32, 32, 2, 2),
    (16, 64, 1, 4),
    (64, 16, 4, 1),
    (128, 16, 4, 1),
    (16, 128, 1, 4),
)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Of one multiprocessor and cycle; measured figures are within a factor of two of these.
_MACS = {"half": 512, "int8": 1024}
_BYTES = 48.0
_LATENCY = 900  # of a slice that comes from memory
_BLOCK = 1500  # starting a block, its addresses, and writing its results
_JOIN = 2500  # until the last block of a tile has seen all others' sums


@dataclass(frozen=True)
class Product:
    """Sizes of a matrix product: (m, k) x (k, n), ``groups`` times; k in bytes."""

    m: int
    n: int
    k_bytes: int
    groups: int
    element_bytes: int


@dataclass(frozen=True)
class Tile:
    """As mma_gemm.cuh takes it."""

    bm: int
    bn: int
    warps_m: int
    warps_n: int
    bk: int
    stages: int
    splits: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        """Buffers, and then the results in their place."""
        return max(self.stages * (self.bm + self.bn) * self.bk, self.bm * (self.bn + 8) * 4)


def choose_tile(product: Product, board: Board) -> Tile:
    """The tile of the least estimate; the earlier of equals."""
    tiles = [tile for tile in _tiles(product) if tile.shared_bytes <= board.shared_bytes]
    return min(tiles, key=lambda tile: estimate_cycles(product, tile, board))


def _tiles(product: Product) -> Iterator[Tile]:
    bk = slice_bytes(product.k_bytes)
    slices = ceil_div(product.k_bytes, bk)
    for bm, bn, warps_m, warps_n in _SHAPES:
        blocks = ceil_div(product.m, bm) * ceil_div(product.n, bn) * product.groups
        for splits in _SPLITS:
            if splits > 1 and (slices // splits < 2 or blocks > MOST_COUNTERS):
                break
            stages = min(4, max(2, ceil_div(slices, splits)))
            yield Tile(bm, bn, warps_m, warps_n, bk, stages, splits)


def slice_bytes(k_bytes: int) -> int:
    """Bytes of k in a buffer: as long as little of them is padding."""
    return min((128, 64, 32), key=lambda bk: (ceil_div(k_bytes, bk) * bk * (1 + 8 / bk), -bk))


def estimate_cycles(product: Product, tile: Tile, board: Board) -> float:
    """Of the whole product on this GPU."""
    blocks = ceil_div(product.m, tile.bm) * ceil_div(product.n, tile.bn)
    blocks *= product.groups * tile.splits
    fits = max(1, min(board.shared_bytes // tile.shared_bytes, 1536 // tile.threads))
    each = ceil_div(blocks, board.multiprocessors)
    together, rounds = min(each, fits), ceil_div(each, fits)
    slices = ceil_div(ceil_div(product.k_bytes, tile.bk), tile.splits)
    macs = tile.bm * tile.bn * tile.bk / product.element_bytes
    rate = float(_MACS["int8" if product.element_bytes == 1 else "half"])
    # A few warps alone don't keep all four tensor cores busy.
    rate *= min(1.0, together * tile.threads / 256)
    work = together * max(macs / rate, (tile.bm + tile.bn) * tile.bk / _BYTES)
    step = max(work, _LATENCY / max(1, tile.stages - 1))
    results = together * tile.bm * tile.bn * 4 / _BYTES
    join = (_JOIN + results * 2) if tile.splits > 1 else 0.0
    return rounds * (slices * step + _LATENCY + _BLOCK + results + join)

"""Which channels go: tiles of each group, in the order of their importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepseek_edge.compression.counting import Ranking, lengths
from deepseek_edge.compression.flow import Axis
from deepseek_edge.compression.importance import Scores

Scope = Literal["global", "layer"]
Counter = Callable[[Ranking, dict[Axis, int]], int]


@dataclass(frozen=True)
class Tile:
    """The next units of a group that can go while its layers keep whole tiles.

    Attributes:
        group: its index.
        gone: how many of the group's units are gone with this tile and those before it.
        score: of its units, on average.
    """

    group: int
    gone: int
    score: float


def find_tiles(ranking: Ranking, scores: Sequence[Scores], round_to: int) -> list[list[Tile]]:
    """Cut each group into tiles; the last tile of a group, which always stays, isn't listed.

    Args:
        ranking: the order of units.
        scores: of units, comparable between groups.
        round_to: outputs of a layer that has lost some are a multiple of this, at least one.
    """
    found = []
    for index, (group, losses) in enumerate(zip(ranking.graph.groups, ranking.losses, strict=True)):
        sizes = {axis: ranking.graph.shapes[axis[0]][axis[1]] for axis in group.axes}
        ordered = scores[index][ranking.orders[index]]
        tiles: list[Tile] = []
        before = 0
        for gone in range(1, group.size):
            left = [size - int(losses[axis][gone]) for axis, size in sizes.items()]
            if min(left) < round_to or any(count % round_to for count in left):
                continue
            tiles.append(Tile(index, gone, float(ordered[before:gone].mean())))
            before = gone
        found.append(tiles)
    return found


def choose_order(tiles: Sequence[Sequence[Tile]], sizes: Sequence[int], scope: Scope) -> list[Tile]:
    """All tiles in the order in which they go.

    Args:
        tiles: of each group.
        sizes: of each group, units.
        scope: "global": the least important first, wherever they are; "layer": all groups lose
            the same share.
    """
    everything = [tile for group in tiles for tile in group]
    if scope == "layer":
        return sorted(everything, key=lambda tile: tile.gone / sizes[tile.group])
    # Scores rise inside a group, so a stable sort keeps its order.
    return sorted(everything, key=lambda tile: tile.score)


def gone_after(order: Sequence[Tile], count: int, groups: int) -> list[int]:
    """How many units of each group are gone after the first ``count`` tiles."""
    gone = [0] * groups
    for tile in order[:count]:
        gone[tile.group] = max(gone[tile.group], tile.gone)
    return gone


def meet(ranking: Ranking, order: Sequence[Tile], counter: Counter, goal: float) -> list[int]:
    """The fewest tiles after which at most ``goal`` is left of what ``counter`` counts.

    Returns:
        How many units of each group go; of all tiles if even these are too few.
    """
    groups = len(ranking.orders)

    def left(count: int) -> int:
        return counter(ranking, lengths(ranking, gone_after(order, count, groups)))

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if left(middle) <= goal:
            high = middle
        else:
            low = middle + 1
    return gone_after(order, low, groups)


def ascending(scores: Scores) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Units, the least important first; equals in their own order, so that results repeat."""
    return np.argsort(scores, kind="stable")

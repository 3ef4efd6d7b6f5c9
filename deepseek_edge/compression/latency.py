"""Which channels go so that a model takes at most so long: the least important a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from deepseek_edge.compression.counting import Ranking, lengths, shape_of
from deepseek_edge.compression.flow import Axis, Layer
from deepseek_edge.compression.planning import Ranked, why_so_little
from deepseek_edge.compression.selection import Tile
from deepseek_edge.compression.shapes import LayerShape
from deepseek_edge.errors import UnsupportedError

Cost = Callable[[LayerShape], float]
"""Milliseconds of a layer on the machine that the model is for."""


def predict_ms(ranking: Ranking, gone: Sequence[int], cost: Cost) -> float:
    """The sum of what all layers cost when so many units of each group are gone."""
    left = lengths(ranking, gone)
    shapes = (shape_of(layer, ranking.graph, left) for layer in ranking.graph.layers)
    return sum(cost(shape) for shape in shapes if shape is not None)


@dataclass(frozen=True)
class Budget:
    """Chooses channels until the model's predicted time is within a budget.

    Greedily: of all groups the tiles go next that lose the least importance for each millisecond
    saved. A kernel may take as long for 40 channels as for 48, so that a tile alone saves nothing;
    therefore 1, 2, 4, ... tiles of a group are looked at together until that saves something.

    Attributes:
        milliseconds: allowed.
        cost: of a layer.
        progress: told how many tiles are decided, and how many there are.
    """

    milliseconds: float
    cost: Cost
    progress: Callable[[int, int], None] = field(default=lambda _done, _total: None)

    def __call__(self, ranked: Ranked) -> list[int]:
        """How many units of each group go.

        Raises:
            UnsupportedError: even without all tiles that can go, it takes longer.
        """
        descent = _Descent(ranked, cache(self.cost))
        total = sum(len(tiles) for tiles in ranked.tiles)
        while descent.ms > self.milliseconds:
            self.progress(sum(descent.taken), total)
            if not descent.step(self.milliseconds):
                raise UnsupportedError(
                    f"a latency of {self.milliseconds:g} ms can't be reached: "
                    f"{descent.ms:.3g} ms is the least",
                    hint=why_so_little(ranked),
                )
        return descent.gone()


@dataclass(frozen=True)
class _Move:
    """Some tiles of a group: what they save, and what they are worth."""

    group: int
    tiles: int
    saved_ms: float
    importance: float


class _Descent:
    """A model on its way to fewer channels.

    Attributes:
        taken: of each group, how many tiles are gone.
        ms: predicted.
    """

    def __init__(self, ranked: Ranked, cost: Cost) -> None:
        self._ranked, self._cost = ranked, cost
        self._known: dict[tuple[str, int, int, LayerShape | None], float] = {}
        self.taken = [0] * len(ranked.tiles)
        self._left = lengths(ranked.ranking, self.gone())
        self._layers = [self._touched(index) for index in range(len(ranked.tiles))]
        self.ms = predict_ms(ranked.ranking, self.gone(), cost)
        self._best: list[_Move | None] = [self._best_of(i) for i in range(len(ranked.tiles))]

    def gone(self) -> list[int]:
        """Of each group, how many units are gone."""
        return [self._gone(index, taken) for index, taken in enumerate(self.taken)]

    def step(self, goal_ms: float) -> bool:
        """Make the best move, no longer than needed; False if there is none."""
        moves = [move for move in self._best if move is not None]
        if not moves:
            return False
        # What saves nothing comes last, and only to be sure that nothing was left untried.
        move = min(moves, key=lambda one: (one.saved_ms <= 0.0, _price(one)))
        for tiles in range(1, move.tiles):
            if self.ms - self._saved(move.group, tiles) <= goal_ms:
                move = self._move(move.group, tiles)
                break
        self._make(move)
        return True

    def _make(self, move: _Move) -> None:
        for axis, lost in self._lost(move.group, move.tiles).items():
            self._left[axis] -= lost
        self.taken[move.group] += move.tiles
        self.ms -= move.saved_ms
        touched = set(self._layers[move.group])
        for index, layers in enumerate(self._layers):
            if touched & set(layers):
                self._best[index] = self._best_of(index)

    def _best_of(self, group: int) -> _Move | None:
        """The cheapest of the first two of 1, 2, 4, ... or all tiles left that save anything."""
        most = len(self._ranked.tiles[group]) - self.taken[group]
        moves: list[_Move] = []
        count = 1
        while most and sum(move.saved_ms > 0.0 for move in moves) < 2:
            moves.append(self._move(group, min(count, most)))
            if count >= most:
                break
            count *= 2
        return min(moves, key=lambda one: (one.saved_ms <= 0.0, _price(one)), default=None)

    def _move(self, group: int, tiles: int) -> _Move:
        start = self.taken[group]
        importance = 0.0
        before = self._gone(group, start)
        for tile in self._ranked.tiles[group][start : start + tiles]:
            importance += tile.score * (tile.gone - before)
            before = tile.gone
        return _Move(group, tiles, self._saved(group, tiles), importance)

    def _saved(self, group: int, tiles: int) -> float:
        lost = self._lost(group, tiles)
        left = {axis: self._left[axis] for axis in self._axes(group)}
        less = {axis: size - lost.get(axis, 0) for axis, size in left.items()}
        return sum(self._ms(layer, left) - self._ms(layer, less) for layer in self._of(group))

    def _ms(self, layer: Layer, left: Mapping[Axis, int]) -> float:
        key = layer.weight, left[layer.out], left[layer.weight, layer.in_axis], layer.shape
        if key not in self._known:
            shape = shape_of(layer, self._ranked.ranking.graph, left)
            self._known[key] = 0.0 if shape is None else self._cost(shape)
        return self._known[key]

    def _lost(self, group: int, tiles: int) -> dict[Axis, int]:
        """By how much the axes of parameters get shorter."""
        start, end = self.taken[group], self.taken[group] + tiles
        before, after = self._gone(group, start), self._gone(group, end)
        losses = self._ranked.ranking.losses[group]
        return {
            axis: int(lost[after] - lost[before])
            for axis, lost in losses.items()
            if axis in self._left
        }

    def _gone(self, group: int, taken: int) -> int:
        tiles: Sequence[Tile] = self._ranked.tiles[group]
        return tiles[taken - 1].gone if taken else 0

    def _touched(self, group: int) -> list[int]:
        """Indexes of the layers whose shape the group changes."""
        losses = self._ranked.ranking.losses[group]
        return [
            index
            for index, layer in enumerate(self._ranked.ranking.graph.layers)
            if layer.out in losses or (layer.weight, layer.in_axis) in losses
        ]

    def _of(self, group: int) -> list[Layer]:
        return [self._ranked.ranking.graph.layers[index] for index in self._layers[group]]

    def _axes(self, group: int) -> list[Axis]:
        return [
            axis for layer in self._of(group) for axis in (layer.out, (layer.weight, layer.in_axis))
        ]


def _price(move: _Move) -> float:
    """Importance lost for each millisecond."""
    return move.importance / move.saved_ms if move.saved_ms > 0.0 else -move.saved_ms

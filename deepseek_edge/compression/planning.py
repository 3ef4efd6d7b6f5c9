"""From a module to the channels that go: groups, ranks, a choice, and the check that it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deepseek_edge.compression.counting import (
    Ranking,
    count_macs,
    count_parameters,
    doomed_units,
    lengths,
    rank,
)
from deepseek_edge.compression.groups import ChannelGraph, find_groups
from deepseek_edge.compression.importance import Scores, normalize
from deepseek_edge.compression.selection import (
    Scope,
    Tile,
    ascending,
    choose_order,
    find_tiles,
    gone_after,
    meet,
)
from deepseek_edge.compression.verification import find_difference
from deepseek_edge.errors import UnsupportedError

By = Literal["parameters", "macs"]
Score = Callable[[nn.Module, ChannelGraph], Sequence[Scores]]
Choose = Callable[["Ranked"], list[int]]


@dataclass(frozen=True)
class Ranked:
    """The channels of a module in the order in which they would go.

    Attributes:
        tiles: of each group, those that can go.
        round_to: what outputs are a multiple of.
    """

    ranking: Ranking
    tiles: list[list[Tile]]
    round_to: int


@dataclass(frozen=True)
class Plan:
    """A choice that was found to work.

    Attributes:
        gone: of each group, how many units go.
    """

    ranked: Ranked
    gone: list[int]

    @property
    def graph(self) -> ChannelGraph:
        """The groups of the module."""
        return self.ranked.ranking.graph

    @property
    def doomed(self) -> dict[int, NDArray[np.bool_]]:
        """Of each group, which units go."""
        return doomed_units(self.ranked.ranking, self.gone)


@dataclass(frozen=True)
class Share:
    """Chooses channels until a share of the model is gone.

    Attributes:
        removed: of ``total``.
        total: parameters or multiply-accumulates; of the model itself if None.
    """

    removed: float
    by: By
    scope: Scope
    total: int | None = None

    def __call__(self, ranked: Ranked) -> list[int]:
        """How many units of each group go.

        Raises:
            UnsupportedError: so much can't go.
        """
        ranking, tiles = ranked.ranking, ranked.tiles
        counter = count_parameters if self.by == "parameters" else count_macs
        sizes = [group.size for group in ranking.graph.groups]
        whole = counter(ranking, lengths(ranking, [0] * len(sizes)))
        total = whole if self.total is None else self.total
        goal = (1.0 - self.removed) * total
        gone = meet(ranking, choose_order(tiles, sizes, self.scope), counter, goal)
        left = counter(ranking, lengths(ranking, gone))
        if left > goal:
            raise UnsupportedError(
                f"{self.removed:.1%} of the {self.by} can't be removed: "
                f"{1.0 - left / total:.1%} is the most",
                hint=why_so_little(ranked),
            )
        return gone


def make_plan(
    module: nn.Module,
    inputs: tuple[Any, ...],
    kept: Mapping[str, str],
    *,
    score: Score,
    round_to: int,
    choose: Choose,
) -> Plan:
    """Choose the channels of a module that go.

    Args:
        module: stays as it is.
        inputs: its positional arguments.
        kept: names of layers whose outputs stay, with the reason.
        score: of the units of each group.
        round_to: outputs of a layer that loses some are a multiple of this.
        choose: how many units of each group go.

    Raises:
        UnsupportedError: the module can't be traced, or ``choose`` finds no way.
    """
    kept = dict(kept)
    while True:
        graph = find_groups(module, inputs, kept)
        ranked = rank_tiles(graph, score(module, graph), round_to)
        plan = Plan(ranked, choose(ranked))
        guilty = find_guilty(module, inputs, plan)
        if not guilty:
            return plan
        kept.update(guilty)


def rank_tiles(graph: ChannelGraph, scores: Sequence[Scores], round_to: int) -> Ranked:
    """Sort the units of each group, and cut them into tiles."""
    comparable = [normalize(one) for one in scores]
    ranking = rank(graph, [ascending(one) for one in comparable])
    return Ranked(ranking, find_tiles(ranking, comparable, round_to), round_to)


def find_guilty(module: nn.Module, inputs: tuple[Any, ...], plan: Plan) -> dict[str, str]:
    """Layers that can't be pruned although tracing says so, with the reason; usually none.

    The user's code may use a size that it doesn't take from a tensor. Pruned and whole module
    are compared; if they differ, each group is pruned alone to find those to blame.

    Raises:
        UnsupportedError: they differ, though no group alone is to blame.
    """
    graph, ranking = plan.graph, plan.ranked.ranking
    problem = find_difference(module, inputs, graph, plan.doomed)
    if problem is None:
        return {}
    guilty = {}
    for own in plan.ranked.tiles:
        if not own:
            continue
        alone = gone_after(own[:1], 1, len(graph.groups))
        reason = find_difference(module, inputs, graph, doomed_units(ranking, alone))
        if reason is not None:
            guilty.update(dict.fromkeys(graph.groups[own[0].group].layers, reason))
    if not guilty:
        raise UnsupportedError(
            f"the pruned module doesn't compute what the whole one does: {problem}",
            hint="report it, and exclude layers until it does",
        )
    return guilty


def explain_stuck(ranked: Ranked) -> dict[str, str]:
    """Name of each layer that can't lose a tile of outputs, with the reason."""
    graph = ranked.ranking.graph
    reasons = dict(graph.fixed)
    for group, own in zip(graph.groups, ranked.tiles, strict=True):
        if not own:
            others = f", of {len(group.layers)} layers together" if len(group.layers) > 1 else ""
            why = f"no whole tile of {ranked.round_to} channels can go{others}"
            reasons.update(dict.fromkeys(group.layers, why))
    return reasons


def why_so_little(ranked: Ranked) -> str:
    """A hint for one who asked for more than can go."""
    kept = [f"{name}: {reason}" for name, reason in list(explain_stuck(ranked).items())[:3]]
    return "; ".join(["ask for less, or round to less", *kept])

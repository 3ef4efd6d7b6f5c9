"""Channel pruning of any module that torch.export accepts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from deepseek_edge.compression import importance as scoring
from deepseek_edge.compression.counting import (
    Ranking,
    count_macs,
    count_parameters,
    doomed_units,
    lengths,
    rank,
)
from deepseek_edge.compression.groups import ChannelGraph, find_groups
from deepseek_edge.compression.importance import Batches, Importance, Loss, Scores
from deepseek_edge.compression.prune_report import PruneReport, make_report, merge_reports
from deepseek_edge.compression.removal import remove_channels
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
from deepseek_edge.errors import UnsupportedError, UsageError

By = Literal["parameters", "macs"]


@dataclass(frozen=True)
class PrunedModel:
    """A smaller module: the same code and layers, without masks or hooks.

    Attributes:
        example_inputs: as they were given.
    """

    module: nn.Module
    example_inputs: tuple[Any, ...]
    report: PruneReport


class ChannelPruner:
    """Removes the channels of a module that matter least.

    Args:
        model: an nn.Module, or the pair (an nn.Module, its example inputs); stays as it is.
        pruning_ratio: share of the parameters or multiply-accumulates to remove from the whole
            model, between 0 and 1. Removed is this much or more, by less than one tile.
        importance: of a channel: "l1" or "l2" norm of the deployed weights that go with it,
            "taylor" (the change of the loss that its removal causes, to first order; needs
            ``loss`` and ``data``), or "bn_scale", the scales of batch normalizations.
        by: what ``pruning_ratio`` is a share of.
        scope: "global" removes the least important tiles wherever they are, "layer" the same
            share of all layers.
        example_inputs: positional arguments of the module, if it comes alone.
        round_to: outputs of a pruned layer are a multiple of this: what kernels compute at once.
        excluded: names of modules, as in ``named_modules()``, whose outputs all stay; that of a
            block covers what is inside it.
        iterations: rounds, each of which removes an equal part.
        fine_tune: trains a module in place; called between rounds.
        loss: (model, inputs, labels) -> scalar, for "taylor".
        data: batches of inputs and labels, for "taylor"; read once a round.

    Raises:
        UsageError: a ratio outside (0, 1), a name that doesn't exist, or what is missing.
    """

    def __init__(
        self,
        model: nn.Module | tuple[nn.Module, Any],
        pruning_ratio: float = 0.3,
        *,
        importance: Importance = "l1",
        by: By = "parameters",
        scope: Scope = "global",
        example_inputs: tuple[Any, ...] | None = None,
        round_to: int = 8,
        excluded: Sequence[str] = (),
        iterations: int = 1,
        fine_tune: Callable[[nn.Module], object] | None = None,
        loss: Loss | None = None,
        data: Batches | None = None,
    ) -> None:
        self._model, self._inputs = _module_and_inputs(model, example_inputs)
        _check_options(pruning_ratio, round_to, iterations)
        if importance == "taylor" and (loss is None or data is None):
            raise UsageError(
                "taylor importance needs the loss on data", hint="give loss= and data=, or l1"
            )
        self._kept = dict.fromkeys(_layers_named(self._model, excluded), "excluded")
        self._ratio, self._by, self._scope = pruning_ratio, by, scope
        self._importance, self._loss, self._data = importance, loss, data
        self._round_to, self._iterations, self._fine_tune = round_to, iterations, fine_tune

    def compress(self) -> PrunedModel:
        """Prune a copy of the module.

        Raises:
            UnsupportedError: the module can't be traced, or can't lose that much.
        """
        module, reports = self._model, list[PruneReport]()
        for done in range(1, self._iterations + 1):
            if reports and self._fine_tune is not None:
                self._fine_tune(module)
            share = 1.0 - self._ratio * done / self._iterations
            module, report = self._round(module, share, reports[0] if reports else None)
            reports.append(report)
        return PrunedModel(module, self._inputs, merge_reports(reports[0], reports[-1]))

    def _round(
        self, module: nn.Module, share: float, first: PruneReport | None
    ) -> tuple[nn.Module, PruneReport]:
        """Prune until ``share`` of what was there before the first round is left."""
        kept = dict(self._kept)
        while True:
            graph = find_groups(module, self._inputs, kept)
            ranking, tiles = self._rank(module, graph)
            gone = self._select(ranking, tiles, share, first)
            guilty = find_guilty(module, self._inputs, ranking, tiles, gone)
            if not guilty:
                report = make_report(ranking, gone, explain_stuck(ranking, tiles, self._round_to))
                return remove_channels(module, graph, doomed_units(ranking, gone)), report
            kept.update(guilty)

    def _rank(self, module: nn.Module, graph: ChannelGraph) -> tuple[Ranking, list[list[Tile]]]:
        scores = [scoring.normalize(one) for one in self._score(module, graph)]
        ranking = rank(graph, [ascending(one) for one in scores])
        return ranking, find_tiles(ranking, scores, self._round_to)

    def _score(self, module: nn.Module, graph: ChannelGraph) -> list[Scores]:
        if self._importance == "taylor":
            assert self._loss is not None and self._data is not None
            return scoring.score_by_loss(module, graph, self._loss, self._data)
        if self._importance == "bn_scale":
            return scoring.score_by_normalization(module, graph)
        power = 1 if self._importance == "l1" else 2
        return scoring.score_by_weights(module, graph, power=power)

    def _select(
        self,
        ranking: Ranking,
        tiles: list[list[Tile]],
        share: float,
        first: PruneReport | None,
    ) -> list[int]:
        counter = count_parameters if self._by == "parameters" else count_macs
        sizes = [group.size for group in ranking.graph.groups]
        order = choose_order(tiles, sizes, self._scope)
        if first is None:
            total = counter(ranking, lengths(ranking, [0] * len(sizes)))
        else:
            is_parameters = self._by == "parameters"
            total = first.parameters_before if is_parameters else first.macs_before
        gone = meet(ranking, order, counter, share * total)
        left = counter(ranking, lengths(ranking, gone))
        if left > share * total:
            most = 1.0 - left / total
            raise UnsupportedError(
                f"{1 - share:.1%} of the {self._by} can't be removed: {most:.1%} is the most",
                hint=_why_so_little(ranking, tiles, self._round_to),
            )
        return gone


def find_guilty(
    module: nn.Module,
    inputs: tuple[Any, ...],
    ranking: Ranking,
    tiles: Sequence[Sequence[Tile]],
    gone: Sequence[int],
) -> dict[str, str]:
    """Layers that can't be pruned although tracing says so, with the reason; usually none.

    The user's code may use a size that it doesn't take from a tensor. Pruned and whole module
    are compared; if they differ, each group is pruned alone to find those to blame.

    Raises:
        UnsupportedError: they differ, though no group alone is to blame.
    """
    graph = ranking.graph
    problem = find_difference(module, inputs, graph, doomed_units(ranking, gone))
    if problem is None:
        return {}
    guilty = {}
    for own in tiles:
        if not own:
            continue
        alone = gone_after(own[:1], 1, len(gone))
        reason = find_difference(module, inputs, graph, doomed_units(ranking, alone))
        if reason is not None:
            guilty.update(dict.fromkeys(graph.groups[own[0].group].layers, reason))
    if not guilty:
        raise UnsupportedError(
            f"the pruned module doesn't compute what the whole one does: {problem}",
            hint="report it, and exclude layers until it does",
        )
    return guilty


def _module_and_inputs(
    model: nn.Module | tuple[nn.Module, Any], example_inputs: tuple[Any, ...] | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    module, inputs = model if isinstance(model, tuple) else (model, example_inputs)
    if inputs is None:
        raise UsageError(
            "a module alone doesn't tell the shapes of its inputs",
            hint="ChannelPruner(model, example_inputs=(torch.zeros(1, 3, 224, 224),)), "
            "or the pair (model, example inputs) as the model",
        )
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    moved = tuple(one.to(device) if isinstance(one, torch.Tensor) else one for one in inputs)
    return module, moved


def _check_options(ratio: float, round_to: int, iterations: int) -> None:
    if not 0.0 < ratio < 1.0:
        raise UsageError(
            f"a pruning ratio of {ratio:g} is not between 0 and 1",
            hint="0.3 removes 30 percent of the parameters",
        )
    if round_to < 1:
        raise UsageError(f"channels can't be rounded to {round_to}", hint="1 doesn't round")
    if iterations < 1:
        raise UsageError(f"{iterations} iterations remove nothing", hint="at least 1")


def _layers_named(module: nn.Module, names: Sequence[str]) -> list[str]:
    """All modules that the names cover."""
    known = [name for name, _ in module.named_modules() if name]
    covered = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(known[:5])}"
            raise UsageError(f"the model has no module {name}", hint=hint)
        covered += [one for one in known if one == name or one.startswith(f"{name}.")]
    return covered


def explain_stuck(
    ranking: Ranking, tiles: Sequence[Sequence[Tile]], round_to: int
) -> dict[str, str]:
    """Name of each layer that can't lose a tile of outputs, with the reason."""
    reasons = dict(ranking.graph.fixed)
    for group, own in zip(ranking.graph.groups, tiles, strict=True):
        if not own:
            others = f", of {len(group.layers)} layers together" if len(group.layers) > 1 else ""
            why = f"no whole tile of {round_to} channels can go{others}"
            reasons.update(dict.fromkeys(group.layers, why))
    return reasons


def _why_so_little(ranking: Ranking, tiles: Sequence[Sequence[Tile]], round_to: int) -> str:
    reasons = explain_stuck(ranking, tiles, round_to)
    kept = [f"{name}: {reason}" for name, reason in list(reasons.items())[:3]]
    return "; ".join(["ask for less, or round to less", *kept])

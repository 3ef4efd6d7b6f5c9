"""Channel pruning of any module that torch.export accepts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from deepseek_edge.compression import importance as scoring
from deepseek_edge.compression.groups import ChannelGraph
from deepseek_edge.compression.importance import Batches, Importance, Loss, Scores
from deepseek_edge.compression.latency import Budget, Cost, predict_ms
from deepseek_edge.compression.planning import By, Choose, Share, make_plan
from deepseek_edge.compression.prune_report import PruneReport, make_report, merge_reports
from deepseek_edge.compression.removal import remove_channels
from deepseek_edge.compression.selection import Scope
from deepseek_edge.errors import UsageError


@dataclass(frozen=True)
class PrunedModel:
    """A smaller module: the same code and layers, without masks or hooks.

    Attributes:
        example_inputs: as they were given.
    """

    module: nn.Module
    example_inputs: tuple[Any, ...]
    report: PruneReport


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass


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
        scope: "layer" removes the same share of all layers, "global" the least important tiles
            wherever they are: often late layers, which hold the parameters and take little time.
        example_inputs: positional arguments of the module, if it comes alone.
        round_to: outputs of a pruned layer are a multiple of this: what kernels compute at once.
        excluded: names of modules, as in ``named_modules()``, whose outputs all stay; that of a
            block covers what is inside it.
        iterations: rounds, each of which removes an equal part.
        fine_tune: trains a module in place; called between rounds.
        loss: (model, inputs, labels) -> scalar, for "taylor".
        data: batches of inputs and labels, for "taylor"; read once a round.
        cost: milliseconds of a layer on the machine that the model is for; the report then says
            what the model takes.
        latency_budget_ms: what the model may take, predicted by ``cost``. It decides in the
            place of ``pruning_ratio``: those channels go that matter least for each millisecond.
        progress: told the stage, how much of it is done, and how much there is.

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
        scope: Scope = "layer",
        example_inputs: tuple[Any, ...] | None = None,
        round_to: int = 8,
        excluded: Sequence[str] = (),
        iterations: int = 1,
        fine_tune: Callable[[nn.Module], object] | None = None,
        loss: Loss | None = None,
        data: Batches | None = None,
        cost: Cost | None = None,
        latency_budget_ms: float | None = None,
        progress: Callable[[str, int, int], None] = _silent,
    ) -> None:
        self._model, self._inputs = module_and_inputs(model, example_inputs)
        check_options(pruning_ratio, round_to, iterations)
        if importance == "taylor" and (loss is None or data is None):
            raise UsageError(
                "taylor importance needs the loss on data", hint="give loss= and data=, or l1"
            )
        if latency_budget_ms is not None:
            _check_budget(latency_budget_ms, cost, iterations)
        self._cost = None if cost is None else cache(cost)
        self._budget_ms, self._progress = latency_budget_ms, progress
        self._kept = dict.fromkeys(layers_named(self._model, excluded), "excluded")
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
            module, report = self._round(module, done, reports[0] if reports else None)
            reports.append(report)
        return PrunedModel(module, self._inputs, merge_reports(reports[0], reports[-1]))

    def _round(
        self, module: nn.Module, done: int, first: PruneReport | None
    ) -> tuple[nn.Module, PruneReport]:
        """Prune as far as round ``done`` goes, of what was there before the first."""
        plan = make_plan(
            module,
            self._inputs,
            self._kept,
            score=self._score,
            round_to=self._round_to,
            choose=self._choose(done, first),
        )
        report = make_report(plan)
        if self._cost is not None:
            ranking = plan.ranked.ranking
            before, after = (
                predict_ms(ranking, gone, self._cost) for gone in ([0] * len(plan.gone), plan.gone)
            )
            report = replace(report, predicted_ms_before=before, predicted_ms_after=after)
        return remove_channels(module, plan.graph, plan.doomed), report

    def _choose(self, done: int, first: PruneReport | None) -> Choose:
        if self._budget_ms is not None:
            assert self._cost is not None
            return Budget(self._budget_ms, self._cost, partial(self._progress, "choose channels"))
        total = None
        if first is not None:
            is_parameters = self._by == "parameters"
            total = first.parameters_before if is_parameters else first.macs_before
        return Share(self._ratio * done / self._iterations, self._by, self._scope, total)

    def _score(self, module: nn.Module, graph: ChannelGraph) -> list[Scores]:
        if self._importance == "taylor":
            assert self._loss is not None and self._data is not None
            return scoring.score_by_loss(module, graph, self._loss, self._data)
        if self._importance == "bn_scale":
            return scoring.score_by_normalization(module, graph)
        return scoring.score_by_weights(module, graph, power=1 if self._importance == "l1" else 2)


def module_and_inputs(
    model: nn.Module | tuple[nn.Module, Any], example_inputs: tuple[Any, ...] | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A module, and its example inputs on its device.

    Raises:
        UsageError: there are none.
    """
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


def check_options(ratio: float, round_to: int, iterations: int = 1) -> None:
    """Refuse what can't be meant.

    Raises:
        UsageError: what.
    """
    if not 0.0 < ratio < 1.0:
        raise UsageError(
            f"a pruning ratio of {ratio:g} is not between 0 and 1",
            hint="0.3 removes 30 percent of the parameters",
        )
    if round_to < 1:
        raise UsageError(f"channels can't be rounded to {round_to}", hint="1 doesn't round")
    if iterations < 1:
        raise UsageError(f"{iterations} iterations remove nothing", hint="at least 1")


def _check_budget(budget_ms: float, cost: Cost | None, iterations: int) -> None:
    if cost is None:
        raise UsageError(
            "a latency budget needs to know what layers cost",
            hint="give cost=, a function from LayerShape to milliseconds",
        )
    if not budget_ms > 0.0:
        raise UsageError(f"no model takes {budget_ms:g} ms", hint="a budget is above 0 ms")
    if iterations > 1:
        raise UsageError(
            "a latency budget is met in one round",
            hint="leave iterations out, and train afterwards",
        )


def layers_named(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of all modules that some names cover.

    Raises:
        UsageError: there is no module of that name.
    """
    known = [name for name, _ in module.named_modules() if name]
    covered = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(known[:5])}"
            raise UsageError(f"the model has no module {name}", hint=hint)
        covered += [one for one in known if one == name or one.startswith(f"{name}.")]
    return covered

"""Channel pruning of any module that torch.export accepts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepseek_edge.compression import importance as scoring
from deepseek_edge.compression.groups import ChannelGraph
from deepseek_edge.compression.importance import Batches, Importance, Loss, Scores
from deepseek_edge.compression.planning import By, Share, make_plan
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
        self._model, self._inputs = module_and_inputs(model, example_inputs)
        check_options(pruning_ratio, round_to, iterations)
        if importance == "taylor" and (loss is None or data is None):
            raise UsageError(
                "taylor importance needs the loss on data", hint="give loss= and data=, or l1"
            )
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
        removed = self._ratio * done / self._iterations
        total = None
        if first is not None:
            is_parameters = self._by == "parameters"
            total = first.parameters_before if is_parameters else first.macs_before
        plan = make_plan(
            module,
            self._inputs,
            self._kept,
            score=self._score,
            round_to=self._round_to,
            choose=Share(removed, self._by, self._scope, total),
        )
        return remove_channels(module, plan.graph, plan.doomed), make_report(plan)

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

"""Structured sparsity training: channels fade while the others learn to do without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from deepseek_edge.compression.channels import FIXED
from deepseek_edge.compression.groups import ChannelGraph, Group
from deepseek_edge.compression.importance import Scores, score_by_weights
from deepseek_edge.compression.planning import (
    By,
    Plan,
    Ranked,
    Share,
    make_plan,
    rank_tiles,
)
from deepseek_edge.compression.prune_report import make_report
from deepseek_edge.compression.pruner import (
    PrunedModel,
    check_options,
    layers_named,
    module_and_inputs,
)
from deepseek_edge.compression.removal import remove_channels
from deepseek_edge.errors import UsageError
from deepseek_edge.training import (
    Loss,
    TrainConfig,
    TrainingData,
    TrainResult,
    cross_entropy,
    train,
)
from deepseek_edge.training.config import Progress, stay_silent
from deepseek_edge.training.schedule import learning_rate_at

Kind = Literal["gradual", "group_lasso"]
States = NDArray[np.uint8]

_ALIVE, _FADING, _DEAD = 0, 1, 2
_STATES = "channel_states"
_FADED = 0.1
"""What is left of a channel's weights when it is set to zero."""

_LASSO_STEPS = 10
"""Shrinking costs about as much as a step of the optimizer, so it is done for so many at once."""


def ramp(progress: float) -> float:
    """Which share of the final sparsity is reached: 1 - (1 - progress)^3.

    Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, equation 1: fast while there is much to
    choose from, slow at the end.

    Args:
        progress: 0 at the start, 1 at the end.
    """
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3


class SparsityTrainer:
    """Trains a module such that channels become zero, and removes them.

    "gradual": in ``updates`` steps of the schedule, the least important channels begin to fade:
    all parameters that go with them are multiplied towards zero and stay there. Their removal
    changes nothing.

    "group_lasso": a penalty on the norm of all parameters that go with a channel shrinks those
    that the loss doesn't need (Yuan and Lin 2006, Wen et al. 2016,
    https://arxiv.org/abs/1608.03665, section 3). What of the target isn't zero in the end is
    removed by importance, which changes the outputs; training has to go on.

    Args:
        model: trained in place; afterwards its removed channels are zero.
        data: what to train on.
        config: of the training.
        target_ratio: share of the parameters or multiply-accumulates to remove.
        kind: as above.
        penalty: of the group lasso: the loss grows by this for each unit of sqrt(size) * norm.
        begin: share of the steps after which channels begin to fade.
        end: share of the steps after which no more do; the rest of the training is theirs that
            stay.
        updates: how often channels are chosen.
        by: what ``target_ratio`` is a share of.
        round_to: outputs of a pruned layer are a multiple of this.
        excluded: names of modules whose outputs all stay.
        example_inputs: of the module; by default the first two of ``data``.
        loss: (model, inputs, labels) -> scalar.

    Raises:
        UsageError: a setting is out of its range, or a name doesn't exist.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        config: TrainConfig,
        *,
        target_ratio: float = 0.7,
        kind: Kind = "gradual",
        penalty: float = 1e-4,
        begin: float = 0.1,
        end: float = 0.6,
        updates: int = 50,
        by: By = "parameters",
        round_to: int = 8,
        excluded: Sequence[str] = (),
        example_inputs: tuple[Any, ...] | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        check_options(target_ratio, round_to)
        _check_schedule(begin, end, updates, penalty)
        inputs = (data.inputs[:2],) if example_inputs is None else example_inputs
        self._model, self._inputs = module_and_inputs(model, inputs)
        self._kept = dict.fromkeys(layers_named(model, excluded), "excluded")
        self._data, self._config, self._loss = data, config, loss
        self._target, self._by, self._round_to = target_ratio, by, round_to
        self._kind, self._penalty = kind, penalty
        self._schedule = (begin, end, updates)

    def train(
        self, *, checkpoint: Path | None = None, progress: Progress = stay_silent
    ) -> tuple[PrunedModel, TrainResult]:
        """Train the module, and remove its channels from a copy.

        Args:
            checkpoint: as :func:`deepseek_edge.training.train` takes it; a run that was
                interrupted goes on with the channels that were chosen.
            progress: likewise.

        Returns:
            The smaller module with what was removed, and what the training did.

        Raises:
            UnsupportedError: the module can't be traced, or can't lose that much; before training.
            UsageError, TrainingError, OutputError: as ``train`` raises them.
        """
        share = Share(self._target, self._by, "global")
        plan = self._plan(share)
        run = (
            _Fading(self._model, plan, share, self._schedule)
            if self._kind == "gradual"
            else _Lasso(self._model, plan.graph, self._config, self._penalty)
        )
        # Checkpoints hold buffers, so a run that is resumed knows which channels are gone.
        self._model.register_buffer(_STATES, _new_states(plan.graph))
        try:
            result = train(
                self._model,
                self._data,
                self._config,
                loss=self._loss,
                checkpoint=checkpoint,
                on_step=run.on_step,
                progress=progress,
            )
            plan = run.finish() if isinstance(run, _Fading) else self._plan(share)
        finally:
            delattr(self._model, _STATES)
        smaller = remove_channels(self._model, plan.graph, plan.doomed)
        return PrunedModel(smaller, self._inputs, make_report(plan)), result

    def _plan(self, share: Share) -> Plan:
        return make_plan(
            self._model,
            self._inputs,
            self._kept,
            score=_score,
            round_to=self._round_to,
            choose=share,
        )


class _Fading:
    """Chooses channels step by step, and multiplies them towards zero.

    Args:
        model: with the buffer ``_STATES``.
        plan: of the final share, made before training.
        share: the final one.
        schedule: begin, end and updates of :class:`SparsityTrainer`.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, share: Share, schedule: tuple[float, float, int]
    ) -> None:
        self._model, self._graph, self._share = model, plan.graph, share
        self._round_to, self._schedule = plan.ranked.round_to, schedule
        self._factors: list[tuple[nn.Parameter, Tensor]] | None = None

    def on_step(self, done: int, total: int) -> None:
        """Choose if it is time to, and multiply what fades or is dead."""
        begin, end, updates = self._schedule
        first, last = round(begin * total), round(end * total)
        every = max(1, round((last - first) / updates))
        # One update more, for those that were chosen last.
        if first <= done <= last + 2 * every and (done - first) % every == 0:
            self._choose(ramp((done - first) / max(1, last - first)))
            self._factors = None
        if self._factors is None:
            self._factors = self._find_factors(_FADED ** (1.0 / every))
        with torch.no_grad():
            for parameter, factor in self._factors:
                parameter.mul_(factor)

    def finish(self) -> Plan:
        """Set all chosen channels to zero; the plan to remove them."""
        self._choose(1.0)
        dead = [own != _ALIVE for own in self._states()]
        self._write([np.where(own, _DEAD, _ALIVE) for own in dead])
        with torch.no_grad():
            for parameter, factor in self._find_factors(0.0):
                parameter.mul_(factor)
        return Plan(self._rank(), [int(own.sum()) for own in dead])

    def _choose(self, reached: float) -> None:
        """Set to zero what was fading; let fade what is needed to reach a part of the share."""
        ranked = self._rank()
        share = replace(self._share, removed=self._share.removed * reached)
        chosen = Plan(ranked, share(ranked)).doomed
        states = []
        for index, own in enumerate(self._states()):
            state = np.where(own == _FADING, _DEAD, own)
            states.append(np.where((state == _ALIVE) & chosen[index], _FADING, state))
        self._write(states)

    def _rank(self) -> Ranked:
        """Channels by their importance, those first that were chosen before."""
        scores = _score(self._model, self._graph)
        for own, state in zip(scores, self._states(), strict=True):
            own[:] = np.where(state == _ALIVE, np.maximum(own, np.finfo(own.dtype).tiny), 0.0)
        return rank_tiles(self._graph, scores, self._round_to)

    def _find_factors(self, fading: float) -> list[tuple[nn.Parameter, Tensor]]:
        """Of each parameter that has channels which go, what to multiply it by."""
        by_state = np.array([1.0, fading, 0.0])
        factors: dict[str, Tensor] = {}
        parameters = dict(self._model.named_parameters())
        for group, states in zip(self._graph.groups, self._states(), strict=True):
            for name, axis in group.members if states.any() else ():
                if name in parameters:
                    units = group.members[name, axis]
                    own = np.where(units == FIXED, 1.0, by_state[states[units]])
                    factor = _along(parameters[name], axis, torch.from_numpy(own))
                    factors[name] = factors[name] * factor if name in factors else factor
        return [(parameters[name], factor) for name, factor in factors.items()]

    def _states(self) -> list[States]:
        flat = getattr(self._model, _STATES).cpu().numpy()
        return np.split(flat, np.cumsum([group.size for group in self._graph.groups])[:-1])

    def _write(self, states: Sequence[NDArray[Any]]) -> None:
        buffer = getattr(self._model, _STATES)
        buffer.copy_(torch.from_numpy(np.concatenate(states).astype(np.uint8)))


class _Lasso:
    """Shrinks all channels: the proximal step of the penalty, after steps of the optimizer."""

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, config: TrainConfig, penalty: float
    ) -> None:
        self._model, self._graph = model, graph
        self._config, self._penalty = config, penalty
        self._places: list[list[tuple[nn.Parameter, int, Tensor]]] | None = None

    @torch.no_grad()
    def on_step(self, done: int, total: int) -> None:
        """Shrink, every so many steps."""
        if done % _LASSO_STEPS:
            return
        warmup = min(total, round(self._config.warmup_epochs * total / self._config.epochs))
        peak = self._config.learning_rate
        rate = learning_rate_at(done - 1, total, peak=peak, warmup=warmup)
        if self._places is None:
            self._places = [self._find_places(group) for group in self._graph.groups]
        for group, places in zip(self._graph.groups, self._places, strict=True):
            _shrink(places, group.size, self._penalty * rate * _LASSO_STEPS)

    def _find_places(self, group: Group) -> list[tuple[nn.Parameter, int, Tensor]]:
        """Parameter, axis, and the unit of each element; one unit more is for all others."""
        parameters = dict(self._model.named_parameters())
        return [
            (
                parameters[name],
                axis,
                torch.from_numpy(np.where(units == FIXED, group.size, units)).to(
                    parameters[name].device
                ),
            )
            for (name, axis), units in group.members.items()
            if name in parameters
        ]


def _shrink(places: list[tuple[nn.Parameter, int, Tensor]], size: int, threshold: float) -> None:
    """Scale the parameters of each unit by max(0, 1 - threshold sqrt(elements) / norm)."""
    squares = torch.zeros(size + 1, device=places[0][2].device)
    counts = torch.zeros_like(squares)
    for value, axis, units in places:
        others = [one for one in range(value.dim()) if one != axis]
        sums = value.square().sum(others) if others else value.square()
        squares.index_add_(0, units, sums)
        counts.index_add_(0, units, torch.full_like(sums, value.numel() / value.shape[axis]))
    norms = squares.sqrt().clamp(min=torch.finfo(squares.dtype).tiny)
    factor = (1.0 - threshold * counts.sqrt() / norms).clamp(min=0.0)
    factor[size] = 1.0
    for value, axis, units in places:
        value.mul_(_along(value, axis, factor[units]))


def _along(parameter: Tensor, axis: int, values: Tensor) -> Tensor:
    """Values shaped so that they multiply a parameter along an axis."""
    shape = [-1 if one == axis else 1 for one in range(parameter.dim())]
    return values.to(parameter).view(shape)


def _new_states(graph: ChannelGraph) -> Tensor:
    return torch.full((sum(group.size for group in graph.groups),), _ALIVE, dtype=torch.uint8)


def _score(model: nn.Module, graph: ChannelGraph) -> list[Scores]:
    """Importance by deployed weights, the same in all processes."""
    scores = score_by_weights(model, graph, power=1)
    if not distributed.is_initialized():
        return scores
    # Statistics of batch normalizations are a process's own until the end of an epoch.
    device = next(model.parameters()).device
    flat = torch.tensor(np.concatenate(scores), device=device)
    distributed.broadcast(flat, 0)
    return np.split(flat.cpu().numpy(), np.cumsum([len(one) for one in scores])[:-1])


def _check_schedule(begin: float, end: float, updates: int, penalty: float) -> None:
    if not 0.0 <= begin < end <= 1.0:
        raise UsageError(
            f"channels can't fade from {begin:g} to {end:g} of the steps",
            hint="begin and end are shares of the steps: 0.1 and 0.6",
        )
    if updates < 1:
        raise UsageError(f"{updates} updates choose no channels", hint="50 is usual")
    if penalty <= 0.0:
        raise UsageError(f"a penalty of {penalty:g} shrinks nothing", hint="1e-4 is usual")

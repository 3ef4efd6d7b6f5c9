"""The pruning stage of a recipe: by a share, for a latency, or while the channels fade."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import PrunedSize
from deepseek_edge.pipeline.stages import Stages
from deepseek_edge.pipeline.workshop import Workshop
from deepseek_edge.recipe import PruneSection
from deepseek_edge.report import describe_pruned
from deepseek_edge.target import load_target
from deepseek_edge.training import TrainConfig, TrainingData, cross_entropy, distill

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepseek_edge.compression import PrunedModel
    from deepseek_edge.pipeline.pruning import Pruned
    from deepseek_edge.training.config import Loss

# Samples that importance by the slope of the loss looks at.
_SCORED, _BATCH = 512, 64


def taught_by(teacher: nn.Module, config: TrainConfig) -> Loss:
    """The loss of a model that learns from another one's answers too."""
    return distill(teacher, label_smoothing=config.label_smoothing)


def prune(
    module: nn.Module,
    inputs: tuple[Any, ...],
    data: TrainingData | None,
    stages: Stages,
    shop: Workshop,
) -> tuple[nn.Module, PrunedSize]:
    """Make a smaller copy of a module, as a recipe's ``[prune]`` and ``[sparsify]`` say.

    Args:
        module: stays as it is.
        inputs: its example inputs.
        data: to train with between rounds, or while channels fade.
        stages: of the recipe.
        shop: where to work.

    Raises:
        UnsupportedError: it can't be traced, or can't lose that much.
        TrainingError, OutputError: as ``train`` raises them.
    """
    assert stages.prune is not None
    measured: dict[str, float | None] = {}
    if stages.prune.ratio == "auto":
        found = _meet_budget(module, inputs, stages.prune, shop)
        result = found.model
        measured["measured_ms_before"] = found.measured_ms_before
        measured["measured_ms_after"] = found.measured_ms_after
    elif stages.sparsify is not None:
        result = _fade(module, inputs, data, stages, shop)
    else:
        result = _remove(module, inputs, data, stages, shop)
    report = result.report
    size = PrunedSize(
        parameters_before=report.parameters_before,
        parameters_after=report.parameters_after,
        macs_before=report.macs_before,
        macs_after=report.macs_after,
        predicted_ms_before=report.predicted_ms_before,
        predicted_ms_after=report.predicted_ms_after,
        **measured,
    )
    shop.narrate(describe_pruned(size))
    return result.module, size


def _meet_budget(
    module: nn.Module, inputs: tuple[Any, ...], section: PruneSection, shop: Workshop
) -> Pruned:
    """Remove what a latency on the target needs."""
    from deepseek_edge.pipeline.pruning import prune_module

    assert section.importance != "taylor"
    return prune_module(
        module,
        inputs,
        latency_budget_ms=section.latency_budget_ms,
        target=load_target(shop.target),
        by=section.by,
        importance=section.importance,
        round_to=section.round_to,
        excluded=section.excluded,
        narrate=shop.narrate,
        progress=shop.progress,
    )


def _remove(
    module: nn.Module,
    inputs: tuple[Any, ...],
    data: TrainingData | None,
    stages: Stages,
    shop: Workshop,
) -> PrunedModel:
    """Remove the least important channels, trained between rounds."""
    from deepseek_edge.compression import ChannelPruner

    section = stages.prune
    assert section is not None and section.ratio != "auto"
    rounds = itertools.count(1)

    def fine_tune(pruned: nn.Module) -> None:
        if stages.fine_tune is not None:
            shop.train(pruned, data, stages.fine_tune[0], f"prune-{next(rounds)}")

    return ChannelPruner(
        (module, inputs),
        section.ratio,
        importance=section.importance,
        by=section.by,
        scope=section.scope,
        round_to=section.round_to,
        excluded=section.excluded,
        iterations=section.iterations,
        fine_tune=fine_tune,
        loss=cross_entropy,
        data=None if data is None else _batches(data),
    ).compress()


def _fade(
    module: nn.Module,
    inputs: tuple[Any, ...],
    data: TrainingData | None,
    stages: Stages,
    shop: Workshop,
) -> PrunedModel:
    """Train a copy while channels fade, and remove those."""
    from deepseek_edge.compression import SparsityTrainer

    section = stages.prune
    assert section is not None and section.ratio != "auto"
    assert stages.sparsify is not None and data is not None
    config, own = stages.sparsify
    trainer = SparsityTrainer(
        copy.deepcopy(module),
        data,
        config,
        target_ratio=section.ratio,
        by=section.by,
        round_to=section.round_to,
        excluded=section.excluded,
        kind=own.kind,
        penalty=own.penalty,
        begin=own.begin,
        end=own.end,
        updates=own.updates,
        example_inputs=inputs,
        loss=taught_by(module, config) if own.distill else cross_entropy,
    )
    checkpoint = shop.checkpoint("sparsify", config)
    result, trained = trainer.train(
        checkpoint=checkpoint,
        progress=lambda _, done, total: shop.progress("sparsify", done, total),
    )
    shop.narrate(f"sparsify: loss {trained.losses[-1]:.4f}, {trained.seconds:.0f} s")
    return result


def _batches(data: TrainingData) -> list[tuple[Tensor, Tensor]]:
    """A few, for the slope of the loss."""
    import torch

    parts = (torch.split(whole[:_SCORED], _BATCH) for whole in (data.inputs, data.labels))
    return list(zip(*parts, strict=True))

"""A recipe's stages before the compile, on one page: train, prune, fine-tune, export.

What is left for the compile (calibration, quantization-aware training, the gate) is handed on.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import Pruned
from deepseek_edge.datasets import Dataset
from deepseek_edge.digest import digest_bytes, digest_json
from deepseek_edge.export import fix_shapes, load_module
from deepseek_edge.export.torch_module import export_module
from deepseek_edge.parity import graph_inputs
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.evaluating import fit, load_evaluation
from deepseek_edge.pipeline.given import FineTune, Given, Progress
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.pipeline.stages import Stages
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.training import (
    TrainConfig,
    TrainingData,
    cross_entropy,
    distill,
    load_training_data,
    split,
    train,
)

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from deepseek_edge.compression import PrunedModel
    from deepseek_edge.quantization import QuantizedModel
    from deepseek_edge.training.config import Loss


# Samples that importance by the slope of the loss looks at.
_SCORED, _BATCH = 512, 64


@dataclass(frozen=True)
class Workshop:
    """Where stages work, and whom they tell.

    Attributes:
        folder: for checkpoints, from which an interrupted run goes on.
        keys: what each stage's result depends on, as a digest; a checkpoint of others is not its.
    """

    folder: Path
    keys: Mapping[str, str]
    narrate: Narrate
    progress: Progress
    clock: Stopwatch

    def train(
        self,
        module: nn.Module,
        data: TrainingData | None,
        config: TrainConfig,
        stage: str,
        loss: Loss = cross_entropy,
    ) -> None:
        """Train a module in place, or go on with that."""
        assert data is not None, "a recipe that trains has data"
        checkpoint = self.checkpoint(stage, config)
        result = train(
            module,
            data,
            config,
            loss=loss,
            checkpoint=checkpoint,
            progress=lambda _, done, total: self.progress(stage, done, total),
        )
        self.narrate(f"{stage}: loss {result.losses[-1]:.4f}, {result.seconds:.0f} s")

    def checkpoint(self, stage: str, config: TrainConfig) -> Path:
        """Where a stage keeps its state; it is told that it begins, or goes on."""
        path = self.folder / f"{stage}-{self.keys[stage.partition('-')[0]]}.safetensors"
        again = ", from its checkpoint" if path.exists() else ""
        self.narrate(f"{stage}: {config.epochs} epochs{again}")
        return path


def open_workshop(
    request: CompileRequest, folder: Path, narrate: Narrate, progress: Progress
) -> Workshop:
    """A workshop for the recipe of a request.

    Args:
        request: with a recipe.
        folder: exists.
        narrate: told lines for a person.
        progress: told (stage, done, total).
    """
    assert request.recipe is not None
    tables, keys = {"model": str(request.model)}, {}
    for name in ("data", "train", "prune", "sparsify", "fine_tune"):
        tables[name] = repr(getattr(request.recipe, name))
        keys[name] = digest_json(tables)[:12]
    # Rounds of pruning train between them.
    keys["prune"] = keys["fine_tune"]
    return Workshop(folder, keys, narrate, progress, Stopwatch())


def compress(request: CompileRequest, stages: Stages, shop: Workshop) -> Given:
    """Make of a factory's module the graph that is compiled.

    Args:
        request: to which its recipe was applied.
        stages: of that recipe.
        shop: where to work.

    Raises:
        UsageError: the data don't fit the module.
        UnsupportedError: it can't be pruned or exported; TrainingError: the training failed.
        OutputError: a checkpoint can't be written.
    """
    clock = shop.clock
    module, inputs = load_module(str(request.model))
    _check_early(module, inputs, request, stages)
    with clock.stage("data"):
        data, held = _load_data(stages)
    if stages.train is not None:
        with clock.stage("train"):
            shop.train(module, data, stages.train[0], "train")
    unpruned, pruned = None, None
    if stages.prune is not None:
        if request.evaluation is not None:
            unpruned = _export(module, inputs, request)
        with clock.stage("prune"):
            teacher, (module, pruned) = module, _prune(module, inputs, data, stages, shop)
        if stages.fine_tune is not None:
            config, own = stages.fine_tune
            with clock.stage("fine-tune"):
                loss = _loss(teacher, config) if own.distill else cross_entropy
                shop.train(module, data, config, "fine_tune", loss)
    with clock.stage("export"):
        model = _export(module, inputs, request)
    return Given(
        model=model,
        unpruned=unpruned,
        pruned=pruned,
        calibration=_as_dataset(data, stages, model, "training part"),
        validation=_as_dataset(held, stages, model, "held out"),
        fine_tune=_quantized_training(stages, data, shop),
        trains_first=stages.qat is not None and stages.qat[1].when == "always",
        time_s=clock.stages(),
    )


def _check_early(
    module: nn.Module, inputs: tuple[Any, ...], request: CompileRequest, stages: Stages
) -> None:
    """Refuse before hours of training what would be refused after them."""
    model = _export(module, inputs, request)
    if stages.dataset is not None:
        fit(stages.dataset, model)
    if request.evaluation is not None:
        fit(load_evaluation(request, request.evaluation), model)


def _export(module: nn.Module, inputs: tuple[Any, ...], request: CompileRequest) -> onnx.ModelProto:
    return fix_shapes(export_module(module, inputs), request.shapes)


def _load_data(stages: Stages) -> tuple[TrainingData | None, TrainingData | None]:
    """What is trained on, and what is held out."""
    if stages.dataset is None or stages.data is None:
        return None, None
    limit, held = stages.data.samples, stages.data.validation
    data = load_training_data(stages.dataset, limit=limit, augment=stages.augment)
    return split(data, validation=held) if held else (data, None)


def _loss(teacher: nn.Module, config: TrainConfig) -> Loss:
    return distill(teacher, label_smoothing=config.label_smoothing)


def _prune(
    module: nn.Module,
    inputs: tuple[Any, ...],
    data: TrainingData | None,
    stages: Stages,
    shop: Workshop,
) -> tuple[nn.Module, Pruned]:
    """A smaller copy of a module, and what was removed."""
    remove = _remove if stages.sparsify is None else _fade
    result = remove(module, inputs, data, stages, shop)
    found = result.report
    shop.narrate(
        f"pruned: {found.parameters_before:,} to {found.parameters_after:,} parameters, "
        f"{found.macs_before:,} to {found.macs_after:,} multiply-accumulates"
    )
    names = [field.name for field in fields(Pruned)]
    return result.module, Pruned(**{name: getattr(found, name) for name in names})


def _remove(
    module: nn.Module,
    inputs: tuple[Any, ...],
    data: TrainingData | None,
    stages: Stages,
    shop: Workshop,
) -> PrunedModel:
    """Remove the least important channels, trained between rounds."""
    from deepseek_edge.compression import ChannelPruner

    prune = stages.prune
    assert prune is not None and prune.ratio != "auto"
    rounds = itertools.count(1)

    def fine_tune(pruned: nn.Module) -> None:
        if stages.fine_tune is not None:
            shop.train(pruned, data, stages.fine_tune[0], f"prune-{next(rounds)}")

    return ChannelPruner(
        (module, inputs),
        prune.ratio,
        importance=prune.importance,
        by=prune.by,
        scope=prune.scope,
        round_to=prune.round_to,
        excluded=prune.excluded,
        iterations=prune.iterations,
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

    prune = stages.prune
    assert prune is not None and prune.ratio != "auto"
    assert stages.sparsify is not None and data is not None
    config, own = stages.sparsify
    trainer = SparsityTrainer(
        copy.deepcopy(module),
        data,
        config,
        target_ratio=prune.ratio,
        by=prune.by,
        round_to=prune.round_to,
        excluded=prune.excluded,
        kind=own.kind,
        penalty=own.penalty,
        begin=own.begin,
        end=own.end,
        updates=own.updates,
        example_inputs=inputs,
        loss=_loss(module, config) if own.distill else cross_entropy,
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


def _as_dataset(
    data: TrainingData | None, stages: Stages, model: onnx.ModelProto, part: str
) -> Dataset | None:
    """Tensors in memory as a data set for the model's input."""
    if data is None or stages.dataset is None:
        return None
    (spec,) = graph_inputs(model)  # more than one was refused
    whole = stages.dataset
    return replace(
        whole,
        id=f"{whole.id} ({part})",
        sha256=digest_bytes(f"{whole.sha256} {part}".encode()),
        preprocess=None,
        content={spec.name: data.inputs.numpy()},
        targets=data.labels.numpy(),
    )


def _quantized_training(
    stages: Stages, data: TrainingData | None, shop: Workshop
) -> FineTune | None:
    """What quantization-aware training is for the compile: from one Q/DQ graph to another."""
    if stages.qat is None or data is None:
        return None
    config, own = stages.qat

    def fine_tune(quantized: QuantizedModel, progress: Progress) -> QuantizedModel:
        from deepseek_edge.quantization import qat

        shop.narrate(f"qat: {config.epochs} epochs")
        graph = quantized.model.SerializeToString(deterministic=True)
        return qat.fine_tune(
            quantized,
            data,
            config,
            observe_epochs=own.observe_epochs,
            compiled=own.compiled,
            checkpoint=shop.folder / f"qat-{digest_bytes(graph)[:12]}.safetensors",
            progress=lambda _, done, total: progress("qat", done, total),
        )

    return fine_tune

"""A recipe's stages before the compile, on one page: train, prune, fine-tune, export.

What is left for the compile (calibration, quantization-aware training, the gate) is handed on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepseek_edge.datasets import Dataset
from deepseek_edge.digest import digest_bytes
from deepseek_edge.export import fix_shapes, load_module
from deepseek_edge.export.torch_module import export_module
from deepseek_edge.parity import graph_inputs
from deepseek_edge.pipeline.evaluating import fit, load_evaluation
from deepseek_edge.pipeline.given import FineTune, Given, Progress
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.pipeline.removing import prune, taught_by
from deepseek_edge.pipeline.stages import Stages
from deepseek_edge.pipeline.workshop import Workshop
from deepseek_edge.training import (
    TrainingData,
    check_classes,
    cross_entropy,
    load_training_data,
    split,
)

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from deepseek_edge.quantization import QuantizedModel


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
    whole = _check_early(module, inputs, request, stages)
    with clock.stage("data"):
        data, held = _load_data(stages)
    if stages.train is not None:
        assert data is not None, "a recipe that trains has data"
        check_classes(data.labels, _count_classes(whole))
        with clock.stage("train"):
            shop.train(module, data, stages.train[0], "train")
    unpruned, pruned = None, None
    if stages.prune is not None:
        if request.evaluation is not None:
            unpruned = _export(module, inputs, request)
        with clock.stage("prune"):
            teacher, (module, pruned) = module, prune(module, inputs, data, stages, shop)
        if stages.fine_tune is not None:
            config, own = stages.fine_tune
            with clock.stage("fine-tune"):
                loss = taught_by(teacher, config) if own.distill else cross_entropy
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
) -> onnx.ModelProto:
    """Refuse before hours of training what would be refused after them; the untrained graph."""
    model = _export(module, inputs, request)
    if stages.dataset is not None:
        fit(stages.dataset, model)
    if request.evaluation is not None:
        fit(load_evaluation(request, request.evaluation), model)
    return model


def _count_classes(model: onnx.ModelProto) -> int:
    """How many logits the first output has."""
    return int(model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value)


def _export(module: nn.Module, inputs: tuple[Any, ...], request: CompileRequest) -> onnx.ModelProto:
    return fix_shapes(export_module(module, inputs), request.shapes)


def _load_data(stages: Stages) -> tuple[TrainingData | None, TrainingData | None]:
    """What is trained on, and what is held out."""
    if stages.dataset is None or stages.data is None:
        return None, None
    limit, held = stages.data.samples, stages.data.validation
    data = load_training_data(stages.dataset, limit=limit, augment=stages.augment)
    return split(data, validation=held) if held else (data, None)


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

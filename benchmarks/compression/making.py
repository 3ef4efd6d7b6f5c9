"""Networks before and after compression, as ONNX graphs in a folder; what is there stays."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import nn

from benchmarks.compression.experiments import (
    BASELINES,
    CALIBRATION_IMAGES,
    QUICK_CALIBRATION_IMAGES,
    Experiment,
    shortened,
)
from deepseek_edge.compression import ChannelPruner, SparsityTrainer
from deepseek_edge.export.torch_module import export_module
from deepseek_edge.files import write_atomic
from deepseek_edge.quantization import Quantizer
from deepseek_edge.quantization.qat import fine_tune
from deepseek_edge.quantization.quantizer import QuantizedModel
from deepseek_edge.training import TrainConfig, TrainingData, distill, train
from examples.fashion import build, example_input, load_trained, save_trained
from examples.train_fashion import augmentation

if TYPE_CHECKING:
    import numpy as np

# Share of the training after which all channels that go have faded: what is left needs most of it.
# With 14 epochs and 0.6, ResNet-50 lost 1.35 points (seed 0).
_FADED_AT = 0.4

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Workshop:
    """Where and with what networks are made.

    Attributes:
        folder: of the graphs and the float networks' weights.
        data: all training images, not augmented.
        is_quick: train for one pass over few images.
    """

    folder: Path
    data: TrainingData
    is_quick: bool
    progress: Progress

    def settings(self, config: TrainConfig, seed: int) -> TrainConfig:
        """How long to train, and from which seed."""
        return replace(shortened(config) if self.is_quick else config, seed=seed)


def augmented(data: TrainingData) -> TrainingData:
    """Shifted, mirrored and partly hidden images."""
    return replace(data, augment=augmentation(2, 0.2))


def make_pair(
    experiment: Experiment, seed: int, workshop: Workshop, tell: Tell
) -> tuple[Path, Path]:
    """The graph before, float32, and the graph after.

    Raises:
        DeepSeekEdgeError: the training diverged, or a file can't be written.
    """
    before = workshop.folder / f"{experiment.network}-{seed}.onnx"
    after = workshop.folder / f"{experiment.name}-{seed}.onnx"
    if not before.is_file():
        _write(before, to_graph(make_baseline(experiment.network, seed, workshop, tell)))
    if not after.is_file():
        tell(f"{experiment.name}, seed {seed}: {experiment.change}")
        began = time.monotonic()
        if experiment.change == "ptq":
            graph = quantize(onnx.load(before), seed, workshop).model
        else:
            network = make_baseline(experiment.network, seed, workshop, tell)
            graph = _CHANGES[experiment.change](experiment, seed, network, workshop)
        _write(after, graph)
        _note_time(after, time.monotonic() - began)
    return before, after


def make_baseline(name: str, seed: int, workshop: Workshop, tell: Tell) -> nn.Module:
    """The trained float network."""
    path = workshop.folder / f"{name}-{seed}.safetensors"
    if not path.is_file():
        tell(f"{name}, seed {seed}: training")
        network, data = build(name, seed), augmented(workshop.data)
        config = workshop.settings(BASELINES[name], seed)
        result = train(network, data, config, progress=workshop.progress)
        save_trained(network, path)
        _note_time(path, result.seconds)
    return load_trained(name, path)[0]


def to_graph(network: nn.Module) -> onnx.ModelProto:
    """The network at a batch of 1."""
    return export_module(network, (example_input(),), dynamic=({},))


def _prune(
    experiment: Experiment, seed: int, network: nn.Module, workshop: Workshop
) -> onnx.ModelProto:
    assert experiment.ratio is not None and experiment.training is not None
    pruned = ChannelPruner((network, (example_input(),)), experiment.ratio).compress().module
    _recover(pruned, network, workshop.settings(experiment.training, seed), workshop)
    return to_graph(pruned)


def _recover(
    module: nn.Module, teacher: nn.Module, config: TrainConfig, workshop: Workshop
) -> None:
    train(
        module,
        augmented(workshop.data),
        config,
        loss=distill(teacher),
        progress=workshop.progress,
    )


def _sparsify(
    experiment: Experiment, seed: int, network: nn.Module, workshop: Workshop
) -> onnx.ModelProto:
    assert experiment.ratio is not None and experiment.training is not None
    config = workshop.settings(experiment.training, seed)
    trainer = SparsityTrainer(
        copy.deepcopy(network),
        augmented(workshop.data),
        config,
        target_ratio=experiment.ratio,
        begin=0.05,
        end=_FADED_AT,
        example_inputs=(example_input(),),
        loss=distill(network),
    )
    pruned, _ = trainer.train(progress=workshop.progress)
    return to_graph(pruned.module)


def quantize(graph: onnx.ModelProto, seed: int, workshop: Workshop) -> QuantizedModel:
    """Post-training quantization on some training images."""
    data = workshop.data
    images = QUICK_CALIBRATION_IMAGES if workshop.is_quick else CALIBRATION_IMAGES
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    name = graph.graph.input[0].name
    samples: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = [
        {name: data.inputs[index : index + 1].numpy()} for index in order[:images].tolist()
    ]
    return Quantizer(graph).calibrate(samples).quantize()


def _qat(
    experiment: Experiment, seed: int, network: nn.Module, workshop: Workshop
) -> onnx.ModelProto:
    assert experiment.training is not None
    return fine_tune(
        quantize(to_graph(network), seed, workshop),
        augmented(workshop.data),
        workshop.settings(experiment.training, seed),
        teacher=network,
        progress=workshop.progress,
    ).model


_CHANGES = {"prune": _prune, "sparsify": _sparsify, "qat": _qat}


def _write(path: Path, graph: onnx.ModelProto) -> None:
    write_atomic(path, graph.SerializeToString(deterministic=True))


def _note_time(path: Path, seconds: float) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    note = {"seconds": round(seconds, 1), "device": device, "torch": torch.__version__}
    write_atomic(path.with_suffix(path.suffix + ".json"), json.dumps(note).encode())

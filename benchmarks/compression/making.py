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
    Experiment,
)
from deepseek_edge.compression import ChannelPruner, SparsityTrainer
from deepseek_edge.export.torch_module import export_module
from deepseek_edge.files import write_atomic
from deepseek_edge.quantization import Quantizer
from deepseek_edge.quantization.qat import fine_tune
from deepseek_edge.quantization.quantizer import QuantizedModel
from deepseek_edge.training import TrainingData, distill, train
from examples.fashion import build, example_input, load_trained, save_trained

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
        data: the images to train on.
        calibration: so many of them are for quantization.
    """

    folder: Path
    data: TrainingData
    calibration: int
    progress: Progress


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
        network, config = build(name, seed), replace(BASELINES[name], seed=seed)
        result = train(network, workshop.data, config, progress=workshop.progress)
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
    config = replace(experiment.training, seed=seed)
    train(pruned, workshop.data, config, loss=distill(network), progress=workshop.progress)
    return to_graph(pruned)


def _sparsify(
    experiment: Experiment, seed: int, network: nn.Module, workshop: Workshop
) -> onnx.ModelProto:
    assert experiment.ratio is not None and experiment.training is not None
    trainer = SparsityTrainer(
        copy.deepcopy(network),
        workshop.data,
        replace(experiment.training, seed=seed),
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
    data, generator = workshop.data, torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data), generator=generator)[: workshop.calibration]
    name = graph.graph.input[0].name
    samples: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = [
        {name: data.inputs[index : index + 1].numpy()} for index in chosen.tolist()
    ]
    return Quantizer(graph).calibrate(samples).quantize()


def _qat(
    experiment: Experiment, seed: int, network: nn.Module, workshop: Workshop
) -> onnx.ModelProto:
    assert experiment.training is not None
    return fine_tune(
        quantize(to_graph(network), seed, workshop),
        workshop.data,
        replace(experiment.training, seed=seed),
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

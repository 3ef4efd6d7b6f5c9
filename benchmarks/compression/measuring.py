"""Two graphs as compiled artifacts: accuracy on the same images, sizes, and times in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from benchmarks.interleaved import Turn, engine_turn, median_ms, take_turns
from deepseek_edge.datasets import Dataset
from deepseek_edge.deploy import EdgeDeployer
from deepseek_edge.evaluation import Evaluated, compare, evaluate
from deepseek_edge.report import ProgramReport
from deepseek_edge.runtime.engine import Engine

LARGE = 224  # pixels, beside the images' own size


@dataclass(frozen=True)
class Measured:
    """A graph compiled for this machine, for small and for large images.

    Attributes:
        small, large: the libraries.
        report: of the small one.
        accuracy: of that on the images.
    """

    parameters: int
    small: Path
    large: Path
    report: ProgramReport
    accuracy: Evaluated


class Bench:
    """Compiles graphs and runs them on labelled images; each graph once."""

    def __init__(self, folder: Path, images: Dataset) -> None:
        """Keep libraries in ``folder``."""
        self._folder, self._images = folder, images
        self._known: dict[Path, Measured] = {}

    def compare(self, before: Path, after: Path) -> dict[str, Any]:
        """Everything that a row says about two graphs; their times are taken in turns.

        Raises:
            ParityError: an artifact computes something else than its graph.
        """
        old, new = (self.measure(path) for path in (before, after))
        drop = compare(old.accuracy, new.accuracy)
        ms, ms_large = (
            _times_ms(*pair) for pair in ((old.small, new.small), (old.large, new.large))
        )
        program = new.report.program
        return {
            "params_before": old.parameters,
            "params_after": new.parameters,
            "weights_bytes_before": old.report.program.weights_bytes,
            "weights_bytes_after": program.weights_bytes,
            "size_bytes": program.size_bytes,
            "int8_macs_share": program.layers.int8_macs_share,
            "samples": len(self._images),
            "top1_before": old.accuracy.percent,
            "top1_after": new.accuracy.percent,
            "drop_pp": round(drop.pp, 3),
            "ci_pp": round(drop.ci_pp, 3),
            "ms_before": ms[0],
            "ms_after": ms[1],
            f"ms{LARGE}_before": ms_large[0],
            f"ms{LARGE}_after": ms_large[1],
        }

    def measure(self, path: Path) -> Measured:
        """Compile a graph, compare it with itself, and let it classify all images."""
        if path not in self._known:
            graph, small = onnx.load(path), self._folder / f"{path.stem}.so"
            large = small.with_name(f"{path.stem}-{LARGE}.so")
            report = EdgeDeployer(graph, target_device="host").export(small)
            EdgeDeployer(resized(graph, LARGE), target_device="host").export(large)
            accuracy = _accuracy(small, self._images)
            self._known[path] = Measured(count_parameters(graph), small, large, report, accuracy)
        return self._known[path]


def count_parameters(graph: onnx.ModelProto) -> int:
    """Weights and biases of layers, whatever they are stored as.

    Batch normalizations are folded; scales and zero points of quantization are no parameters.
    """
    quantized = {
        name
        for node in graph.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input[1:]
    }
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    return sum(
        int(numpy_helper.to_array(tensor).size)
        for name, tensor in tensors.items()
        if name not in quantized and tensor.data_type != onnx.TensorProto.INT64
    )


def resized(graph: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same convolutional network for square images of another size."""
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    height, width = other.graph.input[0].type.tensor_type.shape.dim[2:]
    height.dim_value = width.dim_value = size
    del other.graph.value_info[:]
    return other


def _accuracy(library: Path, images: Dataset) -> Evaluated:
    with Engine(library, threads=2) as engine:
        (spec,) = engine.inputs(0)

        def run(sample: Mapping[str, Any]) -> Mapping[str, Any]:
            (value,) = sample.values()
            return engine.run({spec.name: value})

        return evaluate(run, images, "top1")


def _times_ms(before: Path, after: Path) -> tuple[float, float]:
    """Medians on one thread."""
    with _turn(before) as first, _turn(after) as second:
        rounds = take_turns([first, second])
    return median_ms(rounds[0]), median_ms(rounds[1])


@contextmanager
def _turn(library: Path) -> Iterator[Turn]:
    import numpy as np

    with Engine(library, threads=1) as engine:
        random = np.random.default_rng(0)
        engine.run(
            {
                spec.name: random.standard_normal(spec.shape, dtype=np.float32)
                for spec in engine.inputs(0)
            }
        )
        yield partial(engine_turn, engine)

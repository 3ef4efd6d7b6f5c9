"""What INT8 costs the named models, by observer, rounding and scheme.

``python -m benchmarks.quantization [MODEL ...] [--all]`` calibrates each model on data that it is
not judged on, runs the Q/DQ graph in onnxruntime without optimizations, and writes
``benchmarks/results/quantization.json``: SQNR of the first output, pooled over the samples, and
the task's score where there are labels. ``--all`` compares every observer and rounding.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import text_lines
from benchmarks.models import model_path
from deepseek_edge.datasets import load_dataset
from deepseek_edge.distance import compare_float
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import Reference, graph_inputs, sample_inputs
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.quantization.calibrate import FewSamplesWarning

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
# Outputs of all samples -> how many are right.
Score = Callable[[Sequence[Array]], int]

RESULTS = Path(__file__).parent / "results" / "quantization.json"
LINES = 60


@dataclass(frozen=True)
class Trial:
    """A model with data to calibrate on and other data to be judged on.

    Attributes:
        score: None without labels.
    """

    model: onnx.ModelProto
    calibration: list[Sample]
    evaluation: list[Sample]
    score: Score | None = None


def efficientnet_lite0(model: onnx.ModelProto) -> Trial:
    """Photos of scikit-image, judged on foolbox's ImageNet photos: top-1."""
    calibration = load_dataset("skimage-photos").for_inputs(["x"])
    evaluation = load_dataset("imagenet-foolbox-20").for_inputs(["x"])
    targets = evaluation.targets
    assert targets is not None

    def top1(outputs: Sequence[Array]) -> int:
        found = zip(outputs, targets, strict=True)
        return sum(int(output.argmax()) == int(label) for output, label in found)

    return Trial(
        model,
        [calibration.sample(i) for i in range(len(calibration))],
        [evaluation.sample(i) for i in range(len(evaluation))],
        top1,
    )


def opennsfw(model: onnx.ModelProto) -> Trial:
    """The same photos as its package prepares them: NHWC, BGR minus the means."""

    def photos(dataset_id: str) -> list[Sample]:
        data = load_dataset(dataset_id)
        means = np.array([104, 117, 123], np.float32)
        samples = []
        for index in range(len(data)):
            pixels = next(iter(data.sample(index).values())) * 128 + 127
            bgr = pixels[:, ::-1].transpose(0, 2, 3, 1) - means
            samples.append({"input:0": np.ascontiguousarray(bgr, np.float32)})
        return samples

    return Trial(model, photos("skimage-photos"), photos("imagenet-foolbox-20"))


def rapidocr_cls(model: onnx.ModelProto) -> Trial:
    """Drawn lines, each upright and upside down."""

    def lines(seed: int, count: int) -> list[Sample]:
        random = np.random.default_rng(seed)
        images = [text_lines.line_image(text_lines.line_text(random), random) for _ in range(count)]
        return [
            {"x": text_lines.line_tensor(image, 192, upside_down=turned)}
            for image in images
            for turned in (False, True)
        ]

    def directions(outputs: Sequence[Array]) -> int:
        return sum(int(output.argmax()) == index % 2 for index, output in enumerate(outputs))

    return Trial(model, lines(1, 16), lines(2, LINES), directions)


def rapidocr_rec(model: onnx.ModelProto) -> Trial:
    """Drawn lines, read by greedy CTC; a line is right if every character is."""

    def lines(seed: int, count: int) -> tuple[list[Sample], list[str]]:
        random = np.random.default_rng(seed)
        texts = [text_lines.line_text(random) for _ in range(count)]
        images = [text_lines.line_image(text, random) for text in texts]
        return [{"x": text_lines.line_tensor(image, 320)} for image in images], texts

    characters = next(p.value for p in model.metadata_props if p.key == "character")
    alphabet = ["", *characters.split("\n"), " "]
    samples, texts = lines(2, LINES)

    def exact(outputs: Sequence[Array]) -> int:
        read = [_greedy(output[0], alphabet) for output in outputs]
        return sum(a == b for a, b in zip(read, texts, strict=True))

    return Trial(model, lines(1, 32)[0], samples, exact)


def _greedy(probabilities: Array, alphabet: Sequence[str]) -> str:
    best = probabilities.argmax(axis=1)
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    return "".join(alphabet[index] for index in best[changes] if index < len(alphabet))


def rapidocr_det(model: onnx.ModelProto) -> Trial:
    """Drawn pages; no score."""

    def pages(seed: int, count: int) -> list[Sample]:
        random = np.random.default_rng(seed)
        images = [text_lines.page_image(random, 640) for _ in range(count)]
        return [{"x": text_lines.page_tensor(image)} for image in images]

    return Trial(model, pages(1, 8), pages(2, 4))


def synthetic(model: onnx.ModelProto) -> Trial:
    """Random inputs, for seeded weights: says nothing about accuracy."""
    specs = graph_inputs(model)
    samples = [dict(sample_inputs(model, specs, number)) for number in range(12)]
    return Trial(model, samples[:8], samples[8:])


TRIALS: dict[str, Callable[[onnx.ModelProto], Trial]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "opennsfw": opennsfw,
    "rapidocr-cls": rapidocr_cls,
    "rapidocr-rec": rapidocr_rec,
    "rapidocr-det": rapidocr_det,
    "minilm-128": synthetic,
    "mobilenetv2": synthetic,
    "mobilenetv3-large": synthetic,
    "mobilenetv3-small": synthetic,
    "resnet-18": synthetic,
    "resnet-50": synthetic,
}
VARIANTS = (
    QuantConfig(rounding="nearest"),
    *(QuantConfig(observer=o) for o in ("moving-average", "percentile", "entropy", "mse")),
    QuantConfig(quant_scheme="symmetric"),
    QuantConfig(equalization=False),
)


def measure(name: str, configs: Sequence[QuantConfig], keep: Path | None) -> Iterator[Any]:
    """One row a config.

    Args:
        name: a key of ``TRIALS``.
        configs: to try.
        keep: a folder for the Q/DQ graph of the first config.
    """
    trial = TRIALS[name](onnx.load(model_path(name)))
    exact = Reference(trial.model)
    expected = [exact.run(sample) for sample in trial.evaluation]
    for number, config in enumerate(configs):
        start = time.perf_counter()
        quantizer = Quantizer(trial.model, config).calibrate(trial.calibration)
        quantized = quantizer.quantize()
        seconds = time.perf_counter() - start
        run = Reference(quantized.model)
        actual = [run.run(sample) for sample in trial.evaluation]
        found = compare_float(expected, actual)
        if keep is not None and number == 0:
            write_atomic(keep / f"{name}.onnx", quantized.model.SerializeToString())
        yield {
            "model": name,
            **asdict(config),
            "calibration_samples": len(trial.calibration),
            "samples": len(expected),
            "sqnr_db": round(found.sqnr_db, 2),
            "score": _score(trial, actual),
            "score_float": _score(trial, expected),
            "layers_int8": len(quantized.layers),
            "layers_float": len(quantized.kept_float),
            "seconds": round(seconds, 1),
        }


def _score(trial: Trial, outputs: Sequence[Any]) -> int | None:
    if trial.score is None:
        return None
    return trial.score([next(iter(output.values())) for output in outputs])


def main() -> None:
    """Measure, print each row, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=", ".join(TRIALS))
    parser.add_argument("--all", action="store_true", help="every observer and rounding")
    parser.add_argument("--keep", type=Path, help="a folder for the Q/DQ graphs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FewSamplesWarning)
    configs = [QuantConfig(), *(VARIANTS if arguments.all else ())]
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else []
    for name in arguments.models or TRIALS:
        for row in measure(name, configs, arguments.keep):
            print(json.dumps(row), flush=True)
            rows = [old for old in rows if _key(old) != _key(row)] + [row]
    write_atomic(RESULTS, (json.dumps(rows, indent=1) + "\n").encode())


def _key(row: Any) -> list[Any]:
    return [row["model"], *(row[name] for name in asdict(QuantConfig()))]


if __name__ == "__main__":
    main()

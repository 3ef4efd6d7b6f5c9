"""Which way of quantizing serves best on calibration data that it has not seen.

``python -m benchmarks.holdout [MODEL ...]`` parts each model's calibration samples in folds, takes
ranges and rounding from all but one and measures the SQNR of the first output on that one, for each
in turn. ``--folds`` and ``--rounding`` measure some ways more thoroughly. The defaults of
``QuantConfig`` are chosen by what it writes to ``benchmarks/results/holdout.json``, so that data
for evaluation chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from benchmarks.models import model_path
from benchmarks.quantization import TRIALS, Sample, synthetic
from deepseek_edge.distance import compare_float
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import Reference
from deepseek_edge.quantization import QuantConfig, QuantizedModel, Quantizer
from deepseek_edge.quantization.calibrate import FewSamplesWarning

RESULTS = Path(__file__).parent / "results" / "holdout.json"
MODELS = ("efficientnet-lite0", "mobilenetv2")
# Observers, scheme and equalization differ from the first by one thing each. Nearest rounding
# makes that quick; what rounding itself is worth follows.
PLAIN = QuantConfig(rounding="nearest")
CONFIGS = (
    PLAIN,
    replace(PLAIN, observer="moving-average"),
    replace(PLAIN, observer="percentile"),
    replace(PLAIN, observer="entropy"),
    replace(PLAIN, observer="mse"),
    replace(PLAIN, quant_scheme="symmetric"),
    replace(PLAIN, equalization=False),
    QuantConfig(),
    QuantConfig(equalization=False),
)


def without_correction(found: QuantizedModel) -> QuantizedModel:
    """The same integers with the float model's biases."""
    rounded = replace(found.parts.rounded, biases={})
    return replace(found, parts=replace(found.parts, rounded=rounded)).keep_float({})


def measure(name: str, folds: int, configs: Sequence[QuantConfig]) -> Iterator[dict[str, Any]]:
    """Rows of a model: one a way of quantizing."""
    model = onnx.load(model_path(name))
    samples = TRIALS[name](model).calibration
    exact = Reference(model)
    for config in configs:
        runs: dict[bool, list[tuple[Any, Any]]] = {True: [], False: []}
        for fold in range(folds):
            held_out = samples[fold::folds]
            fit = [sample for number, sample in enumerate(samples) if number % folds != fold]
            found = Quantizer(model, config).calibrate(fit).quantize()
            for is_corrected in runs if config.equalization else [True]:
                one = found if is_corrected else without_correction(found)
                runs[is_corrected] += _run_both(exact, Reference(one.model), held_out)
        for is_corrected, pairs in runs.items():
            if pairs:
                distance = compare_float([e for e, _ in pairs], [a for _, a in pairs])
                yield {
                    "model": name,
                    "weights": "random" if TRIALS[name] is synthetic else "trained",
                    **asdict(config),
                    "bias_correction": is_corrected,
                    "samples": len(pairs),
                    "folds": folds,
                    "sqnr_db": round(distance.sqnr_db, 2),
                }


def _run_both(
    exact: Reference, quantized: Reference, samples: Sequence[Sample]
) -> list[tuple[Any, Any]]:
    return [(exact.run(sample), quantized.run(sample)) for sample in samples]


def main() -> None:
    """Measure, print each row, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=", ".join(TRIALS))
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--rounding", help="only this one")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FewSamplesWarning)
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else []
    configs = [c for c in CONFIGS if arguments.rounding in (None, c.rounding)]
    for name in arguments.models or MODELS:
        for row in measure(name, arguments.folds, configs):
            print(json.dumps(row), flush=True)
            rows = [old for old in rows if _key(old) != _key(row)] + [row]
    write_atomic(RESULTS, (json.dumps(rows, indent=1) + "\n").encode())


def _key(row: dict[str, Any]) -> list[Any]:
    return [value for key, value in row.items() if key not in ("samples", "sqnr_db")]


if __name__ == "__main__":
    main()

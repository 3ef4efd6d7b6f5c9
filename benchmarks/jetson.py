"""What the named models become for Jetsons, on a machine without one.

``python -m benchmarks.jetson --json FILE [--models MODEL ...]`` builds each model's float32,
float16 and int8 graph with TensorRT for RTX, int8 also with its float parts in float16, for the two
GPUs nearest to Orin's (8.7) that it builds for. ``weights_bytes``, which TensorRT states, tells
what stayed int8: a quarter of the float32 engine's. The rest is kernels; RTX keeps about 130 KB for
each int8 convolution, whatever its size. FILE is written after each model; rows of models that
aren't named are kept.

A row: ``model, target, program, ok, engine_bytes, float_engine_bytes, sm, reason``, and of an
engine ``weights_bytes, float_weights_bytes``. The other rows are the programs of the bundles that
``compile --precision int8`` makes for Orin and Xavier: ``program_bytes``, and where it was
``verified``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jetson_bundle import bundle_rows
from benchmarks.machine import versions
from benchmarks.models import MODELS, model_path
from benchmarks.quantized import quantized_graph
from deepseek_edge.backends.tensorrt import EngineFile, build_engine, load_tensorrt_rtx
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic

Row = dict[str, Any]

SCHEMA = 1
NAMES = (
    "efficientnet-lite0",
    "resnet-18",
    "resnet-50",
    "mobilenetv2",
    "rapidocr-cls",
    "rapidocr-det",
    "rapidocr-rec",
    "opennsfw",
)
# The graph is that of every Jetson target: Xavier's differs in nothing that TensorRT sees.
TARGET = "jetson-orin"
SMS = ("8.6", "8.9")
# Name, precision, and what the float parts of an int8 graph are.
PROGRAMS = (
    ("float32", "float32", "float32"),
    ("float16", "float16", "float32"),
    ("int8", "int8", "float32"),
    ("int8-float16", "int8", "float16"),
)


def engine_rows(model: str, trt: Any) -> Iterator[Row]:
    """Rows of a model's engines; one that can't be built has the reason."""
    import onnx

    try:
        path = model_path(model)
        graphs = {"float32": onnx.load(path), "float16": onnx.load(path)}
        graphs["int8"] = onnx.load(quantized_graph(path, "symmetric"))
    except DeepSeekEdgeError as error:
        for sm in SMS:
            for program, _, _ in PROGRAMS:
                yield engine_row(model, program, sm, str(error), None)
        return
    for sm in SMS:
        float32: EngineFile | None = None
        for program, precision, rest in PROGRAMS:
            built = try_engine(graphs[precision], precision, rest, sm, trt)
            if program == "float32" and isinstance(built, EngineFile):
                float32 = built
            yield engine_row(model, program, sm, built, float32)


def try_engine(graph: Any, precision: str, rest: str, sm: str, trt: Any) -> EngineFile | str:
    """The engine, or why there is none."""
    try:
        return build_engine(graph, trt=trt, precision=precision, sm=sm, rest=rest)
    except DeepSeekEdgeError as error:
        return str(error)


def engine_row(
    model: str, program: str, sm: str, built: EngineFile | str, float32: EngineFile | None
) -> Row:
    """One row, from an engine or the reason why there is none."""
    engine = built if isinstance(built, EngineFile) else None
    return {
        "model": model,
        "target": TARGET,
        "program": f"tensorrt-rtx-{program}",
        "ok": engine is not None,
        "engine_bytes": None if engine is None else len(engine.data),
        "float_engine_bytes": None if float32 is None else len(float32.data),
        "sm": sm,
        "reason": built if isinstance(built, str) else None,
        "weights_bytes": None if engine is None else engine.weights_bytes,
        "float_weights_bytes": None if float32 is None else float32.weights_bytes,
    }


def rows_of(model: str, trt: Any) -> Iterator[Row]:
    """All rows of a model: its engines here, and the programs of its bundles."""
    yield from engine_rows(model, trt)
    try:
        path = model_path(model)
    except DeepSeekEdgeError:
        return  # the rows of its engines say why
    yield from bundle_rows(model, path)


def kept_rows(path: Path, models: Sequence[str]) -> list[Row]:
    """Rows of a file that are not about these models; none if there is no file.

    Raises:
        UsageError: it is no file of this benchmark.
    """
    if not path.exists():
        return []
    try:
        rows: list[Row] = json.loads(path.read_bytes())["rows"]
        return [row for row in rows if row["model"] not in models]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no file of this benchmark: {error}") from error


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """What the file holds."""
    order = {name: place for place, name in enumerate(NAMES)}
    ordered = sorted(rows, key=lambda row: order.get(row["model"], len(order)))
    packages = ("deepseek-edge", "tensorrt-rtx-cu13", "onnx")
    return {"schema": SCHEMA, "versions": versions(packages), "rows": ordered}


def main() -> int:
    """Write the rows; 1 if a graph became no engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(NAMES))
    options = parser.parse_args()
    try:
        trt = load_tensorrt_rtx()
        rows = kept_rows(options.json, options.models)
    except DeepSeekEdgeError as error:
        print(f"error: {error}\n\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    for model in options.models:
        began = time.perf_counter()
        rows += rows_of(model, trt)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.json, (json.dumps(report(rows), indent=1) + "\n").encode())
        print(f"{model}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The programs that a bundle for a Jetson holds, a row each (see ``benchmarks.jetson``)."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.report import CompileReport

Row = dict[str, Any]

TARGETS = ("jetson-orin", "jetson-xavier")
# What a program's id begins with, and what a note calls it.
KINDS = {"tensorrt": "TensorRT", "cuda": "CUDA", "cpu": "CPU"}


def bundle_rows(model: str, graph: Path) -> Iterator[Row]:
    """Rows of a model compiled in INT8 for each target; a program that is missing has the reason.

    Args:
        model: its name.
        graph: float ONNX file with static shapes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            samples = _write_samples(graph, folder / "calibration.npz")
            compiled = {target: _compile(graph, target, samples, folder) for target in TARGETS}
        except DeepSeekEdgeError as error:
            yield from (program_row(model, t, kind, str(error)) for t in TARGETS for kind in KINDS)
            return
    for target, report in compiled.items():
        yield from (program_row(model, target, kind, report) for kind in KINDS)


def _write_samples(graph: Path, file: Path) -> Path:
    import numpy as np
    import onnx

    from benchmarks.quantization import TRIALS, synthetic

    model = onnx.load(graph)
    samples = TRIALS.get(graph.stem, synthetic)(model).calibration
    stacked = {key: np.concatenate([sample[key] for sample in samples]) for key in samples[0]}
    np.savez(file, **stacked)  # type: ignore[arg-type]  # numpy's own option has a name too
    return file


def _compile(graph: Path, target: str, samples: Path, folder: Path) -> CompileReport:
    from deepseek_edge.pipeline import CompileRequest, compile_model
    from deepseek_edge.quantization import QuantConfig
    from deepseek_edge.quantization.calibrate import FewSamplesWarning

    request = CompileRequest(
        str(graph),
        targets=(target,),
        precision="int8",
        calibration=str(samples),
        # Compensated rounding takes minutes, and changes neither what runs nor how fast.
        quantization=QuantConfig(rounding="nearest"),
        output=folder / f"{target}.dse",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        (report,) = compile_model(request).reports
    return report


def program_row(model: str, target: str, kind: str, report: CompileReport | str) -> Row:
    """One row, from a bundle's report or the reason why there is none."""
    programs = () if isinstance(report, str) else report.programs
    found = next((one for one in programs if one.program.id.startswith(f"{kind}-")), None)
    reason = None
    if found is None:
        notes = (report,) if isinstance(report, str) else report.notes
        reason = next((note for note in notes if note.startswith(f"no {KINDS[kind]} ")), notes[0])
    gpu = None if found is None else found.program.gpu
    return {
        "model": model,
        "target": target,
        "program": kind if found is None else found.program.id,
        "ok": found is not None,
        "engine_bytes": None,
        "float_engine_bytes": None,
        "sm": None if gpu is None else f"{gpu[3:-1]}.{gpu[-1]}",
        "reason": reason,
        "program_bytes": None if found is None else found.program.size_bytes,
        "verified": None if found is None else found.verified,
    }

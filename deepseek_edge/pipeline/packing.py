"""Results on disk: bundles, and pages about them."""

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

from deepseek_edge.artifacts import Program
from deepseek_edge.bundle import write_bundle
from deepseek_edge.capabilities import nvrtc_package
from deepseek_edge.digest import digest_bytes, digest_file
from deepseek_edge.files import output_errors, write_atomic
from deepseek_edge.golden import GoldenTensor, golden_tensors
from deepseek_edge.manifest import (
    ProgramRecord,
    SourceModel,
    Thresholds,
    Tools,
    manifest_for_programs,
    program_record,
)
from deepseek_edge.pipeline.checking import CheckedProgram
from deepseek_edge.pipeline.evaluating import Evaluation
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget, model_name
from deepseek_edge.profiling.html import Chapter, render

LICENSES = b"""This bundle holds kernels generated from a model, the model's weights, and the
runtime of deepseek-edge.

runtime of deepseek-edge: Apache-2.0
model and weights: as their source says; deepseek-edge adds no terms to them
"""


def describe_source(model: str | onnx.ModelProto, fixed: onnx.ModelProto) -> SourceModel:
    """Name and digests of what is compiled; of an exported model, its graph stands for it."""
    graph_sha256 = digest_bytes(fixed.SerializeToString(deterministic=True))
    is_file = isinstance(model, str) and Path(model).is_file()
    return SourceModel(
        name=model_name(model),
        sha256=digest_file(Path(model)) if is_file else graph_sha256,
        graph_sha256=graph_sha256,
    )


def pack(
    request: CompileRequest,
    one: PlannedTarget,
    source: SourceModel,
    programs: Sequence[CheckedProgram],
    evaluation: Evaluation | None,
) -> None:
    """Write the bundle; ``programs`` are in order of preference.

    Raises:
        OutputError: it can't be written; nothing is left of it.
    """
    records: list[ProgramRecord] = []
    golden: list[GoldenTensor] = []
    members: dict[str, bytes | Path] = {"LICENSES": LICENSES}
    for checked in programs:
        report = checked.report
        # TensorRT's recipe has golden tensors of its own, for each precision.
        if checked.outputs:
            tensors, files = golden_tensors(
                report.program, checked.inputs, checked.outputs, tolerances=checked.tolerances
            )
            golden += tensors
            members |= files
        record = program_record(
            report.program,
            verified=report.verified,
            parity_graph=report.parity_graph,
            parity_float=report.parity_float,
        )
        records.append(record)
        members |= report.program.members
    manifest = manifest_for_programs(
        records,
        golden,
        model=source,
        target=one.target,
        tools=tool_versions([checked.report.program for checked in programs]),
        thresholds=Thresholds(max_drop_pp=request.max_drop_pp),
        preprocess=None if evaluation is None else evaluation.dataset.preprocess,
        labels=None if evaluation is None else evaluation.dataset.labels,
    )
    with output_errors(one.output):
        one.output.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(one.output, manifest, members)


def tool_versions(programs: Sequence[Program]) -> Tools:
    """Versions of what took part in making programs, in this process."""
    kernels_for = next((one.gpu for one in programs if one.backend == "tvm" and one.gpu), None)
    tvm = sys.modules.get("tvm")
    llvm = None if tvm is None else str(tvm.target.codegen.llvm_version_major())
    return Tools(
        deepseek_edge=_version("deepseek-edge") or "unknown",
        tvm=None if tvm is None else _version("apache-tvm"),
        ziglang=_version("ziglang"),
        llvm=llvm,
        nvrtc=None if kernels_for is None else _version(nvrtc_package(kernels_for)),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_page(path: Path, title: str, chapters: Sequence[Chapter]) -> None:
    """Write a page about bundles and profiles.

    Raises:
        OutputError: it can't be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(title, chapters).encode())

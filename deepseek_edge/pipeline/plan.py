"""What a compile is asked for, and what that comes to: refused here, before the first stage."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from deepseek_edge.capabilities import (
    check_compiler,
    check_gpu_compiler,
    check_plots,
    emulation_hint,
)
from deepseek_edge.errors import OutputError, UnsupportedError, UsageError
from deepseek_edge.pipeline.placement import Place, choose_place, is_this_machine
from deepseek_edge.pipeline.tuning_database import check_database
from deepseek_edge.quantization import QuantConfig
from deepseek_edge.recipe import Recipe
from deepseek_edge.target import Gpu, Target, load_target

PRECISIONS = ("auto", "float32", "float16", "int8", "w4a16")
COMPILED_PRECISIONS = ("float32", "int8")
GPU_PRECISIONS = (*COMPILED_PRECISIONS, "float16")
MOST_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what, and how strictly.

    Attributes:
        model: a path (.onnx, .pt2, a Hugging Face folder), "package.module:factory", or a graph.
        targets: ids; one bundle each.
        precision: of ``PRECISIONS``; None leaves the graph as it is: float32, or int8 if it
            has Q/DQ nodes. "auto" is int8 where that is faster.
        shapes: of inputs whose shape the model leaves open, by name.
        batches: an entry each; the entries share the weights.
        calibration: a data set's id or path, for int8 and auto.
        samples: how many of it at most.
        quantization: how; the scheme of activations is the target's. None: the defaults.
        preprocess: of a folder of images: id of a description whose preprocessing is meant.
        evaluation: a data set's id or path; None: accuracy isn't measured.
        metric: the data set's own if None.
        max_drop_pp: how much of the metric may be lost, in percentage points; None: no gate.
        require_run: refuse a target whose program can't be run here.
        cpu_only: leave out the programs for a target's GPU.
        dump: a folder in which each target's work directory is kept.
        output: a file, a folder, or a name with "{target}" in it; None: NAME-TARGET.dse here.
        html: where to write a page about it; programs that run here are profiled for it.
        tune_minutes: how long to search for faster schedules on this machine; None: not at all,
            0: use what was found before.
        tune_database: where that is kept; None: in the user's cache.
        recipe: what is done to a factory's module before; its options stand for those that are
            None here.
    """

    model: str | onnx.ModelProto
    targets: tuple[str, ...] = ("host",)
    precision: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batches: tuple[int, ...] = (1,)
    calibration: str | None = None
    samples: int | None = None
    quantization: QuantConfig | None = None
    preprocess: str | None = None
    evaluation: str | None = None
    metric: str | None = None
    max_drop_pp: float | None = None
    require_run: bool = False
    cpu_only: bool = False
    dump: Path | None = None
    output: Path | None = None
    html: Path | None = None
    tune_minutes: float | None = None
    tune_database: Path | None = None
    recipe: Recipe | None = None

    @property
    def has_data(self) -> bool:
        """There are data to take ranges from."""
        return self.calibration is not None or (
            self.recipe is not None and self.recipe.data is not None
        )


@dataclass(frozen=True)
class PlannedTarget:
    """One target of a request, resolved.

    Attributes:
        place: where the program will be run to check it; None: nowhere.
        output: the bundle to write.
    """

    target: Target
    place: Place | None
    output: Path


def make_plan(request: CompileRequest) -> tuple[PlannedTarget, ...]:
    """Resolve a request, or refuse it with the reason and the nearest thing that works.

    Raises:
        UsageError: the options contradict each other; UnknownTargetError: no such target.
        UnsupportedError: a target or this version can't do it; MissingToolError: a tool it
            needs is not installed.
        OutputError: an output folder can't be written.
    """
    _check_options(request)
    targets = tuple(load_target(id) for id in request.targets)
    for target in targets:
        _check_precision(request, target)
        _check_tuning(request, target)
    check_compiler()
    if not request.cpu_only:
        check_gpu_compiler([target.gpu.arch for target in targets if target.gpu is not None])
    if request.html is not None:
        check_plots()
    outputs = output_paths(request.output, model_name(request.model), [t.id for t in targets])
    for path in [*outputs, request.html, request.tune_database]:
        if path is not None:
            check_writable(path)
    if request.tune_database is not None:
        check_database(request.tune_database)
    planned = []
    for target, output in zip(targets, outputs, strict=True):
        place = choose_place(target)
        if place is None and (request.require_run or request.max_drop_pp is not None):
            raise UnsupportedError(
                f"a program for {target.id} can't be run on this machine",
                hint=emulation_hint(target.arch),
            )
        planned.append(PlannedTarget(target, place, output))
    return tuple(planned)


def describe_plan(request: CompileRequest, planned: Sequence[PlannedTarget]) -> Iterator[str]:
    """Say in lines what will be done, with every default resolved."""
    precision = request.precision or "as the graph"
    batches = ",".join(map(str, request.batches))
    yield f"model {model_name(request.model)}, precision {precision}, batch {batches}"
    for one in planned:
        place = f"checked on {one.place}" if one.place else "NOT RUN here"
        yield f"  {one.target.id} ({one.target.mcpu}): {place} -> {one.output}"
        if one.target.gpu is not None:
            yield f"    {_describe_gpu(request, one.target.gpu)}"
        if one.place is None:
            yield f"    hint: {emulation_hint(one.target.arch)}"
    if request.calibration is not None:
        yield f"  calibrated on {request.calibration}"
    elif request.has_data and request.precision in ("int8", "auto"):
        yield "  calibrated on what it is trained on"
    if request.tune_minutes is not None:
        yield f"  tuned for {request.tune_minutes:g} minutes"
    if request.evaluation is not None:
        gate = (
            "no gate" if request.max_drop_pp is None else f"at most {request.max_drop_pp} pp lost"
        )
        yield f"  accuracy on {request.evaluation}, {gate}"


def _describe_gpu(request: CompileRequest, gpu: Gpu) -> str:
    if request.cpu_only:
        return f"nothing for its GPU, {gpu.arch}: --cpu-only"
    cpu = "; the CPU program is float32" if request.precision == "float16" else ""
    return f"for its GPU: a CUDA program ({gpu.arch}), and what TensorRT builds from there{cpu}"


def model_name(model: str | onnx.ModelProto) -> str:
    """A file name's stem for the model."""
    if isinstance(model, onnx.ModelProto):
        return model.graph.name or "model"
    path = Path(model)
    if path.suffix in (".onnx", ".pt2"):
        return path.stem
    return model.rpartition(":")[2] if ":" in model else path.resolve().name


def output_paths(output: Path | None, name: str, targets: Sequence[str]) -> tuple[Path, ...]:
    """One path for each target.

    Raises:
        UsageError: two targets would write one file.
    """
    if output is None:
        paths = tuple(Path(f"{name}-{target}.dse") for target in targets)
    elif "{target}" in str(output):
        paths = tuple(Path(str(output).replace("{target}", target)) for target in targets)
    elif output.is_dir() or output.suffix == "":
        paths = tuple(output / f"{name}-{target}.dse" for target in targets)
    else:
        paths = tuple(output for _ in targets)
    if len(set(paths)) < len(paths):
        raise UsageError(
            f"several targets would write {paths[0]}",
            hint="name each target once, and give a folder or a name with {target}: "
            "-o 'model-{target}.dse'",
        )
    return paths


def _check_options(request: CompileRequest) -> None:
    if not request.targets:
        raise UsageError("no target is given", hint="--target host (deepseek-edge target list)")
    if request.precision not in (None, *PRECISIONS):
        raise UsageError(
            f"unknown precision {request.precision!r}", hint=f"one of {', '.join(PRECISIONS)}"
        )
    if not request.batches or min(request.batches) < 1:
        raise UsageError("a batch holds at least one sample", hint="--batch 1,4")
    if len(set(request.batches)) < len(request.batches):
        raise UsageError("a batch size is given twice", hint="--batch 1,4")
    if request.calibration is not None and request.precision not in ("int8", "auto"):
        raise UsageError("calibration data is for INT8", hint="add --precision int8 or auto")
    if not request.has_data and request.quantization is not None:
        raise UsageError("options of quantization need data", hint="add --calib SOURCE")
    if request.samples is not None and request.samples < 1:
        raise UsageError("at least one sample is needed", hint="leave --samples out for all")
    if request.evaluation is None and (request.metric or request.max_drop_pp is not None):
        raise UsageError(
            "a metric and a gate need data to be measured on", hint="add --eval SOURCE"
        )


def _check_precision(request: CompileRequest, target: Target) -> None:
    if request.precision is None:
        return
    has_gpu = target.gpu is not None and not request.cpu_only
    needed = COMPILED_PRECISIONS if request.precision == "auto" else (request.precision,)
    for one in needed:
        if one not in (GPU_PRECISIONS if has_gpu else COMPILED_PRECISIONS):
            raise UnsupportedError(
                f"precision {one} is not supported by this version for {target.id}",
                hint="--precision float32 compiles for every target, float16 for those with a GPU",
            )
        if one not in target.precisions:
            raise UnsupportedError(
                f"{target.id} has no {one}", hint=f"it has {', '.join(target.precisions)}"
            )


def _check_tuning(request: CompileRequest, target: Target) -> None:
    minutes = request.tune_minutes
    if minutes is None:
        if request.tune_database is not None:
            raise UsageError("a tuning database is for --tune", hint="add --tune MINUTES")
        return
    if not 0 <= minutes <= MOST_MINUTES:
        raise UsageError(
            f"--tune {minutes:g} is no number of minutes that makes sense",
            hint=f"0 (use what was found before) to {MOST_MINUTES}",
        )
    if len(request.batches) > 1:
        raise UsageError(
            "--tune takes one batch size: several share one packing of the weights",
            hint="compile each batch size for itself, or leave --tune out",
        )
    if not is_this_machine(target):
        raise UnsupportedError(
            f"--tune measures on this machine ({load_target('host').mcpu}), "
            f"{target.id} is for {target.mcpu}",
            hint="leave --tune out (schedules follow the target's description), or compile with "
            "--target host --tune on such a machine",
        )


def check_writable(path: Path) -> None:
    """Check, as far as that is known beforehand, that a file can be written.

    Raises:
        OutputError: its folder is a file or may not be written, or it is a folder itself.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"can't write {path}: {folder} is a file", hint="choose another output")
    if not os.access(folder, os.W_OK):
        raise OutputError(
            f"can't write {path}: no permission to write in {folder}",
            hint="choose another output folder with -o",
        )
    if path.is_dir():
        raise OutputError(f"can't write {path}: it is a folder", hint="choose another name")

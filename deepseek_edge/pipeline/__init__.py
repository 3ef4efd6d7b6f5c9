"""A model in, checked bundles out: the whole of ``compile`` on one page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from deepseek_edge.export import fix_shapes, load_model
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline.checking import CheckedProgram, Narrate
from deepseek_edge.pipeline.choosing import Builder, CompileProgram, compile_graph
from deepseek_edge.pipeline.evaluating import prepare_judges
from deepseek_edge.pipeline.gate import Job, Passed, pass_gate
from deepseek_edge.pipeline.given import Given
from deepseek_edge.pipeline.gpu_programs import GpuInstruments, GpuPrograms, make_gpu_programs
from deepseek_edge.pipeline.packing import describe_source, pack, write_page
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget, describe_plan, make_plan
from deepseek_edge.pipeline.quantizing import (
    Compiled,
    Origin,
    check_best,
    check_precision,
    prepare_calibration,
)
from deepseek_edge.pipeline.stages import (
    Stages,
    apply_recipe,
    describe_stages,
    plan_stages,
)
from deepseek_edge.pipeline.workspace import Stopwatch, stage_directory, work_directory
from deepseek_edge.profiling.html import Chapter
from deepseek_edge.profiling.measure import measure
from deepseek_edge.quantization import QuantizedModel
from deepseek_edge.report import CompileReport, ProfileReport
from deepseek_edge.runtime.engine import Engine

__all__ = ["CompileRequest", "CompileResult", "compile_model"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CompileResult:
    """Bundles that were written: a chapter each, in the order of the targets.

    Attributes:
        html: the page about them, if one was asked for.
    """

    chapters: tuple[Chapter, ...]
    html: Path | None

    @property
    def reports(self) -> tuple[CompileReport, ...]:
        """What was found, of each target."""
        return tuple(chapter.compiled for chapter in self.chapters if chapter.compiled is not None)


def _silent(*_: object) -> None:
    pass


def compile_model(
    request: CompileRequest,
    *,
    compile_program: CompileProgram | None = None,
    gpu: GpuInstruments | None = None,
    narrate: Narrate = _silent,
    progress: Progress = _silent,
) -> CompileResult:
    """Compile, check, evaluate and pack a model for each target.

    Args:
        request: what to compile, for what, and how strictly.
        compile_program: the back end; TVM's if None.
        gpu: what programs for GPUs are made and checked with; real ones if None.
        narrate: told lines for a person.
        progress: told (stage, done, total).

    Raises:
        UsageError, UnsupportedError, ModelError: the request is refused, before anything runs.
        ParityError, AccuracyError: an artifact failed. Bundles of earlier targets are written,
            this one's is not, and nothing is half-written. OutputError: it can't be.
    """
    request = apply_recipe(request)
    planned, stages = make_plan(request), plan_stages(request)
    for line in (*describe_plan(request, planned), *describe_stages(stages, request)):
        narrate(line)
    with stage_directory(request.dump, stages) as stage_dir:
        given = take_model(request, stages, stage_dir, narrate, progress)
        check_precision(request, given.model)
        judges = prepare_judges(request, given)
        calibration = prepare_calibration(request, given, judges.evaluation)
        origin = Origin(given.model, Reference(given.model), calibration)
        source, chapters = describe_source(request.model, given.model), []
        backend = compile_program or tvm_backend()
        for one in planned:
            with work_directory(request.dump, one.target.id) as work_dir:
                clock = Stopwatch()
                build = Builder(backend, one.target, request.batches, work_dir, progress)
                job = Job(request, one, origin, build, clock, narrate)
                passed = pass_gate(job, judges, make_program)
                for_gpu = make_gpu_programs(job, passed, gpu)
                programs = (*for_gpu.programs, passed.checked)
                pack(request, one, source, programs, judges.evaluation)
                report = describe_result(one, given, passed, for_gpu, clock.seconds())
                profile = profile_for_page(request, one, passed.checked, narrate)
            chapters.append(Chapter(one.target, passed.compiled.steps, report, profile))
    if request.html is not None:
        write_page(request.html, f"{source.name}: compile report", chapters)
    return CompileResult(tuple(chapters), request.html)


def take_model(
    request: CompileRequest,
    stages: Stages | None,
    stage_dir: Path | None,
    narrate: Narrate,
    progress: Progress,
) -> Given:
    """The model that a request names, as it is or as its recipe makes it; torch is loaded here.

    Args:
        request: to which its recipe was applied.
        stages: of the recipe.
        stage_dir: for checkpoints; given if there are stages.
        narrate: told lines for a person.
        progress: told (stage, done, total).

    Raises:
        UsageError, ModelError, UnsupportedError: it can't be read, exported or pruned.
        TrainingError: its training failed.
    """
    if stages is None or stage_dir is None:
        return Given(fix_shapes(read_model(request.model), request.shapes))
    from deepseek_edge.pipeline.compressing import compress
    from deepseek_edge.pipeline.workshop import open_workshop

    return compress(request, stages, open_workshop(request, stage_dir, narrate, progress))


def make_program(
    job: Job, quantized: QuantizedModel | None, number: int
) -> tuple[Compiled, CheckedProgram]:
    """Compile one form of the model, tune it if asked to, run it and compare it with its graph.

    Args:
        job: for which target, and how.
        quantized: the model in INT8; None: as it was given.
        number: how many of its forms were compiled before.

    Raises:
        ParityError: it computes something else. UnsupportedError, ModelError: it can't be compiled.
    """
    build, narrate = job.build.numbered(number), job.narrate
    with job.clock.stage("codegen"):
        compiled = compile_graph(job.request.precision, job.origin.model, quantized, build, narrate)
    compiled = tune_program(job.request, compiled, build, narrate=narrate, clock=job.clock)
    with job.clock.stage("parity"):
        return check_best(compiled, job.one, job.origin, narrate, build.rebuild)


def read_model(model: str | onnx.ModelProto) -> onnx.ModelProto:
    """The graph that a reference names, or the graph itself."""
    return model if isinstance(model, onnx.ModelProto) else load_model(model)


def tune_program(
    request: CompileRequest,
    compiled: Compiled,
    build: Builder,
    *,
    narrate: Narrate,
    clock: Stopwatch,
) -> Compiled:
    """The program, tuned if the request says so; what tunes it is loaded here."""
    if request.tune_minutes is None:
        return compiled
    from deepseek_edge.pipeline.tuning import tune

    minutes, database = request.tune_minutes, request.tune_database
    with clock.stage("tuning"):
        return tune(compiled, build, minutes=minutes, database=database, narrate=narrate)


def describe_result(
    one: PlannedTarget,
    given: Given,
    passed: Passed,
    for_gpu: GpuPrograms,
    time_s: Mapping[str, float],
) -> CompileReport:
    """What was found about a bundle that has been written."""
    return CompileReport(
        bundle=one.output,
        target=one.target.id,
        size_bytes=one.output.stat().st_size,
        time_s={**given.time_s, **time_s},
        programs=(*(checked.report for checked in for_gpu.programs), passed.checked.report),
        accuracy=passed.accuracy,
        notes=(*passed.compiled.notes, *passed.checked.notes, *passed.notes, *for_gpu.notes),
        ladder=passed.ladder,
        pruned=given.pruned,
    )


def profile_for_page(
    request: CompileRequest, one: PlannedTarget, checked: CheckedProgram, narrate: Narrate
) -> ProfileReport | None:
    """Measure a program that runs on this machine, if a page is to show it."""
    if request.html is None or one.place != "host":
        return None
    narrate(f"{one.target.id}: measuring")
    program = checked.report.program
    return measure(
        partial(Engine, program.library),
        checked.inputs,
        bundle=str(one.output),
        program=program.id,
        steps=program.entries[0].steps,
        target=one.target,
    )


def tvm_backend() -> CompileProgram:
    """The back end that makes CPU programs; TVM is loaded here."""
    from deepseek_edge.backends.tvm import compile_program

    return compile_program

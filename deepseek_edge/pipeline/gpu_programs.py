"""The programs for a target's GPU, beside the one for its CPU, which takes over from both."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from deepseek_edge.artifacts import Layers
from deepseek_edge.device.probes.nvidia_driver import Driver, find_driver
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.integer_form import is_quantized
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline.checking import CheckedProgram, check_program
from deepseek_edge.pipeline.choosing import CompileProgram
from deepseek_edge.pipeline.engine_recipe import (
    EngineGraph,
    engine_program,
    write_engine_recipe,
)
from deepseek_edge.pipeline.gate import Job, Passed
from deepseek_edge.pipeline.plan import model_name
from deepseek_edge.pipeline.program_choice import runs_on
from deepseek_edge.report import ProgramReport


@dataclass(frozen=True)
class GpuPrograms:
    """What was made for a GPU.

    Attributes:
        programs: in order of preference, all before the CPU's.
        notes: why one is missing, and which takes over.
    """

    programs: tuple[CheckedProgram, ...] = ()
    notes: tuple[str, ...] = ()


def _cuda_backend() -> CompileProgram:
    from deepseek_edge.backends.tvm.cuda import compile_cuda_program

    return compile_cuda_program


@dataclass(frozen=True)
class GpuInstruments:
    """What GPU programs are made and checked with; replaced in tests.

    Attributes:
        cuda: gives the back end of CUDA programs.
        driver: asks for this machine's GPUs.
    """

    cuda: Callable[[], CompileProgram] = _cuda_backend
    driver: Callable[[], Driver | None] = field(default=find_driver)


def make_gpu_programs(
    job: Job, passed: Passed, instruments: GpuInstruments | None = None
) -> GpuPrograms:
    """Make what a target's GPU can run: TensorRT's recipe, and a CUDA program.

    One that an operator stands in the way of is left out, with a note; the next one takes over.

    Args:
        job: of the target.
        passed: its CPU program.
        instruments: real ones if None.

    Raises:
        ParityError: the CUDA program ran on this machine's GPU, and computes something else.
        ModelError, MissingToolError, OutputError: it can't be made.
    """
    target = job.one.target
    if target.gpu is None or job.request.cpu_only:
        return GpuPrograms()
    instruments = instruments or GpuInstruments()
    cpu = passed.checked.report.program.id
    programs: list[CheckedProgram] = []
    notes: list[str] = []
    makers = (
        ("CUDA", partial(_make_cuda, job, passed, instruments)),
        ("TensorRT", partial(_make_engine_recipe, job, passed)),
    )
    # The CUDA program first: the recipe names it as the one that takes over.
    for name, make in makers:
        others = [cpu, *(one.report.program.id for one in programs)]
        try:
            with job.clock.stage("gpu"):
                programs.append(make(list(reversed(others))))
        except UnsupportedError as error:
            notes.append(f"no {name} program: {error}; {others[-1]} takes over")
    return GpuPrograms(tuple(reversed(programs)), tuple(notes))


def _make_cuda(
    job: Job, passed: Passed, instruments: GpuInstruments, _fallback: list[str]
) -> CheckedProgram:
    target, graph = job.one.target, passed.compiled.graph
    assert target.gpu is not None
    job.narrate(f"{target.id}: compiling for the GPU, {target.gpu.arch}")
    program = instruments.cuda()(
        graph,
        target,
        batches=job.request.batches,
        work_dir=_folder(job, "cuda"),
        progress=job.build.progress,
        precision=None if is_quantized(graph) else float_precision(job.request.precision),
    )
    program = replace(program, gpu=target.gpu.arch)
    reference = job.origin.reference if passed.compiled.quantized is None else Reference(graph)
    name = _gpu_here(job, instruments, target.gpu.arch)
    if name is None:
        # It has run nowhere: the board compares it with the CPU program's outputs.
        return replace(passed.checked, report=ProgramReport(program, None, None, None), notes=())
    checked = check_program(program, job.one, graph, reference, job.narrate)
    return replace(checked, report=replace(checked.report, verified=f"gpu:{name}"))


def _gpu_here(job: Job, instruments: GpuInstruments, arch: str) -> str | None:
    """The name of a GPU of this machine that runs the job's CUDA programs."""
    driver = instruments.driver() if job.one.place == "host" else None
    gpus = () if driver is None else driver.gpus
    return next((gpu.name for gpu in gpus if runs_on(arch, gpu.arch)), None)


def _make_engine_recipe(job: Job, passed: Passed, fallback: list[str]) -> CheckedProgram:
    from deepseek_edge.backends.tensorrt import DEFAULT_WORKSPACE_BYTES, prepare_graph

    target, compiled, checked = job.one.target, passed.compiled, passed.checked
    assert target.gpu is not None
    given = job.origin.model
    graphs: list[EngineGraph] = []
    layers = compiled.program.layers
    if is_quantized(compiled.graph):
        graphs.append(EngineGraph("int8", prepare_graph(compiled.graph, "int8"), checked.outputs))
    else:
        layers = Layers(layers.total, 0, 0, layers.total, None)
    if not is_quantized(given):
        precision = "float16" if graphs else float_precision(job.request.precision)
        outputs = job.origin.reference.run(checked.inputs)
        graphs.append(EngineGraph(precision, prepare_graph(given, precision), outputs))
    entry = compiled.program.entries[0]
    files = write_engine_recipe(
        _folder(job, "tensorrt"),
        graphs,
        checked.inputs,
        entry,
        model=model_name(job.request.model),
        workspace_bytes=DEFAULT_WORKSPACE_BYTES,
        fallback=fallback,
    )
    program = engine_program(files, graphs[0].precision, entry, layers, target.gpu)
    return CheckedProgram(ProgramReport(program, None, None, None), {}, {})


def float_precision(asked: str | None) -> str:
    """In which floats a GPU computes a model that isn't quantized: as asked, else exactly."""
    return "float16" if asked in ("float16", "auto") else "float32"


def _folder(job: Job, name: str) -> Path:
    folder = job.build.work_dir / name
    folder.mkdir(exist_ok=True)
    return folder

"""The programs for a target's GPU, beside the one for its CPU, which takes over from both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.artifacts import Entry, Layers, Program
from deepseek_edge.device.probes.nvidia_driver import Driver, find_driver
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.files import write_atomic
from deepseek_edge.integer_form import is_quantized
from deepseek_edge.parity import Reference, Tensors, output_range
from deepseek_edge.pipeline.checking import CheckedProgram, check_program
from deepseek_edge.pipeline.choosing import CompileProgram
from deepseek_edge.pipeline.gate import Job, Passed
from deepseek_edge.pipeline.plan import model_name
from deepseek_edge.pipeline.program_choice import runs_on
from deepseek_edge.report import ProgramReport
from deepseek_edge.runtime.board_build.build_recipe import RECIPE_FILE
from deepseek_edge.runtime.single_file import DSE_BUILD_FILE, dse_build_source
from deepseek_edge.target import Gpu

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.backends.tensorrt.deferred import Candidate

# How far an engine may be from the reference, as a share of the output's range. TensorRT rounds
# where it likes between Q/DQ nodes, and may sum float16 in float16. No board has confirmed these.
ENGINE_TOLERANCES: Mapping[str, float] = {"int8": 0.05, "float16": 0.02, "float32": 0.002}


@dataclass(frozen=True)
class GpuPrograms:
    """What was made for a GPU.

    Attributes:
        programs: in order of preference, all before the CPU's.
        notes: why one is missing, and which takes over; what else is to be known of them.
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
    for name, make in makers if target.gpu.tensorrt else makers[:1]:
        others = [cpu, *(one.report.program.id for one in programs)]
        try:
            with job.clock.stage("gpu"):
                programs.append(make(list(reversed(others))))
        except UnsupportedError as error:
            notes.append(f"no {name} program: {error}; {others[-1]} takes over")
    notes += [note for one in programs for note in one.notes]
    return GpuPrograms(tuple(reversed(programs)), tuple(notes))


def _make_cuda(
    job: Job, passed: Passed, instruments: GpuInstruments, _fallback: list[str]
) -> CheckedProgram:
    target, graph = job.one.target, passed.compiled.graph
    assert target.gpu is not None
    job.narrate(f"{target.id}: compiling for the GPU, {target.gpu.arch}")
    precision = None if is_quantized(graph) else float_precision(job.request.precision)
    build = replace(
        job.build,
        compile_program=partial(instruments.cuda(), precision=precision),
        work_dir=_folder(job, "cuda"),
    )
    program = replace(build.build(graph), gpu=target.gpu.arch)
    reference = job.origin.reference if passed.compiled.quantized is None else Reference(graph)
    name = _gpu_here(job, instruments, target.gpu.arch)
    if name is None:
        # It has run nowhere: the board compares it with the CPU program's outputs.
        return replace(passed.checked, report=ProgramReport(program, None, None, None), notes=())
    checked = check_program(program, job.one, graph, reference, job.narrate, rebuild=build.rebuild)
    return replace(
        checked,
        report=replace(checked.report, verified=f"gpu:{name}"),
        notes=tuple(f"{program.id}: {note}" for note in checked.notes),
    )


def _gpu_here(job: Job, instruments: GpuInstruments, arch: str) -> str | None:
    """The name of a GPU of this machine that runs the job's CUDA programs."""
    driver = instruments.driver() if job.one.place == "host" else None
    gpus = () if driver is None else driver.gpus
    return next((gpu.name for gpu in gpus if runs_on(arch, gpu.arch)), None)


def _make_engine_recipe(job: Job, passed: Passed, fallback: list[str]) -> CheckedProgram:
    """What an engine is built from on the board, as a program that has run nowhere."""
    from deepseek_edge.backends.tensorrt.deferred import Candidate, defer_build

    target, compiled, checked = job.one.target, passed.compiled, passed.checked
    assert target.gpu is not None
    candidates: dict[str, Candidate] = {}
    if is_quantized(compiled.graph):
        candidates["int8"] = _candidate(compiled.graph, checked.outputs, "int8")
    if not is_quantized(job.origin.model):
        floats = "float16" if candidates else float_precision(job.request.precision)
        outputs = job.origin.reference.run(checked.inputs)
        candidates[floats] = _candidate(job.origin.model, outputs, floats)
    deferred = defer_build(
        model_name(job.request.model),
        candidates,
        checked.inputs,
        fallback=fallback,
        rest="float16" if target.gpu.is_strongly_typed else "float32",
    )
    folder = _folder(job, "tensorrt")
    files = {**deferred.files, DSE_BUILD_FILE: dse_build_source()}
    for name, content in files.items():
        write_atomic(folder / name, content)
    best = deferred.precisions[0]
    program = engine_program(folder, list(files), compiled.program, best, target.gpu)
    report = ProgramReport(program, None, None, None)
    notes = tuple(
        f"no {precision} graph for TensorRT: {error}; {best} is left"
        for precision, error in deferred.refused.items()
    )
    return CheckedProgram(report, {}, {}, notes=notes)


def _candidate(model: "onnx.ModelProto", outputs: Tensors, precision: str) -> "Candidate":
    from deepseek_edge.backends.tensorrt.deferred import Candidate

    tolerances = {
        name: ENGINE_TOLERANCES[precision] * output_range(value) for name, value in outputs.items()
    }
    return Candidate(model, outputs, tolerances)


def engine_program(
    folder: Path, names: Sequence[str], cpu: Program, precision: str, gpu: Gpu
) -> Program:
    """Describe the files of a deferred build as a program.

    Args:
        folder: where they lie.
        names: of the files.
        cpu: the program for the CPU, of the same graph.
        precision: of the best graph.
        gpu: of the target.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    entry, layers = cpu.entries[0], cpu.layers
    if precision != "int8":
        halves = layers.total if precision == "float16" else 0
        layers = Layers(layers.total, 0, halves, layers.total - halves, None)
    return Program(
        id=f"tensorrt-{precision}",
        backend="tensorrt",
        precision=precision,
        library=folder / RECIPE_FILE,
        entries=(Entry(entry.name, entry.inputs, entry.outputs, ()),),
        features=(),
        size_bytes=sum(sizes.values()),
        code_bytes=sizes[DSE_BUILD_FILE],
        weights_bytes=sum(size for name, size in sizes.items() if name.endswith(".onnx")),
        arena_bytes=0,
        layers=layers,
        gpu=gpu.arch,
        more_files=tuple(folder / name for name in sorted(names) if name != RECIPE_FILE),
    )


def float_precision(asked: str | None) -> str:
    """In which floats a GPU computes a model that isn't quantized: as asked, else exactly."""
    return "float16" if asked in ("float16", "auto") else "float32"


def _folder(job: Job, name: str) -> Path:
    folder = job.build.work_dir / name
    folder.mkdir(exist_ok=True)
    return folder

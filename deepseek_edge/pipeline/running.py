"""Using a bundle on this machine: run it, check its golden tensors, measure it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from deepseek_edge.artifacts import Entry
from deepseek_edge.bundle import Bundle
from deepseek_edge.device import qemu
from deepseek_edge.device.probes.nvidia_driver import find_driver
from deepseek_edge.errors import BundleError, ParityError, UnsupportedError, UsageError
from deepseek_edge.golden import decode
from deepseek_edge.manifest import ProgramRecord
from deepseek_edge.parity import Array, Tensors
from deepseek_edge.pipeline.built_engine import BuiltEngine, find_engine, read_golden
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.placement import Place, emulation_timeout_s
from deepseek_edge.pipeline.program_choice import choose_program
from deepseek_edge.profiling.html import Chapter
from deepseek_edge.profiling.measure import measure
from deepseek_edge.report import ProfileReport
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.runtime.tensorrt_engine import TensorRTEngine
from deepseek_edge.target import Target, load_target


@dataclass(frozen=True)
class OpenProgram:
    """A verified program that can be run at ``place``.

    Attributes:
        library: a private copy, gone when the context ends.
        passed_over: why programs that are preferred to it aren't run, a line each.
        engine: what runs in the library's place, if TensorRT built it on this board.
    """

    record: ProgramRecord
    target: Target
    place: Place
    library: Path
    passed_over: tuple[str, ...] = ()
    engine: BuiltEngine | None = None

    @property
    def id(self) -> str:
        """The program's, as dse_build.py says it: of the precision that was faster on the board."""
        return self.record.id if self.engine is None else f"tensorrt-{self.engine.graph.precision}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines for a person: why better programs aren't run, and which engine is."""
        lines = [f"not {line}" for line in self.passed_over]
        if self.engine is not None:
            why = f": {self.engine.reason}" if self.engine.reason else ""
            lines.append(f"{self.id} from {self.engine.folder}{why}")
        return tuple(lines)

    def open(self, threads: int = 0) -> Engine | TensorRTEngine:
        """Open it in this process, on the host.

        Raises:
            DeepSeekEdgeError: as ``Engine`` or ``TensorRTEngine``.
        """
        if self.engine is not None:
            return TensorRTEngine(self.engine.folder, record=self.engine.record)
        return Engine(self.library, threads=threads)

    def run(self, inputs: Tensors, entry: int = 0, threads: int = 0) -> dict[str, Array]:
        """Run an entry once.

        Raises:
            InputError: a name, dtype or shape is wrong.
            DeepSeekEdgeError: as ``open`` or ``qemu.run``.
        """
        if self.place == "host":
            with self.open(threads) as engine:
                return engine.run(inputs, entry)
        specs = self.record.entries[entry]
        return qemu.run(
            self.library,
            self.target,
            inputs,
            specs=specs,
            entry=entry,
            threads=max(threads, 1),
            timeout_s=emulation_timeout_s(specs),
        )


@contextmanager
def open_program_of(
    bundle: Bundle, place: Place, wanted: str | None = None, engines: Path | None = None
) -> Iterator[OpenProgram]:
    """Give the first program of a verified bundle that can run; nothing is loaded before.

    Args:
        bundle: open and verified.
        place: where.
        wanted: id of the only program that will do.
        engines: where dse_build.py keeps what it built from the bundle; None: nowhere.

    Raises:
        UnsupportedError: the bundle is for another kind of machine, or no program can run here.
        UsageError: there is no program of that id, or none that an engine is built for.
        BundleError: the manifest's target is not one that this version knows.
    """
    target, programs = target_of(bundle), bundle.manifest.programs
    _check_place(target, place)
    built: dict[str, BuiltEngine] = {}
    unbuilt: dict[str, str] = {}
    for program in programs:
        if program.backend == "tensorrt":
            try:
                built[program.id] = find_engine(bundle, program, engines)
            except UnsupportedError as error:
                unbuilt[program.id] = str(error)
    if engines is not None and not (built or unbuilt):
        raise UsageError(f"no program of {bundle.path} has an engine", hint="leave --engines out")
    choice = choose_program(programs, place, _gpus(programs), unbuilt, wanted=wanted)
    record, engine = choice.record, built.get(choice.record.id)
    with bundle.program_library(record.id) as library:
        yield OpenProgram(record, target, place, library, choice.passed_over, engine)


def _gpus(programs: Sequence[ProgramRecord]) -> tuple[str, ...]:
    """Architectures of this machine's GPUs; it isn't asked unless a program has one."""
    driver = find_driver() if any(program.gpu for program in programs) else None
    return () if driver is None else tuple(gpu.arch for gpu in driver.gpus)


def target_of(bundle: Bundle) -> Target:
    """The target a bundle was compiled for, as it was then.

    Raises:
        BundleError: it is not one that this version knows.
    """
    try:
        return msgspec.convert(bundle.manifest.target.fields, Target)
    except msgspec.ValidationError as error:
        raise BundleError(f"the manifest's target can't be read: {error}") from error


def _check_place(target: Target, place: Place) -> None:
    host = load_target("host")
    system = f"{target.arch} {target.os}"
    if place == "qemu" and target.arch != "aarch64":
        raise UnsupportedError(f"QEMU is used for ARM64 programs, this one is for {system}")
    if place == "host" and (target.arch, target.os) != (host.arch, host.os):
        raise UnsupportedError(
            f"the program is for {system}, this machine is {host.arch} {host.os}",
            hint="--device qemu" if target.arch == "aarch64" else "run it on such a machine",
        )


def choose_entry(entries: Sequence[Entry], inputs: Tensors) -> int:
    """The entry whose input shapes are those of the arrays; the first one if none matches."""
    shapes = {name: value.shape for name, value in inputs.items()}
    for index, entry in enumerate(entries):
        if {spec.name: spec.shape for spec in entry.inputs} == shapes:
            return index
    return 0


def golden_arrays(
    bundle: Bundle, program: OpenProgram
) -> tuple[Tensors, Tensors, Mapping[str, float]]:
    """Inputs, outputs and tolerances of the golden run of a program's first entry."""
    if program.engine is not None:
        graph, recipe = program.engine.graph, program.engine.recipe
        tolerances = {one.spec.name: one.tolerance for one in graph.outputs}
        return read_golden(bundle, recipe.inputs), read_golden(bundle, graph.outputs), tolerances
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    tolerances = {}
    for tensor in bundle.manifest.golden:
        if tensor.program != program.record.id or tensor.entry != 0:
            continue
        arrays = inputs if tensor.direction == "input" else outputs
        arrays[tensor.name] = decode(bundle.read(tensor.file), tensor.dtype, tensor.shape)
        tolerances[tensor.name] = tensor.tolerance
    return inputs, outputs, tolerances


def check_golden_run(bundle: Bundle, program: OpenProgram) -> None:
    """Run the golden inputs and compare the outputs.

    Raises:
        ParityError: an output is off by more than its tolerance.
    """
    inputs, expected, tolerances = golden_arrays(bundle, program)
    actual = program.run(inputs)
    for name, value in expected.items():
        equal = np.isclose(
            actual[name].astype(np.float64),
            value.astype(np.float64),
            rtol=0,
            atol=tolerances[name],
            equal_nan=True,
        )
        if not equal.all():
            raise ParityError(
                f"golden output {name!r} differs in {(~equal).sum()} of {equal.size} elements",
                hint="don't use this program on this machine; report it with the bundle",
            )


def profile_bundle(
    bundle: Bundle,
    *,
    wanted: str | None = None,
    engines: Path | None = None,
    threads: int = 0,
    queries: int | None = None,
    check: bool = False,
    narrate: Narrate = lambda _line: None,
) -> ProfileReport:
    """Measure a program of a bundle on this machine, with its golden inputs.

    Args:
        bundle: open and verified.
        wanted: id of the only program that will do; None: the first one that can run.
        engines: as :func:`open_program_of` takes it.
        threads: 0 for as many as this process may use.
        queries: measured calls; None: as many as two seconds allow.
        check: compare the golden outputs first.
        narrate: told lines for a person.

    Raises:
        UnsupportedError, UsageError: as :func:`open_program_of`.
        ParityError: a golden output differs.
    """
    with open_program_of(bundle, "host", wanted, engines) as program:
        for line in program.remarks:
            narrate(line)
        if check:
            check_golden_run(bundle, program)
        inputs, _, _ = golden_arrays(bundle, program)
        return measure(
            program.open,
            inputs,
            bundle=str(bundle.path),
            program=program.id,
            steps=program.record.entries[0].steps,
            target=program.target,
            threads=threads,
            queries=queries,
            on_gpu=program.record.gpu is not None,
        )


def profile_chapter(bundle: Bundle, report: ProfileReport) -> Chapter:
    """A page's chapter about the profile of a bundle's program."""
    # An engine's precision may be another one than that of the program in the bundle.
    found = (one for one in bundle.manifest.programs if one.id == report.program)
    steps = next((program.entries[0].steps for program in found), ())
    return Chapter(target_of(bundle), steps, None, report)

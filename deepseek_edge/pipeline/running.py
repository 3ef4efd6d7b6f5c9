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
from deepseek_edge.errors import BundleError, ParityError, UnsupportedError
from deepseek_edge.manifest import ProgramRecord
from deepseek_edge.parity import Array, Tensors
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.placement import Place, emulation_timeout_s
from deepseek_edge.pipeline.program_choice import choose_program
from deepseek_edge.profiling.html import Chapter
from deepseek_edge.profiling.measure import measure
from deepseek_edge.report import ProfileReport
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target


@dataclass(frozen=True)
class OpenProgram:
    """A verified program that can be run at ``place``.

    Attributes:
        library: a private copy, gone when the context ends.
        passed_over: why programs that are preferred to it aren't run, a line each.
    """

    record: ProgramRecord
    target: Target
    place: Place
    library: Path
    passed_over: tuple[str, ...] = ()

    def run(self, inputs: Tensors, entry: int = 0, threads: int = 0) -> dict[str, Array]:
        """Run an entry once.

        Raises:
            InputError: a name, dtype or shape is wrong.
            DeepSeekEdgeError: as ``Engine`` or ``qemu.run``.
        """
        if self.place == "host":
            with Engine(self.library, threads=threads) as engine:
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
    bundle: Bundle, place: Place, wanted: str | None = None
) -> Iterator[OpenProgram]:
    """Give the first program of a verified bundle that can run; nothing is loaded before.

    Args:
        bundle: open and verified.
        place: where.
        wanted: id of the only program that will do.

    Raises:
        UnsupportedError: the bundle is for another kind of machine, or no program can run here.
        UsageError: there is no program of that id.
        BundleError: the manifest's target is not one that this version knows.
    """
    target, programs = target_of(bundle), bundle.manifest.programs
    _check_place(target, place)
    choice = choose_program(programs, place, _gpus(programs), wanted=wanted)
    with bundle.program_library(choice.record.id) as library:
        yield OpenProgram(choice.record, target, place, library, choice.passed_over)


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


def golden_arrays(bundle: Bundle, program_id: str) -> tuple[Tensors, Tensors, Mapping[str, float]]:
    """Inputs, outputs and tolerances of the golden run of a program's first entry."""
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    tolerances: dict[str, float] = {}
    for tensor in bundle.manifest.golden:
        if tensor.program != program_id or tensor.entry != 0:
            continue
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        value = np.frombuffer(bundle.read(tensor.file), dtype).reshape(tensor.shape)
        (inputs if tensor.direction == "input" else outputs)[tensor.name] = value.astype(
            tensor.dtype
        )
        tolerances[tensor.name] = tensor.tolerance
    return inputs, outputs, tolerances


def check_golden_run(bundle: Bundle, program: OpenProgram) -> None:
    """Run the golden inputs and compare the outputs.

    Raises:
        ParityError: an output is off by more than its tolerance.
    """
    inputs, expected, tolerances = golden_arrays(bundle, program.record.id)
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
    threads: int = 0,
    queries: int | None = None,
    check: bool = False,
    narrate: Narrate = lambda _line: None,
) -> ProfileReport:
    """Measure a program of a bundle on this machine, with its golden inputs.

    Args:
        bundle: open and verified.
        wanted: id of the only program that will do; None: the first one that can run.
        threads: 0 for as many as this process may use.
        queries: measured calls; None: as many as two seconds allow.
        check: compare the golden outputs first.
        narrate: told lines for a person.

    Raises:
        UnsupportedError, UsageError: as :func:`open_program_of`.
        ParityError: a golden output differs.
    """
    with open_program_of(bundle, "host", wanted) as program:
        for line in program.passed_over:
            narrate(f"not {line}")
        if check:
            check_golden_run(bundle, program)
        inputs, _, _ = golden_arrays(bundle, program.record.id)
        return measure(
            program.library,
            inputs,
            bundle=str(bundle.path),
            program=program.record.id,
            steps=program.record.entries[0].steps,
            target=program.target,
            threads=threads,
            queries=queries,
        )


def profile_chapter(bundle: Bundle, report: ProfileReport) -> Chapter:
    """A page's chapter about the profile of a bundle's program."""
    (program,) = (one for one in bundle.manifest.programs if one.id == report.program)
    steps = program.entries[0].steps
    return Chapter(target_of(bundle), steps, None, report)

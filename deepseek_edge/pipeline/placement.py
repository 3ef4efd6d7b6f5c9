"""Where a program for a target can be run from here, and how long that takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from deepseek_edge.artifacts import Entry, Program
from deepseek_edge.device import qemu
from deepseek_edge.parity import Array, Tensors
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target

Place = Literal["host", "qemu"]
Run = Callable[[Tensors, int], dict[str, Array]]

# Measured with QEMU 7.2 on one core; it emulates float multiply-adds one by one.
EMULATED_MACS_S = 0.05e9
_START_S = 0.5
# Another machine, or two cells at once, may be this many times slower than the estimate.
_PATIENCE = 20


def choose_place(target: Target) -> Place | None:
    """This machine if it has the target's instructions and system, QEMU if it knows the CPU."""
    host = load_target("host")
    if target.arch == host.arch and target.os == "linux":
        return "host" if set(target.features) <= set(host.features) else None
    if target.arch == "aarch64" and target.qemu_cpu is not None and qemu.is_available():
        return "qemu"
    return None


def is_this_machine(target: Target) -> bool:
    """True if times that are measured here hold for the target: it has this very CPU."""
    host = load_target("host")
    here = (host.arch, host.os, host.mcpu, host.features)
    return (target.arch, target.os, target.mcpu, target.features) == here


def estimate_s(entry: Entry, place: Place) -> float:
    """Rough seconds of one call; 0 on the host, where it never matters."""
    if place == "host":
        return 0.0
    return _START_S + sum(step.macs for step in entry.steps) / EMULATED_MACS_S


def emulation_timeout_s(entry: Entry) -> float:
    """Seconds after which one emulated call can be given up as hung."""
    return 60 + _PATIENCE * estimate_s(entry, "qemu")


@contextmanager
def open_program(program: Program, target: Target, place: Place) -> Iterator[Run]:
    """Give a function that runs the program: (inputs by name, entry) -> outputs by name.

    Raises:
        DeepSeekEdgeError: as ``Engine`` or ``qemu.run``.
    """
    if place == "host":
        with Engine(program.library) as engine:
            yield engine.run
        return

    def emulate(inputs: Tensors, entry: int) -> dict[str, Array]:
        specs = program.entries[entry]
        timeout_s = emulation_timeout_s(specs)
        return qemu.run(
            program.library, target, inputs, specs=specs, entry=entry, timeout_s=timeout_s
        )

    yield emulate

"""Executed instructions under QEMU: of our programs, and of peers in an ARM64 Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.target import Target
from deepseek_edge.toolchain import runtime_sources, static_triple, zig

if TYPE_CHECKING:
    from numpy.typing import NDArray

NATIVE = Path(__file__).parent / "arm_native"
PEERS = ("onnxruntime", "ncnn")
_FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Counts:
    """What one program executed.

    Attributes:
        runs: instructions of each inference.
        address: what the program said of where it lies in memory.
        blocks: (address, instructions, executions) of each translated block.
    """

    runs: tuple[int, ...]
    address: int
    blocks: tuple[tuple[int, int, int], ...]

    @property
    def per_inference(self) -> float:
        """Of N runs minus N/2 runs, per run: what is done once, at first, isn't counted."""
        late = self.runs[len(self.runs) // 2 :]
        return sum(late) / len(late)

    def by_address(self, start: int, end: int) -> dict[int, float]:
        """Executions of each instruction, per inference; addresses count from ``start``."""
        counts: dict[int, float] = {}
        for address, instructions, executions in self.blocks:
            if start <= address < end:
                for one in range(address - start, address - start + 4 * instructions, 4):
                    counts[one] = counts.get(one, 0.0) + executions / len(self.runs)
        return counts


@dataclass(frozen=True)
class Emulator:
    """QEMU with the plugin that counts, and the program that repeats a model."""

    qemu: str
    plugin: Path
    repeat: Path


def build_emulator(folder: Path) -> Emulator:
    """Compile the plugin for this machine and the repeating program for AArch64.

    Raises:
        MissingToolError: QEMU or zig is not installed.
        DeepSeekEdgeError: they don't compile.
    """
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise MissingToolError(
            "QEMU with plugins is not installed",
            hint="apt-get install qemu-user; the -static package takes no plugins",
        )
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True)
    # QEMU 9 refuses plugins of the first interface.
    major = int(version.stdout.split("version ")[1].split(".")[0])
    define = f"-DPLUGIN_VERSION={1 if major < 9 else 2}"
    source = str(NATIVE / "count_plugin.c")
    zig(["cc", *_FLAGS, "-shared", "-fPIC", define, source, "-o", "count.so"], folder)
    runtime = runtime_sources()
    sources = (NATIVE / "repeat_model.c", *(runtime / "emulate" / n for n in ("elf.c", "libc.c")))
    static = ["-target", static_triple("aarch64"), "-mcpu=baseline", "-static", "-s"]
    zig(["cc", *_FLAGS, *static, f"-I{runtime}", *map(str, sources), "-o", "repeat"], folder)
    return Emulator(qemu, folder / "count.so", folder / "repeat")


def parse_counts(text: str) -> Counts:
    """Read what the plugin wrote.

    Raises:
        DeepSeekEdgeError: the program made fewer than two marks.
    """
    rows = [line.split() for line in text.splitlines()]
    marks = [(int(row[1]), int(row[2])) for row in rows if row[0] == "mark"]
    blocks = [(int(row[1]), int(row[2]), int(row[3])) for row in rows if row[0] == "block"]
    if len(marks) < 2:
        raise DeepSeekEdgeError("the emulated program ended before its first inference")
    totals = [count for count, _ in marks]
    runs = (after - before for before, after in pairwise(totals))
    return Counts(tuple(runs), marks[0][1], tuple(blocks))


def count_ours(
    emulator: Emulator, library: Path, target: Target, inputs: Sequence[NDArray[Any]], runs: int
) -> Counts:
    """Run our program a number of times on one thread.

    Args:
        emulator: as ``build_emulator`` makes it.
        library: a model.so for AArch64.
        target: its CPU model under QEMU is ``qemu_cpu``.
        inputs: in the order of the program's inputs.
        runs: inferences; a call of getppid marks each.

    Raises:
        DeepSeekEdgeError: it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "inputs"
        file.write_bytes(b"".join(one.tobytes() for one in inputs))
        command = [str(emulator.repeat), str(library.absolute()), str(file), str(runs)]
        return count_program(emulator, target, command)


def count_peer(
    emulator: Emulator,
    target: Target,
    *,
    root: Path,
    peer: str,
    model: Path,
    inputs: Mapping[str, NDArray[Any]],
    runs: int,
) -> Counts:
    """Run a peer's ARM64 wheel a number of times on one thread.

    Args:
        emulator: as ``build_emulator`` makes it.
        target: whose core the peer is shown.
        root: an ARM64 system as ``benchmarks.arm_root`` makes it.
        peer: one of ``PEERS``.
        model: the file that it loads.
        inputs: by name, in the order of the graph's.
        runs: inferences.

    Raises:
        DeepSeekEdgeError: it failed.
    """
    import numpy as np

    from benchmarks.arm_root import describe_cpu, python_command

    describe_cpu(root, target)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "inputs.npz"
        np.savez(file, **dict(inputs))  # type: ignore[arg-type]
        prefix, variables = python_command(root)
        script = [str(NATIVE / "peer.py"), peer, str(model), str(file), str(runs)]
        options = ["-L", str(root.absolute())]
        return count_program(emulator, target, [*prefix, *script], variables, options)


def count_program(
    emulator: Emulator,
    target: Target,
    command: Sequence[str],
    variables: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Counts:
    """Run an AArch64 program that marks its inferences.

    Args:
        emulator: as ``build_emulator`` makes it.
        target: its CPU model under QEMU is ``qemu_cpu``.
        command: the program's file and arguments.
        variables: of its environment, beside this process's.
        options: of QEMU.

    Raises:
        DeepSeekEdgeError: it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "counts"
        start = [emulator.qemu, "-cpu", str(target.qemu_cpu), *options]
        start += ["-plugin", f"{emulator.plugin},out={out}"]
        for key, value in (variables or {}).items():
            start += ["-E", f"{key}={value}"]
        # A stray QEMU_CPU would change the CPU.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QEMU_", "PYTHON"))}
        done = subprocess.run(
            [*start, *command],
            env=kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            what = f"exit status {done.returncode}"
            raise DeepSeekEdgeError(f"the emulated program failed: {(lines or [what])[-1]}")
        return parse_counts(out.read_text())

"""Runs AArch64 programs, for Linux and for Android, on a machine without AArch64 libraries.

A static program that brings its own libc and loader (runtime/emulate) is built once and started
under QEMU's user-mode emulation; on an AArch64 machine it is started directly. Emulation proves
that code is right. It says nothing about time.
"""

import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import Entry
from deepseek_edge.errors import DeviceError, MissingToolError, UnsupportedError
from deepseek_edge.runtime.engine import check_inputs
from deepseek_edge.runtime.programs import build_dse_emulate
from deepseek_edge.target import Target
from deepseek_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMES = ("qemu-aarch64-static", "qemu-aarch64")
_ARCH = "aarch64"
_FEATURE_MISSING = 3  # exit status of dse-emulate


def is_available() -> bool:
    """Whether this machine can run AArch64 programs, emulated or natively."""
    return platform.machine() == _ARCH or _find_qemu() is not None


def run(
    library: Path,
    target: Target,
    inputs: Mapping[str, "NDArray[Any]"],
    *,
    specs: Entry,
    entry: int = 0,
    threads: int = 1,
    timeout_s: float = 600,
) -> dict[str, "NDArray[Any]"]:
    """Run one entry of a compiled model once.

    Args:
        library: a model.so for AArch64.
        target: its CPU model under QEMU is ``qemu_cpu``.
        inputs: one array for each input, of exactly its dtype and shape.
        specs: describes the entry.
        entry: index of the entry.
        threads: of the program.
        timeout_s: emulation is 20 to 200 times slower than the board.

    Returns:
        Outputs by name.

    Raises:
        InputError: an input has a wrong name, dtype or shape.
        UnsupportedError: the target isn't AArch64, or its CPU lacks a feature of the kernels.
        MissingToolError: QEMU or zig is not installed.
        DeviceError: the program failed, died of a signal or took too long.
    """
    import numpy as np

    check_inputs(specs.inputs, inputs)
    command = [*_emulator(target), str(build_dse_emulate())]
    with tempfile.TemporaryDirectory(prefix="deepseek-edge-") as name:
        folder = Path(name)
        tensors = [np.ascontiguousarray(inputs[spec.name]).tobytes() for spec in specs.inputs]
        (folder / "inputs").write_bytes(b"".join(tensors))
        arguments = [str(library.absolute()), str(entry), str(threads), "inputs", "outputs"]
        _start([*command, *arguments], folder, timeout_s)
        return _split((folder / "outputs").read_bytes(), specs.outputs)


def _find_qemu() -> str | None:
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def _emulator(target: Target) -> list[str]:
    if target.arch != _ARCH:
        raise UnsupportedError(f"target {target.id} is {target.arch}; only {_ARCH} is emulated")
    if platform.machine() == _ARCH:
        return []
    qemu = _find_qemu()
    if qemu is None:
        raise MissingToolError(
            f"QEMU for {_ARCH} is not installed", hint="apt-get install qemu-user-static"
        )
    if target.qemu_cpu is None:
        raise UnsupportedError(f"target {target.id} names no CPU model of QEMU (qemu_cpu)")
    return [qemu, "-cpu", target.qemu_cpu]


def _start(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    # QEMU also takes options from the environment: a stray QEMU_CPU would change the CPU.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("QEMU_")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"the program did not end within {timeout_s:g} s",
            hint="emulation is slow: try a smaller input, or run it on the board",
        ) from error
    message = done.stderr.strip().splitlines()
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise DeviceError(f"the program was killed by {name} under {Path(command[0]).name}")
    if done.returncode == _FEATURE_MISSING and message:
        raise UnsupportedError(message[-1], hint="compile for a target that has this CPU")
    if done.returncode != 0:
        raise DeviceError(message[-1] if message else f"exit status {done.returncode}")


def _split(data: bytes, specs: Sequence[TensorSpec]) -> dict[str, "NDArray[Any]"]:
    import numpy as np

    if len(data) != sum(spec.size_bytes for spec in specs):
        raise DeviceError(f"the program wrote {len(data)} bytes of outputs: not what it declares")
    outputs, offset = {}, 0
    for spec in specs:
        flat = np.frombuffer(data, spec.dtype, count=spec.elements, offset=offset)
        outputs[spec.name] = flat.reshape(spec.shape).copy()
        offset += spec.size_bytes
    return outputs

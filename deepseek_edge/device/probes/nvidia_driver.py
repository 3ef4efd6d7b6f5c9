"""Asks NVIDIA's driver which GPUs there are, in a process of its own.

This file is also the program of that process: a driver that crashes or hangs, as one whose kernel
module is of another version can, takes only that process with it. So it imports nothing but the
standard library. Functions and numbers are of NVIDIA's "CUDA Driver API" (docs.nvidia.com/cuda/
cuda-driver-api), from memory: no driver has answered it for this repository yet.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

LIBRARY = "libcuda.so.1"
# One of these is there where a driver is loaded: on a PC, on a Jetson of L4T up to 35 and from 35
# on, and under WSL. Without any, even loading the library is pointless.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu", "/dev/dxg")
TIMEOUT_S = 20.0  # a GPU without persistence mode takes seconds to wake up

_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_NAME_BYTES = 256


class Gpu(NamedTuple):
    """One GPU: its name, and e.g. "sm_87"."""

    name: str
    arch: str


class Driver(NamedTuple):
    """NVIDIA's driver on this machine.

    Attributes:
        cuda: newest CUDA whose programs it runs, e.g. "12.6"; None if it doesn't answer.
        gpus: in CUDA's order.
        fault: why it can't be used; None if it can.
    """

    cuda: str | None
    gpus: tuple[Gpu, ...]
    fault: str | None


def find_driver() -> Driver | None:
    """Ask the driver; None on a machine that has none, which costs nothing to find out."""
    if not any(Path(name).exists() for name in DEVICE_FILES):
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Driver(None, (), f"it didn't answer within {TIMEOUT_S:.0f} s")
    if done.returncode != 0:
        return Driver(None, (), f"asking it ended with exit status {done.returncode}")
    answer = json.loads(done.stdout)
    return Driver(answer["cuda"], tuple(Gpu(*gpu) for gpu in answer["gpus"]), answer["fault"])


def ask_driver(library: Any) -> Driver:
    """Ask which GPUs there are.

    Args:
        library: libcuda, loaded.
    """
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))  # works without cuInit
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if status := library.cuInit(0):
        return Driver(cuda, (), f"cuInit: {_error_name(library, status)}")
    count = ctypes.c_int(0)
    if status := library.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(cuda, (), f"cuDeviceGetCount: {_error_name(library, status)}")
    gpus: list[Gpu] = []
    for number in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(_NAME_BYTES)
        if status := library.cuDeviceGet(ctypes.byref(device), number):
            return Driver(cuda, tuple(gpus), f"cuDeviceGet: {_error_name(library, status)}")
        library.cuDeviceGetName(name, _NAME_BYTES, device)
        major = _attribute(library, _COMPUTE_CAPABILITY_MAJOR, device)
        minor = _attribute(library, _COMPUTE_CAPABILITY_MINOR, device)
        gpus.append(Gpu(name.value.decode("utf-8", "replace"), f"sm_{major}{minor}"))
    return Driver(cuda, tuple(gpus), None if gpus else "it finds no GPU")


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _error_name(library: Any, status: int) -> str:
    name = ctypes.c_char_p()
    if library.cuGetErrorName(status, ctypes.byref(name)) or name.value is None:
        return f"error {status}"
    return name.value.decode("ascii", "replace")


def main() -> None:
    """Print the answer as JSON."""
    try:
        found = ask_driver(ctypes.CDLL(LIBRARY))
    except (OSError, AttributeError) as error:
        found = Driver(None, (), str(error))
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()

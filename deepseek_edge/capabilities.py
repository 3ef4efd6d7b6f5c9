"""What this machine can do: which tools are here, and how to get those that aren't."""

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from deepseek_edge.errors import MissingToolError, UnsupportedError
from deepseek_edge.target import load_target

# As in pyproject.toml, which says why each is exact; a test compares them.
PINS = {
    "apache-tvm": "0.27.0.post1",
    "apache-tvm-ffi": "0.1.14.post1",
    "ziglang": "0.17.0",
}
# Compilers for GPUs; none needs a GPU.
GPU_PACKAGES = {
    "nvidia-cuda-nvrtc-cu11": ("cuda", "CUDA programs for Jetson Xavier and Orin"),
    "nvidia-cuda-nvrtc-cu12": ("cuda", "CUDA programs for GPUs from Hopper on"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx", "building engines without a Jetson, to check graphs"),
}
QEMU_PROGRAMS = ("qemu-aarch64-static", "qemu-aarch64")
_INSTALL_QEMU = "sudo apt-get install qemu-user-static"


@dataclass(frozen=True)
class Capability:
    """One thing that this package can use.

    Attributes:
        found: version, path or list; None if it is missing or of a version that won't do.
        required: without it nothing can be compiled.
        purpose: what it is for.
        remedy: how to get it, None if there is nothing to do.
    """

    name: str
    found: str | None
    required: bool
    purpose: str
    remedy: str | None


def find_capabilities() -> tuple[Capability, ...]:
    """Look for everything; loads none of it."""
    return (
        _cpu(),
        *(_package(name, pin, "compiling and linking") for name, pin in PINS.items()),
        _package("onnx", None, "reading models"),
        _package("onnxruntime", None, "checking each compile against its graph"),
        _emulator(),
        _package("torch", None, "models as nn.Module or .pt2", extra="torch"),
        _package("transformers", None, "Hugging Face folders", extra="torch"),
        _package("matplotlib", None, "HTML reports", required=False),
        *(
            _package(name, None, purpose, extra=extra)
            for name, (extra, purpose) in GPU_PACKAGES.items()
        ),
    )


def check_compiler() -> None:
    """Check that everything a compile needs is installed.

    Raises:
        MissingToolError: names the first thing that is missing.
    """
    for capability in find_capabilities():
        if capability.required and capability.found is None:
            raise MissingToolError(
                f"{capability.name} is needed for {capability.purpose}: not usable here",
                hint=capability.remedy,
            )


def check_gpu_compiler(archs: Iterable[str]) -> None:
    """Check that CUDA programs can be compiled.

    Args:
        archs: of the targets' GPUs, e.g. "sm_87".

    Raises:
        MissingToolError: NVRTC, of the version that one of them needs, is not installed.
    """
    for arch in archs:
        name = nvrtc_package(arch)
        if _version(name) is None:
            raise MissingToolError(
                f"{name} is needed for {arch}: it makes {GPU_PACKAGES[name][1]}",
                hint="pip install 'deepseek-edge[cuda]', or leave the GPU out: --cpu-only",
            )


def nvrtc_package(arch: str) -> str:
    """The package whose compiler makes machine code for a GPU.

    A driver loads what toolkits of its own major version or of an older one made (NVIDIA, CUDA
    Compatibility, docs.nvidia.com/deploy/cuda-compatibility, read 2026-11-26), and JetPack 5's is
    for CUDA 11.4. CUDA 11.8 knows GPUs up to sm_90, but not the tensor cores of that.
    """
    return f"nvidia-cuda-nvrtc-cu{11 if int(arch.removeprefix('sm_')) < 90 else 12}"


def check_plots() -> None:
    """Check that HTML reports can be drawn.

    Raises:
        MissingToolError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingToolError("an HTML report needs matplotlib", hint="pip install matplotlib")


def emulation_hint(arch: str) -> str:
    """What to do to run a program for ``arch``, "x86_64" or "aarch64", that can't be run here."""
    if arch == "aarch64" and _find_qemu() is None:
        return f"to run it here, install an emulator: {_INSTALL_QEMU}"
    return "run it on the device before it serves: deepseek-edge profile --check"


def _cpu() -> Capability:
    try:
        host = load_target("host")
    except UnsupportedError as error:
        return Capability(platform.machine(), None, False, "target host", str(error))
    found = f"{host.cores} cores, {' '.join(host.features) or 'no optional features'}"
    return Capability(f"CPU {host.mcpu}", found, False, "target host", None)


def _package(
    name: str,
    pin: str | None,
    purpose: str,
    *,
    extra: str | None = None,
    required: bool | None = None,
) -> Capability:
    remedy = f"pip install '{name}{'' if pin is None else f'=={pin}'}'"
    if extra is not None:
        remedy = f"pip install 'deepseek-edge[{extra}]'"
    version = _version(name)
    if pin is not None and version not in (None, pin):
        remedy, version = f"{remedy}  (found {version})", None
    needed = extra is None if required is None else required
    return Capability(name, version, needed, purpose, None if version else remedy)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _emulator() -> Capability:
    found = _find_qemu()
    if platform.machine() == "aarch64":
        found = found or "not needed: this is an ARM64 machine"
    remedy = None if found else _INSTALL_QEMU
    return Capability("qemu-user-static", found, False, "running ARM64 programs here", remedy)


def _find_qemu() -> str | None:
    return next(filter(None, map(shutil.which, QEMU_PROGRAMS)), None)

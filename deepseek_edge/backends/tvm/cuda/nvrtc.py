"""CUDA C++ -> machine code for one GPU, by NVIDIA's run-time compiler; no GPU is needed.

NVRTC comes from PyPI and is called through ctypes, as its header has it (NVRTC 12.9,
https://docs.nvidia.com/cuda/nvrtc/, read 2026-11-27). A driver loads the code of toolkits of its
own major version and of older ones: code for Jetsons, where JetPack 5 has a driver for CUDA 11.4,
comes from NVRTC 11, so that JetPack 5, 6 and 7 all load it; for newer GPUs from NVRTC 12.
"""

import ctypes
import importlib.util
import locale
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepseek_edge.capabilities import nvrtc_package
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError


@dataclass(frozen=True)
class Toolkit:
    """A major version of CUDA.

    Attributes:
        library: the file name of its NVRTC.
    """

    major: int
    library: str

    @property
    def driver_version(self) -> int:
        """The oldest driver that loads its code, as cuDriverGetVersion counts.

        NVIDIA, CUDA Compatibility: minor version compatibility
        (https://docs.nvidia.com/deploy/cuda-compatibility/, read 2026-11-27).
        """
        return self.major * 1000


_TOOLKITS = {
    "nvidia-cuda-nvrtc-cu11": Toolkit(11, "libnvrtc.so.11.2"),
    "nvidia-cuda-nvrtc-cu12": Toolkit(12, "libnvrtc.so.12"),
}


def toolkit_of(arch: str) -> Toolkit:
    """Whose compiler makes the code of a GPU, e.g. of "sm_72"."""
    return _TOOLKITS[nvrtc_package(arch)]


def compile_cubin(text: str, arch: str) -> bytes:
    """Compile to an ELF file with machine code for exactly this GPU.

    Args:
        text: CUDA C++ that includes nothing.
        arch: e.g. "sm_87".

    Raises:
        MissingToolError: NVRTC isn't installed.
        DeepSeekEdgeError: the text doesn't compile; the message is the first error.
    """
    nvrtc = _load(toolkit_of(arch))
    program = ctypes.c_void_p()
    source = text.encode()
    _check(
        nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    )
    try:
        options = [
            f"--gpu-architecture={arch}",
            "--std=c++17",
            "--device-as-default-execution-space",  # generic lambdas have no place to say so
            # As LLVM on the CPU: products and sums are one operation, but for dse_product.
            "--fmad=true",
        ]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        with _locale_kept():
            status = nvrtc.nvrtcCompileProgram(program, len(options), array)
        if status != 0:
            raise DeepSeekEdgeError(f"NVRTC refused the kernels: {_first_error(nvrtc, program)}")
        size = ctypes.c_size_t()
        _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@contextmanager
def _locale_kept() -> Iterator[None]:
    """NVRTC leaves thread and process in the C locale, in which Python decodes as ASCII."""
    uselocale = ctypes.CDLL(None).uselocale
    uselocale.restype, uselocale.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    of_process, of_thread = locale.setlocale(locale.LC_ALL), uselocale(None)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, of_process)
        uselocale(of_thread)


def _load(toolkit: Toolkit) -> ctypes.CDLL:
    missing = MissingToolError(
        f"NVRTC {toolkit.major}, the CUDA compiler, is not installed",
        hint="pip install 'deepseek-edge[cuda]'",
    )
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        raise missing from None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / toolkit.library
        if path.is_file():
            return ctypes.CDLL(str(path))
    raise missing


def _check(nvrtc: ctypes.CDLL, result: int) -> None:
    if result != 0:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise DeepSeekEdgeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(result).decode()}")


def _first_error(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
    lines = log.value.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), "no reason was given")

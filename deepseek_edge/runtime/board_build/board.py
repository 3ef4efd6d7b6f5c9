"""What only the board can say and do: its GPU, memory and clock, TensorRT's builder and runtime."""

from __future__ import annotations

import datetime
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_edge.engine_build import BuiltEngine, EngineOptions, build_engine, version_text
from deepseek_edge.errors import DeviceError, MissingToolError
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.runtime.engine_runner import EngineRunner

TENSORRT_MODULES = ("tensorrt", "tensorrt_rtx")
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Identity:
    """What an engine of this board holds for; fields as in ``BuildKey``."""

    gpu: str
    sm: str
    tensorrt: str
    system: str


class Board:
    """This machine, through TensorRT's Python module and the CUDA driver.

    Args:
        trt: the module; None: the one that is installed.
        root: where /proc and /etc are.

    Raises:
        MissingToolError: no TensorRT for Python is installed.
        DeviceError: no GPU or driver.
    """

    def __init__(self, trt: Any = None, root: Path = Path("/")) -> None:
        self._root = root
        self._trt = load_tensorrt() if trt is None else trt
        self._driver = CudaDriver()

    def identity(self) -> Identity:
        """GPU, TensorRT and system."""
        return Identity(
            gpu=gpu_text(self._driver.name, module_name(self._root)),
            sm=self._driver.compute_capability,
            tensorrt=version_text(self._trt),
            system=system_text(self._root, self._driver.version),
        )

    def memory(self) -> tuple[int, int]:
        """Bytes of memory and of swap that programs may still take.

        Raises:
            DeviceError: Linux doesn't say.
        """
        return read_memory(self._root)

    def now(self) -> str:
        """The time, ISO 8601 in UTC."""
        return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    def build(self, graph: bytes, options: EngineOptions) -> BuiltEngine:
        """Build an engine; raises what ``engine_build.build_engine`` raises."""
        return build_engine(self._trt, graph, options)

    def open(self, engine: bytes) -> Any:
        """Open a checked engine; raises what ``EngineRunner`` raises."""
        return EngineRunner(self._trt, self._driver, engine)


def load_tensorrt() -> Any:
    """TensorRT's Python module.

    Raises:
        MissingToolError: there is none.
    """
    for name in TENSORRT_MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    raise MissingToolError(
        "TensorRT for Python is not installed for this interpreter",
        hint="on a Jetson: sudo apt-get install python3-libnvinfer, and the system's python3",
    )


def read_memory(root: Path) -> tuple[int, int]:
    """MemAvailable and SwapFree of /proc/meminfo, in bytes.

    Raises:
        DeviceError: they can't be read.
    """
    try:
        text = (root / "proc" / "meminfo").read_text("ascii", "replace")
        found = dict(re.findall(r"^(MemAvailable|SwapFree):\s*(\d+) kB", text, re.MULTILINE))
        return int(found["MemAvailable"]) * 1024, int(found.get("SwapFree", 0)) * 1024
    except (OSError, KeyError) as error:
        raise DeviceError("/proc/meminfo doesn't say how much memory is free") from error


def l4t_version(text: str) -> str | None:
    """The L4T version of /etc/nv_tegra_release, e.g. "36.4.3"; None if it says none."""
    found = _RELEASE.search(text)
    return f"{found[1]}.{found[2]}" if found else None


def system_text(root: Path, driver_version: str) -> str:
    """On a Jetson its release, "L4T 36.4.3", else the driver's, "CUDA driver 12.8"."""
    try:
        text = (root / "etc" / "nv_tegra_release").read_text("utf-8", "replace")
    except OSError:
        text = ""
    version = l4t_version(text)
    return f"L4T {version}" if version else f"CUDA driver {driver_version}"


def module_name(root: Path) -> str:
    """The board's model as its device tree says it; "" where there is none."""
    try:
        raw = (root / "proc" / "device-tree" / "model").read_bytes()
    except OSError:
        return ""
    return " ".join(raw.replace(b"\0", b" ").decode("ascii", "replace").split())


def gpu_text(name: str, module: str) -> str:
    """The GPU's name; "Orin" is that of GPUs of different sizes, so the module's is added."""
    return f"{name} ({module})" if module else name

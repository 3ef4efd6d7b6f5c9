"""The board through ``trtexec``, for boards whose Python has no TensorRT.

Slower, since each turn starts a program, and its outputs are read as decimal numbers.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Mapping, Sequence

from deepseek_edge.engine_build import BuiltEngine, EngineOptions
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError, UnsupportedError
from deepseek_edge.runtime.board_build.board import (
    Board,
    Identity,
    gpu_text,
    module_name,
    system_text,
)
from deepseek_edge.runtime.cuda_driver import CudaDriver

# Where JetPack puts it: not on the path.
JETPACK_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
TIMEOUT_S = 4 * 3600
_VERSION = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+)\]")
_ERROR = re.compile(r"^.*\[E\] (.*)$", re.MULTILINE)


def find_trtexec() -> str:
    """Path of trtexec.

    Raises:
        MissingToolError: it is not here.
    """
    found = shutil.which("trtexec") or shutil.which(JETPACK_TRTEXEC)
    if found is None:
        raise MissingToolError(
            "neither TensorRT for Python nor trtexec is here",
            hint="on a Jetson: sudo apt-get install python3-libnvinfer or libnvinfer-bin",
        )
    return found


def parse_version(text: str) -> tuple[int, int, int]:
    """The version in trtexec's first line: "v8502" is 8.5.2, "v100300" is 10.3.0.

    Raises:
        UnsupportedError: it has no such line.
    """
    found = _VERSION.search(text)
    if found is None:
        raise UnsupportedError("trtexec doesn't say its version")
    number = int(found[1])
    # Up to TensorRT 8 major x 1000 + minor x 100 + patch, since 10 major x 10000 and so on.
    if number < 10000:
        return number // 1000, number // 100 % 10, number % 100
    return number // 10000, number // 100 % 100, number % 100


class TrtexecBoard(Board):
    """This machine, through trtexec and the CUDA driver.

    Args:
        program: path of trtexec.
        root: where /proc and /etc are.

    Raises:
        DeviceError: no GPU or driver.
        UnsupportedError: it is no trtexec.
    """

    def __init__(self, program: str, root: Path = Path("/")) -> None:
        self._program, self._root = program, root
        self._driver = CudaDriver()
        self._version = parse_version(_run([program, "--help"], check=False))

    def identity(self) -> Identity:
        """GPU, TensorRT and system."""
        return Identity(
            gpu=gpu_text(self._driver.name, module_name(self._root)),
            sm=self._driver.compute_capability,
            tensorrt="TensorRT " + ".".join(map(str, self._version)),
            system=system_text(self._root, self._driver.version),
        )

    def build(self, graph: bytes, options: EngineOptions) -> BuiltEngine:
        """Build an engine.

        Raises:
            DeepSeekEdgeError: trtexec failed, with its first error.
        """
        with tempfile.TemporaryDirectory(prefix="dse-build-") as name:
            folder = Path(name)
            (folder / "graph.onnx").write_bytes(graph)
            cache = folder / "timing.cache"
            if options.timing_cache:
                cache.write_bytes(options.timing_cache)
            _run([self._program, *build_arguments(self._version, options, folder)])
            kept = cache.read_bytes() if cache.is_file() else None
            return BuiltEngine((folder / "model.engine").read_bytes(), kept, ())

    def open(self, engine: bytes) -> Any:
        """A runner that starts trtexec each time; ``engine`` has been checked."""
        return TrtexecRunner(self._program, engine)


def build_arguments(
    version: tuple[int, int, int], options: EngineOptions, folder: Path
) -> list[str]:
    """What trtexec is told to build ``folder / "graph.onnx"``."""
    arguments = [
        f"--onnx={folder / 'graph.onnx'}",
        f"--saveEngine={folder / 'model.engine'}",
        f"--memPoolSize=workspace:{max(1, options.workspace_bytes >> 20)}",
        # It measures after building, and has no option against it that all versions know.
        *("--iterations=1", "--duration=0", "--warmUp=0"),
    ]
    if options.is_detailed:
        arguments.append("--profilingVerbosity=detailed")
    if options.timing_cache is not None:
        arguments.append(f"--timingCacheFile={folder / 'timing.cache'}")
    if options.precision == "float32":
        arguments.append("--noTF32")
    if version[0] < 10:
        arguments += ["--fp16"] if options.precision in ("float16", "int8") else []
        arguments += ["--int8"] if options.precision == "int8" else []
    elif version[0] == 10:
        arguments.append("--stronglyTyped")
    return arguments


class TrtexecRunner:
    """Runs an engine with one trtexec a call."""

    def __init__(self, program: str, engine: bytes) -> None:
        self._program = program
        self._temporary = tempfile.TemporaryDirectory(prefix="dse-run-")
        self._folder = Path(self._temporary.name)
        (self._folder / "model.engine").write_bytes(engine)
        self._inputs: list[str] = []

    def run(self, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        """Run once; float outputs only.

        Raises:
            DeepSeekEdgeError: trtexec failed, or wrote what can't be read.
        """
        files = []
        for place, (name, data) in enumerate(inputs.items()):
            (self._folder / f"{place}.bin").write_bytes(data)
            files.append(f"'{name}':{self._folder / f'{place}.bin'}")
        self._inputs = ["--loadInputs=" + ",".join(files)]
        path = self._folder / "outputs.json"
        self._execute([f"--exportOutput={path}", "--iterations=1", "--duration=0", "--warmUp=0"])
        return parse_outputs(path.read_text("utf-8"))

    def time(self, repetitions: int) -> list[int]:
        """Nanoseconds of the GPU's work in each run."""
        path = self._folder / "times.json"
        self._execute([f"--exportTimes={path}", f"--iterations={repetitions}", "--duration=0"])
        return parse_times(path.read_text("utf-8"))[-repetitions:]

    def layer_information(self) -> str:
        """JSON of the engine's layers."""
        path = self._folder / "layers.json"
        detailed = ["--profilingVerbosity=detailed", "--iterations=1", "--duration=0"]
        self._execute([f"--exportLayerInfo={path}", *detailed])
        return path.read_text("utf-8", "replace")

    def close(self) -> None:
        """Remove the files; twice is fine."""
        self._temporary.cleanup()

    def _execute(self, arguments: Sequence[str]) -> None:
        engine = f"--loadEngine={self._folder / 'model.engine'}"
        _run([self._program, engine, *self._inputs, *arguments])


def parse_outputs(text: str) -> dict[str, bytes]:
    """Outputs of --exportOutput as float32; numbers that are none become NaN.

    Raises:
        DeepSeekEdgeError: it is no such file.
    """
    try:
        # C++ prints nan, -nan and inf, which JSON doesn't have.
        tensors = json.loads(re.sub(r"-?\b(?:nan|inf)\b", "null", text))
        outputs = {}
        for tensor in tensors:
            values = [math.nan if value is None else float(value) for value in tensor["values"]]
            outputs[str(tensor["name"])] = struct.pack(f"<{len(values)}f", *values)
        return outputs
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DeepSeekEdgeError(f"trtexec's outputs can't be read: {error}") from error


def parse_times(text: str) -> list[int]:
    """Nanoseconds of --exportTimes: the GPU's work of each run.

    Raises:
        DeepSeekEdgeError: it is no such file, or has no runs.
    """
    try:
        times = [round(float(row["computeMs"]) * 1e6) for row in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise DeepSeekEdgeError(f"trtexec's times can't be read: {error}") from error
    if not times:
        raise DeepSeekEdgeError("trtexec measured nothing")
    return times


def _run(command: Sequence[str], *, check: bool = True) -> str:
    try:
        ended = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeepSeekEdgeError(f"trtexec did not run: {error}") from error
    text = ended.stdout.decode("utf-8", "replace")
    if check and ended.returncode != 0:
        found = _ERROR.search(text)
        reason = found[1].strip() if found else f"exit code {ended.returncode}"
        raise DeepSeekEdgeError(f"trtexec failed: {reason}")
    return text

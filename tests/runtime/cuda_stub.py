"""A stand-in for the CUDA driver, and for the part of TensorRT that runs engines on it."""

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_SOURCE = Path(__file__).with_name("cuda_stub.c")


def build_stub(folder: Path) -> Path:
    """Compile the driver."""
    library = folder / "libcuda.so.1"
    command = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-shared"]
    subprocess.run([*command, "-fPIC", "-o", library, _SOURCE], check=True)
    return library


class FakeRuntime:
    """TensorRT's module for running; its engine doubles x of three floats.

    Args:
        engine: that is taken; all others are refused.
        dtype: of the tensors.
        shape: of the tensors.
        runs: what enqueueing returns.
    """

    def __init__(
        self,
        engine: bytes = b"engine",
        *,
        dtype: str = "DataType.FLOAT",
        shape: tuple[int, ...] = (1, 3),
        runs: bool = True,
        starts: bool = True,
        layers: str | None = None,
    ) -> None:
        self.__name__, self.__version__ = "tensorrt", "10.3.0"
        self.TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
        self.Logger = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self._taken, self._dtype, self._shape = engine, dtype, shape
        self._runs, self._starts, self._layers = runs, starts, layers
        self.LayerInformationFormat = SimpleNamespace(JSON="json")

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def deserialize(data: bytes) -> Any:
            if data != self._taken:
                logger.log(1, "Serialization assertion failed:\n  version tag")
                return None
            return self._engine(logger)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _engine(self, logger: Any) -> Any:
        names = ("x", "y")
        return SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: "input" if name == "x" else "output",
            get_tensor_dtype=lambda name: self._dtype,
            get_tensor_shape=lambda name: self._shape,
            create_engine_inspector=self._inspector,
            create_execution_context=lambda: self._context(logger) if self._starts else None,
        )

    def _inspector(self) -> Any:
        if self._layers is None:
            return None
        return SimpleNamespace(get_engine_information=lambda form: self._layers)

    def _context(self, logger: Any) -> Any:
        addresses: dict[str, int] = {}

        def execute(stream: int) -> bool:
            if not self._runs:
                logger.log(1, "enqueue failed")
                return False
            values = (ctypes.c_float * 3).from_address(addresses["x"])
            results = (ctypes.c_float * 3).from_address(addresses["y"])
            results[:] = [2 * value for value in values]
            return True

        return SimpleNamespace(set_tensor_address=addresses.__setitem__, execute_async_v3=execute)

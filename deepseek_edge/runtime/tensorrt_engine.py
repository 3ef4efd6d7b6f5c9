"""Runs the engine that dse_build.py keeps, on the board, like ``engine.Engine`` runs a model.so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.engine_build import version_text
from deepseek_edge.errors import InputError, ModelError
from deepseek_edge.runtime.board_build.board import gpu_text, load_tensorrt, module_name
from deepseek_edge.runtime.board_build.decisions import check_home
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.runtime.engine import check_inputs
from deepseek_edge.runtime.engine_runner import EngineRunner
from deepseek_edge.tensors import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REBUILD = "run dse_build.py on this board"


class TensorRTEngine:
    """One opened engine. For the thread that opened it; not across a fork.

    The engine's digest, GPU and version are checked before TensorRT is given a byte of it.

    Args:
        state: the folder where dse_build.py keeps engines.
        record: of the engine to open, read before; None: of the one that is there.
        trt: TensorRT's module; None: the board's.
        driver: of the GPU, stays the caller's; None: one of its own.
        root: where /proc is.

    Attributes:
        entries: one name, "batchN"; an ``entry`` argument is an index into it.
        precision: "int8", "float16" or "float32".

    Raises:
        ModelError: there is no engine, or it is damaged, of another GPU or version.
        MissingToolError: the board has no TensorRT for Python.
        DeviceError: no GPU, or it failed.
        DeepSeekEdgeError: no memory.
    """

    def __init__(
        self,
        state: Path,
        *,
        record: Mapping[str, Any] | None = None,
        trt: Any = None,
        driver: CudaDriver | None = None,
        root: Path = Path("/"),
    ) -> None:
        store = EngineStore(state) if state.is_dir() else None
        if store is not None and record is None:
            record = store.read_record()
        if store is None or record is None:
            raise ModelError(f"{state} has no engine", hint=_REBUILD)
        trt = load_tensorrt() if trt is None else trt
        self._own_driver = None if driver is not None else CudaDriver()
        self._driver = driver or self._own_driver
        try:
            self._runner = self._open(store, record, trt, root)
        except BaseException:
            self._close_driver()
            raise
        self.precision = str(record["precision"])
        inputs = self._runner.inputs
        batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
        self.entries = (f"batch{batch}",)

    def __enter__(self) -> "TensorRTEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give GPU memory back. The engine can't be used after; twice is fine."""
        self._runner.close()
        self._close_driver()

    def inputs(self, entry: int = 0) -> tuple[TensorSpec, ...]:
        """Inputs, in the engine's order.

        Raises:
            InputError: there is no such entry; as every method with ``entry``.
        """
        self._check(entry)
        return self._runner.inputs

    def outputs(self, entry: int = 0) -> tuple[TensorSpec, ...]:
        """Outputs, in the engine's order."""
        self._check(entry)
        return self._runner.outputs

    def steps(self, entry: int = 0) -> tuple[tuple[str, str], ...]:
        """None: TensorRT's layers are in its layer information, not timed one by one here."""
        self._check(entry)
        return ()

    def run(
        self, inputs: Mapping[str, "NDArray[Any]"], entry: int = 0
    ) -> dict[str, "NDArray[Any]"]:
        """Run once.

        Args:
            inputs: one array for each input, of exactly its dtype and shape.
            entry: index into ``entries``.

        Returns:
            The outputs by name.

        Raises:
            InputError: a name, dtype or shape is wrong; nothing was run.
            DeviceError: the GPU failed, and can't be used in this process any more.
        """
        import numpy as np

        self._check(entry)
        check_inputs(self._runner.inputs, inputs)
        raw = {name: np.ascontiguousarray(value).tobytes() for name, value in inputs.items()}
        outputs = self._runner.run(raw)
        return {
            spec.name: np.frombuffer(outputs[spec.name], spec.dtype).reshape(spec.shape).copy()
            for spec in self._runner.outputs
        }

    def run_timed(
        self, inputs: Mapping[str, "NDArray[Any]"], entry: int = 0
    ) -> tuple[dict[str, "NDArray[Any]"], "NDArray[np.uint64]"]:
        """As ``run``, and a duration for each of ``steps``: none, (0,) uint64."""
        import numpy as np

        return self.run(inputs, entry), np.zeros(0, dtype=np.uint64)

    def time(self, repetitions: int, entry: int = 0) -> "NDArray[np.int64]":
        """Run repeatedly on the inputs that are in place (zeros, or those of the last ``run``).

        Returns:
            (repetitions,) int64, nanoseconds of each run, without copies of inputs and outputs.

        Raises:
            DeviceError: as ``run``.
        """
        import numpy as np

        self._check(entry)
        return np.array(self._runner.time(repetitions), dtype=np.int64)

    def _open(
        self, store: EngineStore, record: Mapping[str, Any], trt: Any, root: Path
    ) -> EngineRunner:
        assert self._driver is not None
        gpu = gpu_text(self._driver.name, module_name(root))
        sm, version = self._driver.compute_capability, version_text(trt)
        objection = check_home(record, gpu, sm, version)
        if objection is not None:
            raise ModelError(f"{objection}; this is {gpu}, {sm}, {version}", hint=_REBUILD)
        return EngineRunner(trt, self._driver, store.read_engine(record))

    def _close_driver(self) -> None:
        if self._own_driver is not None:
            self._own_driver.close()

    def _check(self, entry: int) -> None:
        if entry != 0:
            raise InputError(f"entry {entry}: the engine has 1")

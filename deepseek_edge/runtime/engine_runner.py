"""Runs a TensorRT engine through its Python API (8.5 and newer) on raw bytes, without numpy.

Runs on Python 3.8 too, as a part of dse_build.py. The bytes of an engine must have been checked
against a digest before: TensorRT runs code that is in them.
"""

from __future__ import annotations

import time
from typing import Any, Mapping

from deepseek_edge.engine_build import layer_information, start
from deepseek_edge.errors import DeepSeekEdgeError, InputError, ModelError, UnsupportedError
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.tensors import TensorSpec

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class EngineRunner:
    """One opened engine, for one thread at a time.

    Args:
        trt: the module that it was built with, same version.
        driver: of the GPU that it was built for. It stays the caller's.
        engine: checked bytes.

    Attributes:
        inputs, outputs: in the engine's order.

    Raises:
        ModelError: TensorRT doesn't take the engine: another version, another GPU, damaged.
        UnsupportedError: shapes that aren't static, or a type that isn't known.
        DeepSeekEdgeError: no memory; DeviceError: the GPU failed.
    """

    def __init__(self, trt: Any, driver: CudaDriver, engine: bytes) -> None:
        self._trt, self._driver = trt, driver
        self._addresses: dict[str, int] = {}
        # Held as long as the engine: TensorRT refers to them.
        self._logger = start(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise ModelError(
                f"TensorRT {trt.__version__} doesn't take this engine: {self._reason()}",
                hint="build it again on this board: dse_build.py --rebuild",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeepSeekEdgeError(
                f"the engine can't be started: {self._reason()}", hint="end other programs"
            )
        specs = [self._describe(i) for i in range(self._engine.num_io_tensors)]
        is_input = [self._engine.get_tensor_mode(s.name) == trt.TensorIOMode.INPUT for s in specs]
        self.inputs = tuple(spec for spec, yes in zip(specs, is_input) if yes)
        self.outputs = tuple(spec for spec, yes in zip(specs, is_input) if not yes)
        try:
            self._allocate(specs)
        except DeepSeekEdgeError:
            self.close()
            raise

    def run(self, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        """Run once.

        Args:
            inputs: little-endian elements in C order by name, all of them.

        Returns:
            The outputs likewise.

        Raises:
            InputError: a name is missing, unknown, or has another number of bytes.
            DeviceError: the GPU failed.
        """
        self._check_open()
        if set(inputs) != {spec.name for spec in self.inputs}:
            raise InputError(
                f"the inputs given are {sorted(inputs)}",
                hint=f"the engine's inputs are {[spec.name for spec in self.inputs]}",
            )
        for spec in self.inputs:
            if len(inputs[spec.name]) != spec.size_bytes:
                raise InputError(
                    f"input {spec.name!r} has {len(inputs[spec.name])} bytes",
                    hint=f"it must be {spec.dtype} of shape {spec.shape}",
                )
            self._driver.upload(self._addresses[spec.name], inputs[spec.name])
        self._enqueue()
        return {
            spec.name: self._driver.download(self._addresses[spec.name], spec.size_bytes)
            for spec in self.outputs
        }

    def time(self, repetitions: int) -> list[int]:
        """Nanoseconds of each run, on the inputs that are in place; nothing is copied.

        Raises:
            DeviceError: the GPU failed.
        """
        self._check_open()
        durations = []
        for _ in range(repetitions):
            start = time.perf_counter_ns()
            self._enqueue()
            self._driver.synchronize()
            durations.append(time.perf_counter_ns() - start)
        return durations

    def layer_information(self) -> str:
        """JSON of the engine's layers, as ``trtexec --exportLayerInfo`` writes it.

        Raises:
            UnsupportedError: TensorRT can't say.
        """
        self._check_open()
        return layer_information(self._trt, self._engine)

    def close(self) -> None:
        """Give the memory back; twice is fine."""
        for address in self._addresses.values():
            self._driver.release(address)
        self._addresses = {}
        self._context = self._engine = self._runtime = None

    def _check_open(self) -> None:
        if self._context is None:
            raise InputError("the engine is closed")

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._driver.stream):
            # If the GPU is lost the driver says so; else TensorRT has a reason of its own.
            self._driver.synchronize()
            raise DeepSeekEdgeError(f"the engine did not run: {self._reason()}")

    def _describe(self, index: int) -> TensorSpec:
        name = self._engine.get_tensor_name(index)
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
        shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
        if kind not in _DTYPES or any(size < 0 for size in shape):
            raise UnsupportedError(f"the engine's tensor {name!r} is {kind} of shape {shape}")
        return TensorSpec(name, _DTYPES[kind], shape)

    def _allocate(self, specs: list[TensorSpec]) -> None:
        for spec in specs:
            address = self._driver.allocate(spec.size_bytes)
            self._addresses[spec.name] = address
            self._driver.upload(address, bytes(spec.size_bytes))
            self._context.set_tensor_address(spec.name, address)

    def _reason(self) -> str:
        errors = self._logger.errors
        return " ".join(errors[0].split()) if errors else "it gives no reason"

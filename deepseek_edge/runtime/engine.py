"""Runs a compiled model (model.so) in this process, through its C interface."""

import _ctypes
import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import (
    DeepSeekEdgeError,
    DeviceError,
    InputError,
    ModelError,
    UnsupportedError,
)
from deepseek_edge.runtime import abi
from deepseek_edge.tensors import DTYPE_CODES, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class _Tensor:
    spec: TensorSpec
    memory: "NDArray[Any]"  # the arena itself: gone when the engine is closed


@dataclass(frozen=True)
class _Entry:
    name: str
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    steps: tuple[tuple[str, str], ...]


class Engine:
    """One opened model. Not for two threads at once; not across a fork.

    Args:
        library: a model.so. It is opened once; a file put in its place later doesn't matter.
        threads: the caller's included; 0 for as many as this process may use.

    Attributes:
        entries: names of the ways into the program; an ``entry`` argument is an index into it.

    Raises:
        ModelError: the file is missing, or no compiled model for this kind of CPU.
        UnsupportedError: this CPU or GPU lacks what the kernels use, or its driver is too old or
            missing; the message says what.
        DeviceError: the GPU failed; also from every method that runs.
        DeepSeekEdgeError: no memory or no threads.
    """

    def __init__(self, library: Path, threads: int = 0) -> None:
        self._model = ctypes.c_void_p()
        self._library, self._descriptor = _load(library)
        try:
            self._open(threads)
            count: int = self._library.dse_entries(self._model)
            self._entries = tuple(self._describe(index) for index in range(count))
        except BaseException:
            self.close()
            raise
        self.entries = tuple(entry.name for entry in self._entries)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and unmap the model. The engine can't be used after; twice is fine."""
        if self._descriptor < 0:
            return
        self._entries = ()
        self._library.dse_close(self._model)
        _ctypes.dlclose(self._library._handle)
        os.close(self._descriptor)
        self._descriptor = -1

    def inputs(self, entry: int = 0) -> tuple[TensorSpec, ...]:
        """Inputs of an entry, in the order of the source graph.

        Raises:
            InputError: no such entry, or the engine is closed; as every method with ``entry``.
        """
        return tuple(tensor.spec for tensor in self._entry(entry).inputs)

    def outputs(self, entry: int = 0) -> tuple[TensorSpec, ...]:
        """Outputs of an entry, in the order of the source graph."""
        return tuple(tensor.spec for tensor in self._entry(entry).outputs)

    def steps(self, entry: int = 0) -> tuple[tuple[str, str], ...]:
        """``(name, op)`` of each step, in the order of ``run_timed``'s durations."""
        return self._entry(entry).steps

    def run(
        self, inputs: Mapping[str, "NDArray[Any]"], entry: int = 0
    ) -> dict[str, "NDArray[Any]"]:
        """Run once.

        Args:
            inputs: one array for each input, of exactly its dtype and shape.
            entry: index into ``entries``.

        Returns:
            Copies of the outputs by name.

        Raises:
            InputError: a name, dtype or shape is wrong; nothing was run.
        """
        described = self._entry(entry)
        _fill(described.inputs, inputs)
        self._check(self._library.dse_run(self._model, entry))
        return {tensor.spec.name: tensor.memory.copy() for tensor in described.outputs}

    def run_timed(
        self, inputs: Mapping[str, "NDArray[Any]"], entry: int = 0
    ) -> tuple[dict[str, "NDArray[Any]"], "NDArray[np.uint64]"]:
        """As ``run``, and returns also the duration of each step: (steps,) uint64, nanoseconds."""
        import numpy as np

        described = self._entry(entry)
        _fill(described.inputs, inputs)
        step_ns = np.zeros(len(described.steps), dtype=np.uint64)
        pointer = step_ns.ctypes.data_as(ctypes.POINTER(ctypes.c_uint64))
        self._check(self._library.dse_run_timed(self._model, entry, pointer, len(step_ns)))
        outputs = {tensor.spec.name: tensor.memory.copy() for tensor in described.outputs}
        return outputs, step_ns

    def time(self, repetitions: int, entry: int = 0) -> "NDArray[np.int64]":
        """Run repeatedly on the inputs that are in place (zeros, or those of the last ``run``).

        Returns:
            (repetitions,) int64, nanoseconds of each run; only CUDA programs copy anything in it,
            their inputs and outputs.
        """
        import numpy as np

        self._entry(entry)
        run, model, clock = self._library.dse_run, self._model, time.perf_counter_ns
        durations = np.zeros(repetitions, dtype=np.int64)
        for index in range(repetitions):
            start = clock()
            status = run(model, entry)
            durations[index] = clock() - start
            self._check(status)
        return durations

    def _open(self, threads: int) -> None:
        options = abi.Options(struct_size=ctypes.sizeof(abi.Options), threads=threads)
        status = self._library.dse_open(ctypes.byref(options), ctypes.byref(self._model))
        if status == abi.ERROR_FEATURE:
            raise UnsupportedError(
                self._last_error(),
                hint="compile the model for this CPU, e.g. with --target host",
            )
        if status in (abi.ERROR_NO_DEVICE, abi.ERROR_DRIVER):
            raise UnsupportedError(
                self._last_error(),
                hint="the bundle's CPU program needs no GPU and no driver",
            )
        self._check(status)

    def _check(self, status: int) -> None:
        if status == abi.ERROR_DEVICE_LOST:
            raise DeviceError(
                self._last_error(),
                hint="close the engine; if the GPU doesn't come back, end the process",
            )
        if status != abi.OK:
            raise DeepSeekEdgeError(self._last_error())

    def _last_error(self) -> str:
        message: bytes = self._library.dse_last_error(self._model)
        return message.decode(errors="replace")

    def _entry(self, entry: int) -> _Entry:
        if 0 <= entry < len(self._entries):
            return self._entries[entry]
        if self._descriptor < 0:
            raise InputError("the engine is closed")
        raise InputError(f"entry {entry}: the program has {len(self._entries)}")

    def _describe(self, index: int) -> _Entry:
        info = abi.EntryInfo()
        self._check(self._library.dse_entry(self._model, index, ctypes.byref(info)))
        step, steps = abi.StepInfo(), []
        for number in range(info.steps):
            self._check(self._library.dse_step(self._model, index, number, ctypes.byref(step)))
            steps.append((step.name.decode(), step.op.decode()))
        return _Entry(
            name=info.name.decode(),
            inputs=tuple(self._tensor(index, abi.INPUT, i) for i in range(info.inputs)),
            outputs=tuple(self._tensor(index, abi.OUTPUT, i) for i in range(info.outputs)),
            steps=tuple(steps),
        )

    def _tensor(self, entry: int, direction: int, index: int) -> _Tensor:
        import numpy as np

        info = abi.TensorInfo()
        status = self._library.dse_tensor(self._model, entry, direction, index, ctypes.byref(info))
        self._check(status)
        shape = tuple(info.shape[: info.rank])
        spec = TensorSpec(info.name.decode(), _DTYPE_NAMES[info.dtype], shape)
        raw = (ctypes.c_uint8 * info.size_bytes).from_address(info.data)
        return _Tensor(spec, np.frombuffer(raw, dtype=spec.dtype).reshape(shape))


def _load(path: Path) -> tuple[ctypes.CDLL, int]:
    # glibc returns the library it has when a name is loaded again, even if the file of that name
    # is a new one. A descriptor that stays open is a name which nothing else can have.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ModelError(f"can't read the compiled model {path}: {error.strerror}") from error
    try:
        library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        abi.declare(library)
        version: int = library.dse_abi_version()
    except (OSError, AttributeError) as error:
        os.close(descriptor)
        raise ModelError(
            f"{path} is not a compiled model for this machine: {error}",
            hint="give the model.so of a program compiled for this CPU and C library",
        ) from error
    if version != abi.ABI_VERSION:
        os.close(descriptor)
        raise ModelError(
            f"{path} has version {version} of the C interface; this package knows "
            f"{abi.ABI_VERSION}",
            hint="compile the model again with this version of deepseek-edge",
        )
    return library, descriptor


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, "NDArray[Any]"]) -> None:
    """Compare names, dtypes and shapes with what a program takes.

    Raises:
        InputError: they differ; the hint says what is expected.
    """
    names = [spec.name for spec in specs]
    if set(inputs) != set(names):
        raise InputError(
            f"the inputs given are {sorted(inputs)}",
            hint=f"the program's inputs are {names}",
        )
    for spec in specs:
        given = inputs[spec.name]
        if given.dtype != spec.dtype or given.shape != spec.shape:
            raise InputError(
                f"input {spec.name!r} is {given.dtype} of shape {given.shape}",
                hint=f"it must be {spec.dtype} of shape {spec.shape}",
            )


def _fill(tensors: tuple[_Tensor, ...], inputs: Mapping[str, "NDArray[Any]"]) -> None:
    check_inputs([tensor.spec for tensor in tensors], inputs)
    for tensor in tensors:
        tensor.memory[...] = inputs[tensor.spec.name]

"""What a CUDA schedule hands on for one step, and what it has to know of the GPU."""

from dataclasses import dataclass
from typing import Any

from deepseek_edge.backends.tvm.graph import Value
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target

MOST_COUNTERS = 4096
THREADS = 256  # of a block, where nothing asks for another number
# A block's shared memory: CUDA C++ Programming Guide, compute capabilities
# (https://docs.nvidia.com/cuda/cuda-c-programming-guide/, read 2026-11-27): each major's least.
_SHARED_BYTES = {7: 96 << 10, 8: 99 << 10, 9: 227 << 10}


def is_fast(target: Target) -> bool:
    """True if its GPU has the matrix instructions and asynchronous copies of mma_gemm.cuh."""
    return target.gpu is not None and int(target.gpu.arch.removeprefix("sm_")) >= 80


class Workspace(Value):
    """Device memory that a step uses for itself; it may overlap what others use."""


class Counters(Workspace):
    """What blocks count their arrivals in: zero before and after every step, never overlapped."""


@dataclass(frozen=True)
class Board:
    """The GPU that kernels are made for.

    Attributes:
        sm: its instruction set: 87 is sm_87.
        counters: those of all steps.
        is_half: float weights and activations are half floats.
    """

    target: Target
    sm: int
    multiprocessors: int
    counters: Counters
    is_half: bool

    @classmethod
    def of(cls, target: Target, *, is_half: bool) -> "Board":
        """Of a target that has a GPU."""
        gpu = target.gpu
        assert gpu is not None
        sm = int(gpu.arch.removeprefix("sm_"))
        if sm // 10 not in _SHARED_BYTES:
            raise UnsupportedError(
                f"no kernels for {gpu.arch}",
                hint="compute capabilities 7.x, 8.x and 9.x have some",
            )
        counters = Counters("counters", "int32", (MOST_COUNTERS,))
        return cls(target, sm, gpu.multiprocessors, counters, is_half)

    @property
    def shared_bytes(self) -> int:
        """What a block may have."""
        return _SHARED_BYTES[self.sm // 10]

    @property
    def has_fast_matrices(self) -> bool:
        """As :func:`is_fast`."""
        return is_fast(self.target)


@dataclass(frozen=True)
class Template:
    """A kernel in C++ around the arithmetic of a step.

    Attributes:
        header: the file of device/ that it calls.
        text: with ``KERNEL`` for its name and ``VALUE`` for that of ``value``.
        value: the TensorIR function of the step's arithmetic (value.py).
    """

    header: str
    text: str
    value: Any


@dataclass(frozen=True)
class Launch:
    """One kernel and how to launch it.

    Attributes:
        kernel: a TensorIR function with its threads, or a template.
        tensors: its pointers in order: graph values, workspaces, or constants made for it.
        macs: multiply-accumulates of the whole step.
    """

    kernel: Any
    tensors: tuple[Value, ...]
    grid: tuple[int, int, int]
    macs: int
    threads: int = THREADS
    shared_bytes: int = 0

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.grid[0] * self.grid[1] * self.grid[2]

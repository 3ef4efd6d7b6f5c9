"""What a schedule hands on for one step, and the cost model that splits it over threads."""

from dataclasses import dataclass
from typing import Any

from deepseek_edge.backends.tvm.choice import Choice
from deepseek_edge.backends.tvm.graph import Scratch, Value
from deepseek_edge.target import Target

# Handing tasks to a spinning thread and learning that they are done takes 150 to 500 ns (Zen 5),
# and what they read has to come from another core's cache. Less work than this isn't worth it.
MIN_CHUNK_NS = 1000.0


@dataclass(frozen=True)
class Lowering:
    """One kernel and how to call it.

    Attributes:
        function: the TensorIR function.
        tensors: its pointers in order: graph values, or constants made for it (packed weights).
        tasks: the kernel computes any range of [0, tasks).
        macs: multiply-accumulates of the whole step.
        choice: what was chosen, with nothing left open that could be otherwise; None: nothing can.
    """

    function: Any
    tensors: tuple[Value, ...]
    tasks: int
    macs: int
    choice: Choice | None = None


def ceil_div(a: int, b: int) -> int:
    """The smallest integer not below a / b."""
    return -(-a // b)


def grain(lowering: Lowering, target: Target) -> int:
    """The least number of tasks worth handing to a thread (all of them: run on one).

    Time is estimated as the larger of arithmetic and memory traffic; both only need to be
    right within a factor of a few.
    """
    macs_per_ns = target.peak_fma_per_cycle * (target.clock_hz or 2_000_000_000) / 1e9
    moved = sum(v.spec.size_bytes for v in lowering.tensors if not isinstance(v, Scratch))
    estimate_ns = max(lowering.macs / macs_per_ns, moved / 8.0)
    if estimate_ns < 2 * MIN_CHUNK_NS:
        return lowering.tasks
    return max(1, int(MIN_CHUNK_NS * lowering.tasks / estimate_ns))

"""The least time a machine needs for a step: Williams et al., "Roofline", CACM 52(4), 2009."""

from dataclasses import dataclass

from deepseek_edge.artifacts import Step
from deepseek_edge.target import Target


@dataclass(frozen=True)
class Roof:
    """What the cores in use can do at most.

    Attributes:
        flop_s: float32 operations a second; a multiply-add counts as two.
        bandwidth_bytes_s: of main memory.
    """

    flop_s: float
    bandwidth_bytes_s: float

    def attainable_flop_s(self, intensity: float) -> float:
        """The roof above ``intensity`` operations a byte."""
        return min(self.flop_s, intensity * self.bandwidth_bytes_s)

    def least_s(self, step: Step) -> float:
        """No implementation that reads and writes each tensor once is faster than this."""
        return max(2 * step.macs / self.flop_s, step_bytes(step) / self.bandwidth_bytes_s)


def find_roof(target: Target, threads: int, measured_bytes_s: float | None = None) -> Roof | None:
    """The roof over ``threads`` cores, or None if the clock or the memory isn't known.

    Args:
        target: its nominal clock; a core that boosts can exceed the roof.
        threads: that compute.
        measured_bytes_s: memory bandwidth where it was measured; else the target's is taken.
    """
    bandwidth_bytes_s = measured_bytes_s or target.memory_bandwidth_bytes_s
    if target.clock_hz is None or bandwidth_bytes_s is None:
        return None
    cores = min(max(threads, 1), target.cores)
    return Roof(
        flop_s=2.0 * target.peak_fma_per_cycle * target.clock_hz * cores,
        bandwidth_bytes_s=float(bandwidth_bytes_s),
    )


def step_bytes(step: Step) -> int:
    """Activations and constants that the step reads and writes, each once."""
    return step.bytes_read + step.bytes_written


def intensity(step: Step) -> float:
    """Float operations a byte."""
    return 2 * step.macs / step_bytes(step) if step_bytes(step) else 0.0

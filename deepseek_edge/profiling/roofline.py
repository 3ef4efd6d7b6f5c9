"""The least time a machine needs for a step: Williams et al., "Roofline", CACM 52(4), 2009."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from deepseek_edge.artifacts import Step
from deepseek_edge.report import Bandwidth, ProfileReport, Roof
from deepseek_edge.target import Target

Bound = Literal["arithmetic", "cache", "memory"]

# What the roof is made of, by the target's fields.
FACTS = frozenset({"clock_hz", "peak_fma_per_cycle", "memory_bandwidth_bytes_s"})


def attainable_flop_s(roof: Roof, intensity: float) -> float:
    """What float32 arithmetic on data in main memory can reach at ``intensity`` operations a byte.

    Of an int8 step this counts a multiply-accumulate as two operations too, so that it can lie
    above.
    """
    return min(roof.flop_s, intensity * roof.bandwidths[-1].bytes_s)


def least_s(roof: Roof, step: Step) -> float:
    """No implementation that reads and writes each tensor once is faster than this."""
    return max(arithmetic_s(roof, step), transfer_s(roof, step))


def limited_by(roof: Roof, step: Step) -> Bound:
    """What that time is spent on."""
    if arithmetic_s(roof, step) >= transfer_s(roof, step):
        return "arithmetic"
    return "memory" if math.isinf(_bandwidth(roof, step).holds_bytes) else "cache"


def arithmetic_s(roof: Roof, step: Step) -> float:
    """Seconds at full speed: the multiplies, or the other operations if these take longer.

    An instruction that multiplies int8 starts as often as a float32 one, on every core here.
    """
    multiplies = 2 * step.macs / step.lane_macs
    return max(multiplies, 2 * (step.operations - 2 * step.macs)) / roof.flop_s


def transfer_s(roof: Roof, step: Step) -> float:
    """Seconds for its bytes, from the nearest memory that holds them all."""
    return step_bytes(step) / _bandwidth(roof, step).bytes_s


def _bandwidth(roof: Roof, step: Step) -> Bandwidth:
    return next(level for level in roof.bandwidths if step_bytes(step) <= level.holds_bytes)


def find_roof(
    target: Target,
    threads: int,
    *,
    measured: Sequence[Bandwidth] = (),
    unverified: Collection[str] = (),
) -> Roof | None:
    """The roof over ``threads`` cores, or None if the clock or the memory isn't known.

    Args:
        target: its nominal clock; a core that boosts can exceed the roof.
        threads: that compute.
        measured: bandwidths, nearest memory first; the target's own if there are none.
        unverified: the target's fields that no source backs; they count as unknown.
    """
    stated = target.memory_bandwidth_bytes_s
    needed = FACTS if not measured else FACTS - {"memory_bandwidth_bytes_s"}
    if target.clock_hz is None or not (measured or stated) or needed & set(unverified):
        return None
    cores = min(max(threads, 1), target.cores)
    return Roof(
        flop_s=2.0 * target.peak_fma_per_cycle * target.clock_hz * cores,
        bandwidths=tuple(measured) or (Bandwidth(math.inf, float(stated or 0)),),
    )


def with_limits(
    report: ProfileReport, steps: Sequence[Step], target: Target, unverified: Collection[str] = ()
) -> ProfileReport:
    """The report with each layer's work and, where the roof is known, its limit.

    Args:
        report: of the entry that ``steps`` belong to.
        steps: in the order of ``report.layers``.
        target: the machine that was measured.
        unverified: as :func:`find_roof` takes it.
    """
    measured = report.bandwidths
    roof = find_roof(target, report.threads, measured=measured, unverified=unverified)
    layers = []
    for layer, step in zip(report.layers, steps, strict=True):
        found = replace(layer, operations=step.operations, bytes=step_bytes(step))
        if roof is not None:
            limit_ms = least_s(roof, step) * 1e3
            found = replace(
                found,
                limit_ms=limit_ms,
                limited_by=limited_by(roof, step),
                limit_share=limit_ms / layer.ms if layer.ms else None,
            )
        layers.append(found)
    return replace(report, layers=tuple(layers), roof=roof)


def step_bytes(step: Step) -> int:
    """Activations and constants that the step reads and writes, each once."""
    return step.bytes_read + step.bytes_written


def intensity(step: Step) -> float:
    """Operations a byte."""
    return step.operations / step_bytes(step) if step_bytes(step) else 0.0

"""The arena: every activation gets a fixed byte offset, none overlaps another while both live.

Reshapes are views: they share the memory of what they reshape. The graph's inputs and outputs
live throughout, so that a run can be repeated and its results stay readable.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deepseek_edge.backends.tvm.graph import Value

ALIGNMENT = 64  # a cache line, and the widest vector


@dataclass(frozen=True)
class Lifetime:
    """A buffer that is written in step ``first`` and last read in step ``last``."""

    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Offsets by root value; ``peak_live_bytes`` is what no plan can go below."""

    offsets: dict[Value, int]
    size_bytes: int
    peak_live_bytes: int


def plan(lifetimes: Mapping[Value, Lifetime]) -> Arena:
    """Place the largest buffers first, each at the lowest offset free during its life."""
    placed: list[tuple[int, int, Lifetime]] = []  # (start, end, life)
    offsets: dict[Value, int] = {}
    order = sorted(lifetimes, key=lambda v: (-lifetimes[v].size_bytes, lifetimes[v].first, v.name))
    for value in order:
        life = lifetimes[value]
        size = _aligned(life.size_bytes)
        start = 0
        for begin, end, other in sorted(placed, key=lambda item: item[0]):
            if other.last < life.first or life.last < other.first:
                continue
            if start + size <= begin:
                break
            start = max(start, end)
        offsets[value] = start
        placed.append((start, start + size, life))
    total = max((end for _, end, _ in placed), default=0)
    return Arena(offsets, total, _peak(lifetimes.values()))


def _aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def _peak(lifetimes: Iterable[Lifetime]) -> int:
    lives = list(lifetimes)
    moments = {life.first for life in lives}
    return max(
        (
            sum(_aligned(life.size_bytes) for life in lives if life.first <= moment <= life.last)
            for moment in moments
        ),
        default=0,
    )


def lifetimes(
    steps: Sequence[Sequence[Value]],
    written: Sequence[Sequence[Value]],
    pinned: Iterable[Value],
    roots: Mapping[Value, Value],
) -> dict[Value, Lifetime]:
    """When each root value is alive.

    Args:
        steps: the tensors that each step touches; constants are left out.
        written: the tensors that each step writes.
        pinned: values that live throughout.
        roots: views -> what they are views of.
    """
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for number, (touched, outputs) in enumerate(zip(steps, written, strict=True)):
        for value in touched:
            last[roots.get(value, value)] = number
        for value in outputs:
            first.setdefault(roots.get(value, value), number)
    for value in pinned:
        root = roots.get(value, value)
        first[root], last[root] = 0, len(steps)
    return {
        value: Lifetime(value.spec.size_bytes, first[value], last.get(value, first[value]))
        for value in first
    }

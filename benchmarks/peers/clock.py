"""How every side is timed."""

from __future__ import annotations

import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object], calls: int) -> list[float]:
    """Duration of each of a number of calls."""
    clock = time.perf_counter_ns
    durations = []
    for _ in range(calls):
        began = clock()
        call()
        durations.append((clock() - began) / 1e6)
    return durations

"""Times of several programs in turns, so that a change of the machine's mood meets all of them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek_edge.runtime.engine import Engine

Inputs = Mapping[str, NDArray[Any]]

ROUNDS = 15
ROUND_NS = 20e6  # long enough that the threads of the program before are asleep for most of it
MOST_CALLS = 200
QUANTILE = 0.25  # other processes only ever add time


def compare_calls(libraries: Sequence[Path], inputs: Inputs, *, threads: int = 0) -> list[float]:
    """Seconds of a call of each program's first entry: the lower quartile of rounds in turns.

    Args:
        libraries: programs of one model.
        inputs: of a call.
        threads: 0 for as many as this process may use.

    Raises:
        DeepSeekEdgeError: as ``Engine``.
    """
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(path, threads=threads)) for path in libraries]
        counts = [_calls(_warm(engine, inputs)) for engine in engines]
        rounds = [
            [float(np.median(e.time(n))) for e, n in zip(engines, counts, strict=True)]
            for _ in range(ROUNDS)
        ]
    return [float(value) / 1e9 for value in np.quantile(rounds, QUANTILE, axis=0)]


def compare_steps(
    libraries: Sequence[Path], inputs: Inputs, *, threads: int = 0
) -> list[list[float]]:
    """Seconds of each step of each program: lower quartiles of calls in turns.

    Args, Raises:
        As :func:`compare_calls`.
    """
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(path, threads=threads)) for path in libraries]
        counts = [max(2, _calls(_warm(engine, inputs)) // 8) for engine in engines]
        found: list[list[NDArray[np.uint64]]] = [[] for _ in engines]
        for _ in range(ROUNDS):
            for calls, engine, count in zip(found, engines, counts, strict=True):
                calls += [engine.run_timed(inputs)[1] for _ in range(count)]
    return [(np.quantile(calls, QUANTILE, axis=0) / 1e9).tolist() for calls in found]


def _warm(engine: Engine, inputs: Inputs) -> float:
    engine.run(inputs)
    return float(np.median(engine.time(5)))


def _calls(typical_ns: float) -> int:
    return max(1, min(MOST_CALLS, int(ROUND_NS / max(typical_ns, 1.0))))

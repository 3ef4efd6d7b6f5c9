"""A compiled program against onnxruntime on this machine, in turns.

Two programs timed one after the other are timed on two machines: clocks, neighbours and caches
change within seconds. So they take turns of a tenth of a second, and the ratio is taken inside
each round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_edge.parity import Tensors
    from deepseek_edge.runtime.engine import Engine

TURN_S = 0.1
MOST_CALLS = 500
BUDGET_S = 8.0
LEAST_ROUNDS, MOST_ROUNDS = 5, 15
# Threads of onnxruntime spin for a while after a call, in case another one follows.
REST_S = 0.01

# Times a number of calls and gives the milliseconds of each.
Turn = Callable[[int], list[float]]


@dataclass(frozen=True)
class Comparison:
    """A program and onnxruntime at the same number of threads.

    Attributes:
        ours_ms, onnxruntime_ms: medians over all calls.
        ours_best_ms, onnxruntime_best_ms: the fastest calls, which a busy machine disturbs least.
        ratio: ours over theirs, the median of the rounds' ratios; below 1 we are faster.
        ratio_min, ratio_max: of the rounds.
        rounds, calls: how often they took turns, and our calls in a turn.
        load_average: of the last minute, before the first call.
        doubts: what happened meanwhile that spoils a measurement.
    """

    threads: int
    ours_ms: float
    onnxruntime_ms: float
    ours_best_ms: float
    onnxruntime_best_ms: float
    ratio: float
    ratio_min: float
    ratio_max: float
    rounds: int
    calls: int
    load_average: float
    doubts: tuple[str, ...]


def compare(library: Path, graph: Path, threads: int) -> Comparison:
    """Time the first entry of a program against onnxruntime with all its optimizations.

    Neither side copies its inputs or outputs.

    Args:
        library: a program compiled for this machine.
        graph: the ONNX file it was compiled from.
        threads: of both.

    Raises:
        DeepSeekEdgeError: as ``Engine``.
    """
    import onnx

    from deepseek_edge.parity import graph_inputs, sample_inputs
    from deepseek_edge.profiling.conditions import read_conditions, reasons_to_doubt
    from deepseek_edge.runtime.engine import Engine

    model = onnx.load(graph)
    inputs = sample_inputs(model, graph_inputs(model), 0)
    load_average = os.getloadavg()[0]
    theirs = _onnxruntime_turn(graph, inputs, threads)
    with Engine(library, threads=threads) as engine:
        engine.run(inputs)
        before, began = read_conditions(), time.perf_counter()
        our_rounds, their_rounds = take_turns([partial(engine_turn, engine), theirs])
        doubts = reasons_to_doubt(before, read_conditions(), time.perf_counter() - began)
    ratios = round_ratios(our_rounds, their_rounds)
    return Comparison(
        threads=threads,
        ours_ms=median_ms(our_rounds),
        onnxruntime_ms=median_ms(their_rounds),
        ours_best_ms=fastest_ms(our_rounds),
        onnxruntime_best_ms=fastest_ms(their_rounds),
        ratio=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        rounds=len(ratios),
        calls=len(our_rounds[0]),
        load_average=round(load_average, 2),
        doubts=tuple(doubts),
    )


def take_turns(turns: Sequence[Turn], *, rest_s: float = REST_S) -> list[list[list[float]]]:
    """Let sides take turns of about a tenth of a second; the first call of each is dropped.

    Args:
        turns: of the sides, in the order in which they run.
        rest_s: before each turn.

    Returns:
        Milliseconds of the calls of each side, by round. A turn has at least 3 calls and at most
        ``MOST_CALLS``.
    """
    fastest_ms = [max(min(turn(3)), 1e-6) for turn in turns]
    calls = [max(3, min(MOST_CALLS, int(TURN_S * 1e3 / one))) for one in fastest_ms]
    round_s = sum((n + 1) * one for n, one in zip(calls, fastest_ms, strict=True)) / 1e3
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(BUDGET_S / round_s)))
    kept: list[list[list[float]]] = [[] for _ in turns]
    for _ in range(rounds):
        for side, turn in enumerate(turns):
            time.sleep(rest_s)
            kept[side].append(turn(calls[side] + 1)[1:])
    return kept


def engine_turn(engine: Engine, calls: int) -> list[float]:
    """A turn of a program of ours, on the inputs that are in place."""
    return [nanoseconds / 1e6 for nanoseconds in engine.time(calls).tolist()]


def round_ratios(ours: Sequence[list[float]], theirs: Sequence[list[float]]) -> list[float]:
    """Our median over theirs in each round."""
    return [
        statistics.median(our) / statistics.median(their)
        for our, their in zip(ours, theirs, strict=True)
    ]


def median_ms(rounds: Sequence[list[float]]) -> float:
    """Median over all calls of all rounds."""
    return round(statistics.median(call for calls in rounds for call in calls), 4)


def fastest_ms(rounds: Sequence[list[float]]) -> float:
    """The fastest call of all rounds, which a busy machine disturbs least."""
    return round(min(call for calls in rounds for call in calls), 4)


def _onnxruntime_turn(graph: Path, inputs: Tensors, threads: int) -> Turn:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def turn(calls: int) -> list[float]:
        times_ms = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            times_ms.append((time.perf_counter_ns() - began) / 1e6)
        return times_ms

    turn(1)
    return turn

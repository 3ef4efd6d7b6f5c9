"""Times a program on this machine: percentiles, steps, memory, and whether to believe them."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepseek_edge.artifacts import Step
from deepseek_edge.profiling.conditions import read_conditions, reasons_to_doubt, run_conditions
from deepseek_edge.profiling.roofline import FACTS, with_limits
from deepseek_edge.report import Bandwidth, Latency, LayerTime, ProfileReport, RunConditions
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.runtime.tensorrt_engine import TensorRTEngine
from deepseek_edge.target import Target, unverified_fields

LEAST_SAMPLES = 100  # fewer have no p99
WINDOW_S = 0.1
WARM_UP_LIMIT_S = 5.0
MEASURE_S = 2.0
MOST_SAMPLES = 2000
STEP_RUNS = 20
COPY_BYTES = 64 << 20

Opened = Engine | TensorRTEngine


def measure(
    open_program: Callable[[int], Opened],
    inputs: Mapping[str, NDArray[Any]],
    *,
    bundle: str,
    program: str,
    steps: Sequence[Step],
    target: Target,
    threads: int = 0,
    queries: int | None = None,
    on_gpu: bool = False,
) -> ProfileReport:
    """Measure the first entry of a program on this machine.

    Args:
        open_program: opens a verified program for a number of threads.
        inputs: by name; their values matter little, but denormals would.
        bundle: a name for the report.
        program: a name for the report.
        steps: of the first entry.
        target: compiled for; there is a roof if none of its values that make it is unverified.
        threads: 0 for as many as this process may use.
        queries: measured calls; by default two seconds of them, at least 100.
        on_gpu: the program runs on this machine's GPU: its clock counts, and there is no roof.

    Raises:
        DeepSeekEdgeError: as what opens it.
    """
    used_threads, memory = threads or len(os.sched_getaffinity(0)), _PeakMemory()
    started = time.perf_counter()
    with open_program(threads) as engine:
        open_ms = (time.perf_counter() - started) * 1e3
        calls = _calls(engine, inputs, queries, on_gpu)
        peak_rss_bytes = memory.peak_bytes()
    found = ProfileReport(
        device="host",
        emulated=False,
        bundle=bundle,
        program=program,
        threads=0 if on_gpu else used_threads,
        reasons=calls.reasons,
        latency_ms=latency(calls.samples_ms),
        open_ms=open_ms,
        peak_rss_bytes=peak_rss_bytes,
        layers=calls.layers,
        bandwidths=() if on_gpu else measure_bandwidths(target, used_threads),
        samples_ms=calls.samples_ms,
        conditions=calls.conditions,
    )
    return with_limits(found, steps, target, FACTS if on_gpu else unverified_fields(target.id))


class _Calls(NamedTuple):
    """Milliseconds of each, what spoils them, the machine meanwhile, and where the time goes."""

    samples_ms: tuple[float, ...]
    reasons: tuple[str, ...]
    conditions: RunConditions
    layers: tuple[LayerTime, ...]


def _calls(
    engine: Opened, inputs: Mapping[str, NDArray[Any]], queries: int | None, on_gpu: bool
) -> _Calls:
    """Warm up, time calls, then their layers."""
    engine.run(inputs)
    stable, typical_ns = warm_up(engine)
    count = queries or _sample_count(typical_ns)
    before, began = read_conditions(), time.perf_counter()
    samples_ns = engine.time(count)
    elapsed_s, after = time.perf_counter() - began, read_conditions()
    doubts = reasons_to_doubt(before, after, elapsed_s, on_gpu=on_gpu)
    reasons = [*doubts, *_reasons_of_samples(count, stable)]
    samples_ms = tuple((samples_ns / 1e6).tolist())
    layers = _layers(engine, inputs, typical_ns)
    return _Calls(samples_ms, tuple(reasons), run_conditions(before, after), layers)


def warm_up(engine: Opened, limit_s: float = WARM_UP_LIMIT_S) -> tuple[bool, float]:
    """Run until two windows of calls in a row have medians within 2 %.

    Returns:
        Whether that happened within ``limit_s``, and the last median in nanoseconds.
    """
    deadline = time.perf_counter() + limit_s
    last = float(engine.time(1)[0])
    while True:
        repetitions = max(3, min(1000, int(WINDOW_S * 1e9 / max(last, 1.0))))
        median = float(np.median(engine.time(repetitions)))
        if abs(median - last) <= 0.02 * last:
            return True, median
        if time.perf_counter() > deadline:
            return False, median
        last = median


def measure_bandwidths(target: Target, threads: int) -> tuple[Bandwidth, ...]:
    """Measure the caches behind the first, nearest first, and main memory."""
    caches = [size for size in (target.l2_bytes, target.l3_bytes) if size]
    # Half of a cache, so that what else lies in it doesn't push the copies out.
    rates = [_copy_rate(size // (4 * threads), threads) for size in caches]
    # All copies together lie far beyond the caches, however many threads share them.
    far = max(COPY_BYTES, 4 * max(caches, default=0))
    rates.append(_copy_rate(-(-far // threads), threads))
    # To start many short copies can take longer than copying: nearer is never slower.
    rates = list(accumulate(reversed(rates), max))[::-1]
    sizes = [*caches, math.inf]
    return tuple(Bandwidth(size, rate) for size, rate in zip(sizes, rates, strict=True))


def _copy_rate(size: int, threads: int) -> float:
    """Bytes a second that ``threads`` read and write, each copying ``size``; best of five."""
    source = [np.ones(size, dtype=np.uint8) for _ in range(threads)]
    copy = [np.empty_like(array) for array in source]
    repetitions = max(1, COPY_BYTES // size)

    def work(target: NDArray[np.uint8], data: NDArray[np.uint8]) -> None:
        for _ in range(repetitions):
            np.copyto(target, data)

    durations_s = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(work, copy, source))
            durations_s.append(time.perf_counter() - started)
    return 2.0 * threads * size * repetitions / min(durations_s)


def latency(samples_ms: Sequence[float] | NDArray[np.float64]) -> Latency:
    """Summarize calls; a percentile is a call that happened (nearest rank)."""
    ordered = sorted(float(sample) for sample in samples_ms)
    return Latency(
        min=ordered[0],
        mean=statistics.fmean(ordered),
        p50=_percentile(ordered, 50),
        p90=_percentile(ordered, 90),
        p99=_percentile(ordered, 99),
        n=len(ordered),
    )


def _reasons_of_samples(count: int, stable: bool) -> list[str]:
    reasons = []
    if count < LEAST_SAMPLES:
        reasons.append(f"{count} samples: a p99 needs {LEAST_SAMPLES}")
    if not stable:
        reasons.append(f"times still drifted after {WARM_UP_LIMIT_S:.0f} s of warm-up")
    return reasons


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _sample_count(typical_ns: float) -> int:
    return max(LEAST_SAMPLES, min(MOST_SAMPLES, int(MEASURE_S * 1e9 / max(typical_ns, 1.0))))


def _layers(
    engine: Opened, inputs: Mapping[str, NDArray[Any]], typical_ns: float
) -> tuple[LayerTime, ...]:
    runs = max(3, min(STEP_RUNS, int(1e9 / max(typical_ns, 1.0))))
    steps_ns = np.median([engine.run_timed(inputs)[1] for _ in range(runs)], axis=0)
    total = float(steps_ns.sum()) or 1.0
    return tuple(
        LayerTime(name=name, op=op, ms=float(ns) / 1e6, share=float(ns) / total)
        for (name, op), ns in zip(engine.steps(0), steps_ns, strict=True)
    )


class _PeakMemory:
    """Resident memory that this process gains at its peak, from now on."""

    def __init__(self) -> None:
        self._start: int | None = None
        try:
            # "5" sets VmHWM back to VmRSS: proc(5).
            Path("/proc/self/clear_refs").write_text("5")
            self._start = _status_bytes("VmHWM")
        except OSError:
            pass

    def peak_bytes(self) -> int | None:
        peak = _status_bytes("VmHWM")
        if self._start is None or peak is None:
            return None
        return max(0, peak - self._start)


def _status_bytes(key: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None

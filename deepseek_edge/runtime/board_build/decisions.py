"""What to do with what is there: pure functions, no file, clock or GPU."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any, Mapping, Sequence

# Both are estimates that no board has confirmed: TensorRT's libraries with a CUDA context, and
# copies of the weights while building (the file, the network, packed forms, the engine).
BASE_BYTES = 900 << 20
COPIES_OF_GRAPH = 4
# Builds that were killed (mostly for want of memory) are tried again only so often.
MOST_DEATHS = 3
# INT8 costs accuracy, so it has to be faster by more than the noise of two medians.
LEAST_GAIN = 0.02

_KEY_FIELDS = ("gpu", "sm", "tensorrt", "system", "graphs", "recipe")


@dataclass(frozen=True)
class BuildKey:
    """What an engine holds for.

    Attributes:
        gpu: its name, and the module's where the GPU's says too little: "Orin (NVIDIA Jetson Orin
            Nano Developer Kit)".
        sm: compute capability, e.g. "8.7".
        tensorrt: version, e.g. "TensorRT 10.3.0".
        system: e.g. "L4T 36.4.3" (JetPack 6), or the driver's version where there is no L4T.
        graphs: SHA-256 over the graphs' digests.
        recipe: SHA-256 of recipe.json.
    """

    gpu: str
    sm: str
    tensorrt: str
    system: str
    graphs: str
    recipe: str

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def combine_digests(digests: Mapping[str, str]) -> str:
    """One digest for the graphs' digests by precision."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What may be done with an engine that is there.

    Attributes:
        use: "reuse": it is the one; "serve": it gives right answers until a new one is built;
            "refuse": it must not be loaded.
        reason: why it isn't the one; "" if it is.
    """

    use: str
    reason: str


def judge_record(record: Mapping[str, Any] | None, key: BuildKey) -> Verdict:
    """Compare an engine's record with what this board needs now."""
    if record is None:
        return Verdict("refuse", "no engine was built here yet")
    made = record.get("key")
    if not _is_whole(record) or not isinstance(made, dict) or set(made) != set(_KEY_FIELDS):
        return Verdict("refuse", "the engine's record is damaged")
    wanted = asdict(key)
    differ = [field for field in _KEY_FIELDS if made[field] != wanted[field]]
    if not differ:
        return Verdict("reuse", "")
    reason = "; ".join(f"{field} was {made[field]}, is {wanted[field]}" for field in differ)
    # Another GPU or TensorRT can't run it, another graph makes it another model.
    is_foreign = {"gpu", "sm", "tensorrt", "graphs"} & set(differ)
    return Verdict("refuse" if is_foreign else "serve", reason)


def check_home(record: Mapping[str, Any], gpu: str, sm: str, tensorrt: str) -> str | None:
    """Why TensorRT must not be given the record's engine here; None if it may."""
    made = record.get("key")
    if not _is_whole(record) or not isinstance(made, dict):
        return "the engine's record is damaged"
    here = {"gpu": gpu, "sm": sm, "tensorrt": tensorrt}
    differ = [f"{field} {made.get(field)}" for field in here if made.get(field) != here[field]]
    return f"the engine is for {', '.join(differ)}" if differ else None


def _is_whole(record: Mapping[str, Any]) -> bool:
    """The record names an engine, its digest and its precision."""
    engine = record.get("engine")
    named = [engine.get("file"), engine.get("sha256")] if isinstance(engine, dict) else [None]
    return all(isinstance(value, str) for value in [*named, record.get("precision")])


@dataclass(frozen=True)
class MemoryPlan:
    """Whether a build fits into memory.

    Attributes:
        fits: it may be tried.
        reason: what is short and what to do; or that swap will be used; "" if there is enough.
    """

    fits: bool
    reason: str


def memory_need(graph_bytes: int, workspace_bytes: int) -> int:
    """Bytes that a build takes at its peak, as far as that is known beforehand."""
    return BASE_BYTES + COPIES_OF_GRAPH * graph_bytes + workspace_bytes


def plan_memory(
    available_bytes: int, swap_free_bytes: int, graph_bytes: int, workspace_bytes: int
) -> MemoryPlan:
    """Compare the need of a build with what is free.

    The GPU of a Jetson takes its memory from the same RAM, and it can't be swapped out: the
    workspace and the engine have to fit without swap.
    """
    need = memory_need(graph_bytes, workspace_bytes)
    if available_bytes >= need:
        return MemoryPlan(True, "")
    fixed = workspace_bytes + 2 * graph_bytes
    if available_bytes >= fixed and available_bytes + swap_free_bytes >= need:
        return MemoryPlan(True, f"{_mb(need - available_bytes)} of swap will be used: it is slow")
    short = f"the build needs about {_mb(need)}, {_mb(available_bytes)} are free"
    if available_bytes < fixed:
        return MemoryPlan(False, f"{short}; end other programs: the GPU's part can't be swapped")
    gigabytes = -(-(need - available_bytes - swap_free_bytes) // (1 << 30))
    return MemoryPlan(
        False,
        f"{short}, {_mb(swap_free_bytes)} of swap too; end other programs or add swap: "
        f"sudo fallocate -l {gigabytes}G /swapfile && sudo chmod 600 /swapfile && "
        "sudo mkswap /swapfile && sudo swapon /swapfile",
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


@dataclass(frozen=True)
class Trial:
    """One precision that was tried.

    Attributes:
        failure: why there is no engine to use, None if there is one.
        median_ms: of its runs, None if it was not measured.
        max_abs: largest difference from the golden outputs over its tolerance: at most 1.
    """

    precision: str
    failure: str | None
    size_bytes: int | None = None
    median_ms: float | None = None
    max_abs: float | None = None


@dataclass(frozen=True)
class Choice:
    """The precision that serves, None if none can, and why."""

    precision: str | None
    reason: str


def choose(trials: Sequence[Trial]) -> Choice:
    """The fastest engine that gives right answers; INT8 only if it is clearly faster."""
    usable = [trial for trial in trials if trial.failure is None]
    lost = "; ".join(f"{t.precision}: {t.failure}" for t in trials if t.failure is not None)
    if not usable:
        return Choice(None, lost or "there is nothing to build")
    timed = [trial for trial in usable if trial.median_ms is not None]
    if len(timed) < 2:
        only = (timed or usable)[0]
        return Choice(only.precision, f"the only one that can serve ({lost})" if lost else "")
    best = min(timed, key=_handicapped)
    others = ", ".join(f"{t.precision} {t.median_ms:.3f} ms" for t in timed if t is not best)
    fastest = min(timed, key=lambda trial: trial.median_ms or 0.0)
    reason = f"{best.precision} {best.median_ms:.3f} ms, {others} (medians, measured in turns)"
    if fastest is not best:
        reason += f"; {fastest.precision} gains less than {LEAST_GAIN:.0%}"
    return Choice(best.precision, f"{reason}; {lost}" if lost else reason)


def _handicapped(trial: Trial) -> float:
    median = trial.median_ms or 0.0
    return median / (1 - LEAST_GAIN) if trial.precision == "int8" else median


def median_ms(durations_ns: Sequence[int]) -> float:
    """Median in milliseconds."""
    return statistics.median(durations_ns) / 1e6


def may_try(attempt: Mapping[str, Any] | None, key: BuildKey) -> str | None:
    """Why this key isn't built again, None if it may be.

    Args:
        attempt: note that former builds left: "key", "deaths" (builds that never ended) and
            "failure" (why TensorRT can't build it at all, or None).
        key: to build for.
    """
    if attempt is None or attempt.get("key") != key.digest:
        return None
    failure, deaths = attempt.get("failure"), attempt.get("deaths")
    if isinstance(failure, str):
        return f"it failed before: {failure}"
    if isinstance(deaths, int) and deaths >= MOST_DEATHS:
        return f"{deaths} builds were killed, probably for want of memory"
    return None


def count_deaths(attempt: Mapping[str, Any] | None, key: BuildKey) -> int:
    """How many builds for this key never ended."""
    if attempt is None or attempt.get("key") != key.digest:
        return 0
    deaths = attempt.get("deaths")
    return deaths if isinstance(deaths, int) else 0


def next_program(fallback: Sequence[str]) -> str | None:
    """The program that takes over without an engine."""
    return fallback[0] if fallback else None

"""One row of ``benchmarks.cpu``: a model, a precision, a number of threads, all sides."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interleaved import fastest_ms, median_ms, round_ratios, take_turns
from benchmarks.peers import OURS, PeerError, Source
from benchmarks.peers.process import PeerProcess

if TYPE_CHECKING:
    from benchmarks.peers import Array
    from deepseek_edge.profiling.conditions import Conditions

Row = dict[str, Any]

# Signal over noise below which a side computes something else than the graph says. float32 leaves
# 90 to 135 dB, and 56 where a model amplifies rounding; bfloat16 20 to 40. In int8, a step that
# falls the other way here and there leaves more than 30, sums that saturate less than 20.
INEXACT_DB = {"float32": 50.0, "int8": 30.0}
# A float model that is translated wrongly is no competitor; an int8 one may be this bad.
WRONG_DB = {"float32": 10.0, "int8": -100.0}
EQUAL_DB = 999.0  # JSON has no infinity
LEAST_PEERS = 2
LOG = Path("build/cpu/peers.log")


@dataclass(frozen=True)
class Checked:
    """A model with one input and what the graph says about it.

    Attributes:
        inputs: by name, in the graph's order.
        outputs: of onnxruntime without optimizations.
    """

    source: Source
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def check(source: Source) -> Checked:
    """Run a graph exactly as it is written."""
    import onnx

    from deepseek_edge.parity import Reference, graph_inputs, sample_inputs

    model = onnx.load(source.graph)
    inputs = sample_inputs(model, graph_inputs(model), 0)
    return Checked(source, inputs, Reference(model).run(inputs))


def signal_to_noise_db(expected: Mapping[str, Array], actual: Sequence[Array]) -> float:
    """How far outputs are from the exact ones, pooled over all; at most ``EQUAL_DB``.

    Args:
        expected: by name, in the graph's order.
        actual: in that order; a side may drop axes of length 1.

    Raises:
        PeerError: their number or a size is wrong, or a value is not finite.
    """
    import numpy as np

    from deepseek_edge.distance import compare_float

    sizes = [value.size for value in expected.values()]
    if [value.size for value in actual] != sizes:
        raise PeerError(f"outputs of {[v.shape for v in actual]} where {sizes} values belong")
    if not all(np.isfinite(value).all() for value in actual):
        raise PeerError("an output holds NaN or infinity")
    shaped = {
        name: value.reshape(expected[name].shape)
        for name, value in zip(expected, actual, strict=True)
    }
    return round(min(compare_float([expected], [shaped]).sqnr_db, EQUAL_DB), 1)


def measure_cell(
    checked: Checked,
    files: Mapping[str, Path | str],
    precision: str,
    threads: int,
    pythons: Mapping[str, str],
) -> Row:
    """Load every side, check what it computes, and let those that are right take turns.

    Args:
        checked: the model.
        files: of each side what it loads, or the reason why there is nothing; ours among them.
        precision: of ``PRECISIONS``.
        threads: of every side.
        pythons: interpreters of the sides that have an environment of their own.

    Returns:
        A row without its model.
    """
    sqnr_db: dict[str, float | None] = dict.fromkeys(files)
    reasons: dict[str, str] = {}
    sides: dict[str, PeerProcess] = {}
    with ExitStack() as stack:
        for name, file in files.items():
            try:
                if isinstance(file, str):
                    raise PeerError(file)
                side = stack.enter_context(PeerProcess(name, LOG, pythons.get(name)))
                side.load(file, checked.source, threads)
                sqnr_db[name] = _judge(side, checked, precision)
                sides[name] = side
            except PeerError as error:
                reasons[name] = str(error)
        timed = _time(sides, reasons)
    peers_ms = {name: timed["ms"].get(name) for name in files if name != OURS}
    low = INEXACT_DB[precision]
    return {
        "precision": precision,
        "threads": threads,
        "ours_ms": timed["ms"].get(OURS),
        "peers_ms": peers_ms,
        "fastest_ms": timed["fastest_ms"],
        "sqnr_db": sqnr_db,
        **_ratio(timed["rounds"], timed["ms"]),
        "inexact": [name for name, db in sqnr_db.items() if db is not None and db < low],
        "reasons": reasons,
        "doubts": timed["doubts"] + _too_few(peers_ms),
    }


def _judge(side: PeerProcess, checked: Checked, precision: str) -> float:
    """How near a side's outputs are to the exact ones, in dB; it is warm afterwards."""
    found = signal_to_noise_db(checked.outputs, side.run(checked.inputs))
    if found < WRONG_DB[precision]:
        raise PeerError(f"it computes something else ({found} dB)")
    side.time(1)
    return found


def _time(sides: Mapping[str, PeerProcess], reasons: dict[str, str]) -> dict[str, Any]:
    from deepseek_edge.profiling.conditions import reasons_to_doubt

    before, began = _conditions(sides), time.perf_counter()
    try:
        turns = take_turns([side.time for side in sides.values()]) if sides else []
    except PeerError as error:  # it ran twice before; nothing of this cell can be trusted
        reasons["cell"] = str(error)
        turns = []
    rounds = dict(zip(sides, turns, strict=False))
    return {
        "rounds": rounds,
        "ms": {name: median_ms(one) for name, one in rounds.items()},
        "fastest_ms": {name: fastest_ms(one) for name, one in rounds.items()},
        "doubts": reasons_to_doubt(before, _conditions(sides), time.perf_counter() - began),
    }


def _conditions(sides: Mapping[str, PeerProcess]) -> Conditions:
    from deepseek_edge.profiling.conditions import read_conditions

    found = read_conditions()
    return replace(found, own_s=found.own_s + sum(side.processor_s() for side in sides.values()))


def _ratio(rounds: Mapping[str, Any], ms: Mapping[str, float]) -> Row:
    """Ours over the best peer: of the medians, and the range over the rounds."""
    peers = {name: value for name, value in ms.items() if name != OURS}
    if OURS not in ms or not peers:
        return {"ratio": None, "best_peer": None, "ratio_min": None, "ratio_max": None}
    best = min(peers, key=lambda name: peers[name])
    ratios = round_ratios(rounds[OURS], rounds[best])
    return {
        "ratio": round(ms[OURS] / peers[best], 3),
        "best_peer": best,
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def _too_few(peers_ms: Mapping[str, float | None]) -> list[str]:
    count = sum(value is not None for value in peers_ms.values())
    return [f"only {count} peers ran it"] if count < LEAST_PEERS else []


def failed_row(precision: str, threads: int, reasons: Mapping[str, str]) -> Row:
    """A row of nothing but reasons."""
    return {
        "precision": precision,
        "threads": threads,
        "ours_ms": None,
        "peers_ms": dict.fromkeys(name for name in reasons if name != OURS),
        "fastest_ms": {},
        "sqnr_db": dict.fromkeys(reasons),
        **_ratio({}, {}),
        "inexact": [],
        "reasons": dict(reasons),
        "doubts": [],
    }

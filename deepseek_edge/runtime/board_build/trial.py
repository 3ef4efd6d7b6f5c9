"""Tries engines: against the golden tensors, and against each other on the clock."""

from __future__ import annotations

import math
import struct
from typing import Any, Mapping, Sequence

from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.runtime.board_build.build_recipe import BuildRecipe, GoldenFile, GraphFile
from deepseek_edge.tensors import TensorSpec

WARM_UP = 10
TURNS = 5
# struct's letters: little-endian, as golden files are.
_LETTERS = {
    "float32": "f",
    "float16": "e",
    "int8": "b",
    "uint8": "B",
    "int32": "i",
    "int64": "q",
    "bool": "?",
}


def compare_outputs(
    outputs: Mapping[str, bytes], golden: Sequence[GoldenFile]
) -> tuple[float, str]:
    """The largest difference of all outputs over their tolerances, and where it is.

    Returns:
        At most 1 if the engine is right, infinite if an output is missing, of another size, or not
        a number; and a text for a report.

    Raises:
        BundleError: a golden file is damaged.
    """
    worst, where = 0.0, ""
    for one in golden:
        expected, found = one.file.read(), outputs.get(one.spec.name)
        if found is None or len(found) != len(expected):
            return math.inf, f"output {one.spec.name!r} is missing or of another size"
        difference = largest_difference(found, expected, one.spec)
        share = _over(difference, one.tolerance)
        if share > worst:
            worst = share
            where = f"output {one.spec.name!r} is off by {difference:.4g} ({one.tolerance:.4g} may)"
    return worst, where


def largest_difference(found: bytes, expected: bytes, spec: TensorSpec) -> float:
    """Largest |found - expected| of elements; infinite where only one of two is a finite number."""
    if found == expected:
        return 0.0
    form = f"<{spec.elements}{_LETTERS[spec.dtype]}"
    if struct.calcsize(form) != len(expected):
        return math.inf
    pairs = zip(struct.unpack(form, found), struct.unpack(form, expected))
    return max((_distance(a, b) for a, b in pairs), default=0.0)


def _distance(found: float, expected: float) -> float:
    if found == expected:
        return 0.0
    distance = abs(float(found) - float(expected))
    return distance if math.isfinite(distance) else math.inf


def _over(difference: float, tolerance: float) -> float:
    if difference == 0:
        return 0.0
    return difference / tolerance if tolerance > 0 else math.inf


def check_engine(runner: Any, recipe: BuildRecipe, graph: GraphFile) -> float:
    """Run an engine on the golden inputs.

    Returns:
        Its largest difference over the tolerance, at most 1.

    Raises:
        DeepSeekEdgeError: it differs by more, or did not run.
        BundleError: a golden file is damaged.
    """
    outputs = runner.run({one.spec.name: one.file.read() for one in recipe.inputs})
    worst, where = compare_outputs(outputs, graph.outputs)
    if worst > 1:
        raise DeepSeekEdgeError(f"its outputs are wrong: {where}")
    return worst


def time_in_turns(runners: Mapping[str, Any], repetitions: int) -> dict[str, list[int]]:
    """Nanoseconds of each run of each engine; turns make what the board does meanwhile hit all."""
    durations: dict[str, list[int]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.time(WARM_UP)
    turn = max(1, -(-repetitions // TURNS))
    while len(min(durations.values(), key=len)) < repetitions:
        for name, runner in runners.items():
            durations[name] += runner.time(turn)
    return durations

"""Which layers are worth computing in INT8: the rules of ``--precision auto``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deepseek_edge.artifacts import KeptFloat, Layers, Step
from deepseek_edge.profiling.roofline import find_roof, least_s
from deepseek_edge.report import Bandwidth, Roof
from deepseek_edge.target import Target

Basis = Literal["measured", "modelled"]

# A model needs proportions only. Where a target doesn't say them, these are within a factor of a
# few of every board with such a core.
_ASSUMED_CLOCK_HZ, _ASSUMED_BYTES_S = 2_000_000_000, 8_000_000_000


@dataclass(frozen=True)
class LayerCost:
    """What a layer takes in each precision, with what is computed behind it up to the next one.

    Attributes:
        boundary_s: seconds to convert its input, where the layer before has the other precision.
        reason: why it can't be INT8, if it can't.
    """

    name: str
    float_s: float
    int8_s: float
    boundary_s: float
    reason: str | None = None


def layer_seconds(
    layers: Sequence[str], steps: Sequence[str], seconds: Sequence[float]
) -> dict[str, float]:
    """Add up a program's steps by layer.

    A step that is no layer belongs to the layer whose step ran last; those before the first
    layer's belong to it. A layer without a step of its own was fused into another's: 0.

    Args:
        layers: names of all layers.
        steps: names of the program's steps, in order.
        seconds: of each step.
    """
    totals = dict.fromkeys(layers, 0.0)
    current = next((name for name in steps if name in totals), None)
    for name, spent in zip(steps, seconds, strict=True):
        current = name if name in totals else current
        if current is not None:
            totals[current] += spent
    return totals


def choose_float(costs: Sequence[LayerCost], basis: Basis) -> dict[str, str]:
    """The layers to keep in float, with the reason: the cheapest way through all of them.

    The way has two lanes, float and INT8, and changing from one to the other costs what the
    conversion does. Exactly as fast is no gain.

    Args:
        costs: in the order in which layers run.
        basis: where the times are from.
    """
    # Of each lane: the seconds so far, and what was chosen on the way (True: INT8).
    best: dict[bool, tuple[float, tuple[bool, ...]]] = {False: (0.0, ()), True: (0.0, ())}
    for cost in costs:
        new = {}
        for is_int8, own_s in ((False, cost.float_s), (True, cost.int8_s)):
            if is_int8 and cost.reason is not None:
                continue
            came = min(
                (spent + (0.0 if lane == is_int8 else cost.boundary_s), way)
                for lane, (spent, way) in best.items()
            )
            new[is_int8] = (came[0] + own_s, (*came[1], is_int8))
        best = new
    chosen = min(best.values())[1] if costs else ()
    return {
        cost.name: cost.reason or _reason(cost, basis, "converting its input costs more")
        for cost, is_int8 in zip(costs, chosen, strict=True)
        if not is_int8
    }


def _reason(cost: LayerCost, basis: Basis, why: str) -> str:
    """The two times, and ``why`` if they alone don't tell."""
    source = "" if basis == "measured" else " (modelled)"
    times = f"int8 {cost.int8_s * 1e3:.3f} ms, float {cost.float_s * 1e3:.3f} ms{source}"
    return times if cost.float_s <= cost.int8_s else f"{times}: {why}"


def all_float(costs: Sequence[LayerCost], basis: Basis) -> dict[str, str]:
    """A reason for each layer of a program that is faster in float as a whole."""
    why = "the program as a whole is faster in float"
    return {cost.name: cost.reason or _reason(cost, basis, why) for cost in costs}


def explain(layers: Layers, reasons: Mapping[str, str]) -> Layers:
    """A program's layers, with the reasons that were decided here for those in float."""
    if not layers.int8:
        kept = tuple(KeptFloat(name, reason) for name, reason in reasons.items())
        return replace(layers, int8_macs_share=0.0, kept_float=kept)
    kept = tuple(
        KeptFloat(one.name, reasons.get(one.name, one.reason)) for one in layers.kept_float
    )
    return replace(layers, kept_float=kept)


def model_roof(target: Target, measured: Sequence[Bandwidth] = ()) -> Roof:
    """What a target can do at most, with assumptions in the place of what isn't known of it.

    Args:
        target: all of its cores count.
        measured: bandwidths, if it is this machine.
    """
    known = replace(
        target,
        clock_hz=target.clock_hz or _ASSUMED_CLOCK_HZ,
        memory_bandwidth_bytes_s=target.memory_bandwidth_bytes_s or _ASSUMED_BYTES_S,
    )
    roof = find_roof(known, target.cores, measured=measured)
    assert roof is not None, "clock and bandwidth are given"
    return roof


def conversion_s(roof: Roof, elements: int) -> float:
    """Seconds to turn a float32 tensor into int8, or back, in a step of its own."""
    return least_s(roof, Step("", "QuantizeLinear", 0, 4 * elements, elements, 1, elements))

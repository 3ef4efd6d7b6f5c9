"""The ladder: in which order a model is quantized anew while too much accuracy is lost.

Cheap ways come first: other ranges, channels scaled or not, a few layers in float, training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deepseek_edge.artifacts import Rung
from deepseek_edge.quantization import QuantConfig
from deepseek_edge.quantization.observers import Observer

# Minimum and maximum follow every outlier. A percentile cuts rare ones off, however large, least
# squared error those whose clipping costs less than finer steps gain.
OBSERVERS: tuple[Observer, ...] = ("minmax", "mse", "percentile")
# Where a rung is measured that isn't compiled: its integer form, which artifacts are equal to.
ON_THE_GRAPH = "onnxruntime"
# Shares of the multiply-accumulates that may stay float.
BUDGETS = (0.02, 0.05, 0.1, 0.25)


@dataclass(frozen=True)
class Way:
    """One way to quantize a model.

    Attributes:
        config: of post-training quantization, whose scheme is the target's.
        is_trained: quantization-aware training follows.
        budget: share of the multiply-accumulates that becomes float after the training.
    """

    config: QuantConfig
    is_trained: bool = False
    budget: float = 0.0

    @property
    def name(self) -> str:
        """What is done, in a few words."""
        config = self.config
        words: list[str] = [config.observer]
        words += [] if config.equalization else ["not equalized"]
        words += [] if config.rounding == "gptq" else [f"rounded to {config.rounding}"]
        words += [_in_float(config.float_budget)] if config.float_budget else []
        words += ["trained"] if self.is_trained else []
        words += [_in_float(self.budget)] if self.budget else []
        return ", ".join(words)


def _in_float(budget: float) -> str:
    return f"up to {budget:.0%} in float"


def next_way(tried: Sequence[tuple[Way, float]], *, can_train: bool) -> Way | None:
    """What to try next, or None at the end of the ladder.

    Args:
        tried: ways, and how much each of them loses; the first one is what was asked for.
        can_train: there are data to train with.
    """
    known = {way for way, _ in tried}
    return next((way for way in _ways(tried, can_train) if way not in known), None)


def _ways(tried: Sequence[tuple[Way, float]], can_train: bool) -> Iterator[Way]:
    first = tried[0][0]
    if not first.is_trained:
        yield from (Way(replace(first.config, observer=one)) for one in OBSERVERS)
        best = _best(tried)
        yield Way(replace(best, equalization=not best.equalization))
        best, least = _best(tried), first.config.float_budget
        yield from (Way(replace(best, float_budget=one)) for one in BUDGETS if one > least)
    if can_train:
        trained = first if first.is_trained else Way(_best(tried), is_trained=True)
        yield trained
        yield from (replace(trained, budget=one) for one in BUDGETS)


def _best(tried: Sequence[tuple[Way, float]]) -> QuantConfig:
    """Of the ways that differ from the first one in more than what is float or trained."""
    least = tried[0][0].config.float_budget
    alike = [
        (drop_pp, number)
        for number, (way, drop_pp) in enumerate(tried)
        if not way.is_trained and way.config.float_budget == least
    ]
    return tried[min(alike)[1]][0].config


def describe_rung(rung: Rung) -> str:
    """One line about what was tried and what it cost."""
    accuracy, where = rung.accuracy, rung.measured_on
    work = "" if rung.int8_macs_share is None else f", {rung.int8_macs_share:.1%} of the work int8"
    return (
        f"{rung.name}: {accuracy.metric} {accuracy.compiled:.2f} %, {accuracy.drop_pp:+.2f} pp "
        f"lost (+/- {accuracy.ci_pp:.2f}, {accuracy.samples} samples of {rung.dataset}, "
        f"{where}){work}"
    )


def tabulate(ladder: Sequence[Rung]) -> tuple[str, ...]:
    """What was tried, as lines of a table with a head."""
    rows = [("tried", "lost", "+/-", "int8", "measured on")]
    for rung in ladder:
        share = "" if rung.int8_macs_share is None else f"{rung.int8_macs_share:.1%}"
        accuracy = rung.accuracy
        where = f"{rung.measured_on}, {rung.dataset}"
        rows.append((rung.name, f"{accuracy.drop_pp:.2f}", f"{accuracy.ci_pp:.2f}", share, where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return tuple(
        "  ".join(
            cell.rjust(width) if 0 < column < 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

"""Observers: from the values that a tensor took to the range that its integers cover.

All ranges are of float values. "minmax" and "moving-average" need one pass over the data, the
others a histogram, which is filled in a second pass when the range is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from deepseek_edge.quantization.affine import (
    ACTIVATION_MAX,
    ACTIVATION_MIN,
    affine_from_range,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Observer = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]
OBSERVERS: tuple[str, ...] = get_args(Observer)

BINS = 4096
# Of the weight of older samples in a moving average, as in Jacob et al., Quantization and Training
# of Neural Networks for Efficient Integer-Arithmetic-Only Inference (CVPR 2018), section 3.1.
MOMENTUM = 0.9
PERCENTILE = 99.99
# Shares of the full range that a search tries for each of its ends.
_SHARES = 25
_LEAST_SHARE = 0.4


@dataclass(frozen=True)
class Seen:
    """What is known of a tensor after the first pass.

    Attributes:
        lows, highs: smallest and largest value of each sample.
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]

    @property
    def low(self) -> float:
        """The smallest value of all."""
        return min(self.lows)

    @property
    def high(self) -> float:
        """The largest value of all."""
        return max(self.highs)


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins.

    Attributes:
        low, high: the outer edges, ``low < high``.
        counts: (bins,) float64.
    """

    low: float
    high: float
    counts: Array

    @property
    def centers(self) -> Array:
        """(bins,) float64: the middle of each bin."""
        import numpy as np

        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        middles: Array = (edges[:-1] + edges[1:]) / 2
        return middles


def needs_histogram(observer: Observer) -> bool:
    """True if the observer looks at more than smallest and largest values."""
    return observer in ("percentile", "entropy", "mse")


def moving_average(seen: Seen) -> tuple[float, float]:
    """Exponential moving average of the samples' ranges, in their order."""
    low, high = seen.lows[0], seen.highs[0]
    for next_low, next_high in zip(seen.lows[1:], seen.highs[1:], strict=True):
        low = MOMENTUM * low + (1 - MOMENTUM) * next_low
        high = MOMENTUM * high + (1 - MOMENTUM) * next_high
    return low, high


def percentile(histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The range that all but 0.01 % of the values lie in, half of these at each end.

    With ``symmetric`` it is the same distance from 0 at both ends.
    """
    import numpy as np

    outside = 1 - PERCENTILE / 100
    if symmetric:
        order = np.argsort(np.abs(histogram.centers))
        inside = np.cumsum(histogram.counts[order]) / histogram.counts.sum()
        farthest = abs(histogram.centers[order][np.searchsorted(inside, 1 - outside)])
        return max(-farthest, histogram.low), min(farthest, histogram.high)
    inside = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.low, histogram.high, len(inside) + 1)
    low = edges[np.searchsorted(inside, outside / 2)] if histogram.low < 0 else histogram.low
    high = edges[1 + np.searchsorted(inside, 1 - outside / 2)]
    return float(low), float(min(high, histogram.high))


def least_squares(histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The range whose quantization has the smallest mean squared error on the data."""
    return _search(histogram, _squared_error, symmetric=symmetric)


def least_divergence(histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The range whose quantized values' distribution is nearest in Kullback-Leibler divergence.

    S. Migacz, 8-bit Inference with TensorRT (GPU Technology Conference 2017). Counts are averaged
    over the width of a step first: small tensors leave a few values a bin, and what differs
    between bins by chance would count as information that only a smaller range keeps.
    """
    import numpy as np

    width = len(histogram.counts) // (ACTIVATION_MAX - ACTIVATION_MIN + 1)
    padded = np.pad(histogram.counts, (width // 2, width - width // 2 - 1), mode="symmetric")
    smooth = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    even = Histogram(histogram.low, histogram.high, smooth)
    return _search(even, _divergence, symmetric=symmetric)


def _search(
    histogram: Histogram, cost: Callable[[Histogram, float, float, bool], float], *, symmetric: bool
) -> tuple[float, float]:
    import numpy as np

    shares = np.linspace(1.0, _LEAST_SHARE, _SHARES)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetric:
        largest = max(-low, high)
        candidates = [(max(low, -largest * s), min(high, largest * s)) for s in shares]
    else:
        candidates = [
            (low * s, high * t)
            for s in (shares if low < 0 else [1.0])
            for t in (shares if high > 0 else [1.0])
        ]
    # min keeps the first of equals, which is the widest.
    return min(candidates, key=lambda ends: cost(histogram, ends[0], ends[1], symmetric))


def _integers(histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[Array, Any]:
    """Each bin's integer, unclipped, and the scale and zero point."""
    import numpy as np

    affine = affine_from_range(low, high, symmetric=symmetric)
    return np.rint(histogram.centers / affine.scale) + affine.zero_point, affine


def _squared_error(histogram: Histogram, low: float, high: float, symmetric: bool) -> float:
    import numpy as np

    steps, affine = _integers(histogram, low, high, symmetric)
    kept = np.clip(steps, ACTIVATION_MIN, ACTIVATION_MAX)
    error = histogram.centers - (kept - affine.zero_point) * affine.scale
    return float((histogram.counts * error * error).sum())


def _divergence(histogram: Histogram, low: float, high: float, symmetric: bool) -> float:
    import numpy as np

    steps, _ = _integers(histogram, low, high, symmetric)
    levels = np.clip(steps, ACTIVATION_MIN, ACTIVATION_MAX).astype(np.int64) - ACTIVATION_MIN
    inside = (steps >= ACTIVATION_MIN) & (steps <= ACTIVATION_MAX)
    # The reference keeps what is clipped, at the last level; the quantized distribution spreads
    # what lies inside over the bins of a level that hold anything.
    used = inside & (histogram.counts > 0)
    total = np.bincount(levels[inside], histogram.counts[inside], 256)
    bins = np.bincount(levels[used], minlength=256)
    spread = np.where(used, (total / np.maximum(bins, 1))[levels], 0.0)
    reference = np.where(inside, histogram.counts, 0.0)
    for end in (ACTIVATION_MIN, ACTIVATION_MAX):
        clipped = histogram.counts[(steps < end) if end < 0 else (steps > end)].sum()
        edge = np.flatnonzero(inside)[0 if end < 0 else -1]
        reference[edge] += clipped
    p, q = reference / reference.sum(), spread / max(spread.sum(), 1e-30)
    shown = p > 0
    return float((p[shown] * np.log(p[shown] / np.maximum(q[shown], 1e-12))).sum())


def observed_range(
    observer: Observer, seen: Seen, histogram: Histogram | None, *, symmetric: bool
) -> tuple[float, float]:
    """The range that an observer chooses.

    Args:
        observer: which.
        seen: of the first pass.
        histogram: of the second pass, for observers that need one.
        symmetric: zero point 0.

    Returns:
        (low, high), ``low <= high``.
    """
    if observer == "minmax" or seen.low == seen.high:
        return seen.low, seen.high
    if observer == "moving-average":
        return moving_average(seen)
    assert histogram is not None
    if observer == "percentile":
        return percentile(histogram, symmetric=symmetric)
    search = least_divergence if observer == "entropy" else least_squares
    return search(histogram, symmetric=symmetric)

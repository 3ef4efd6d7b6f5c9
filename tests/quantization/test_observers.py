import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.quantization.observers import (
    Histogram,
    Observer,
    Seen,
    least_divergence,
    least_squares,
    moving_average,
    observed_range,
    percentile,
)
from tests.quantization.graphs import Array


def histogram(values: Array) -> Histogram:
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, 4096, (low, high))
    return Histogram(low, high, counts.astype(np.float64))


def test_the_smallest_and_largest_values_are_the_range() -> None:
    seen = Seen((-1.0, -3.0), (2.0, 1.0))
    assert observed_range("minmax", seen, None, symmetric=False) == (-3.0, 2.0)


def test_a_moving_average_forgets_slowly() -> None:
    seen = Seen((-1.0, -2.0, -2.0), (1.0, 1.0, 11.0))
    low, high = moving_average(seen)
    assert low == pytest.approx(-1.19)
    assert high == pytest.approx(2.0)


def test_a_percentile_leaves_out_a_ten_thousandth() -> None:
    counts = np.ones(4096)
    low, high = percentile(Histogram(-1.0, 1.0, counts), symmetric=False)
    assert -1.0 <= low <= -0.999 and 0.999 <= high <= 1.0
    counts[-1] = 1e-9  # next to nothing lies in the last bin
    counts[2048:4095] = 0
    assert percentile(Histogram(0.0, 8.0, counts), symmetric=False)[1] < 4.1


def test_least_squares_cuts_a_lonely_outlier_off() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    low, high = least_squares(histogram(np.append(values, 12.0)), symmetric=False)
    assert low >= values.min() - 0.01
    # 100,000 ((4.4 + h) / 255)^2 / 12 + (12 - h)^2 is least near h = 10.5.
    assert 9.5 < high < 11.5


def test_least_squares_keeps_a_uniform_range_whole() -> None:
    low, high = least_squares(Histogram(-2.0, 1.0, np.ones(4096)), symmetric=False)
    assert (low, high) == (-2.0, 1.0)


def test_least_divergence_stays_inside_what_was_seen() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    low, high = least_divergence(histogram(values), symmetric=True)
    assert values.min() <= low < 0 < high <= values.max()


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "entropy", "mse"])
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_every_range_lies_in_what_was_seen(
    observer: Observer, seed: int, positive: bool, symmetric: bool
) -> None:
    values = np.random.default_rng(seed).standard_normal(500)
    values = np.abs(values) if positive else values
    seen = Seen((float(values.min()),), (float(values.max()),))
    low, high = observed_range(observer, seen, histogram(values), symmetric=symmetric)
    assert min(seen.low, 0) <= low <= high <= max(seen.high, 0)

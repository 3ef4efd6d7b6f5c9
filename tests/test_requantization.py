"""Numbers typed by hand: what follows an int32 sum."""

import numpy as np
import pytest

from deepseek_edge.requantization import in_steps, requantization


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_bias_is_rounded_to_steps_of_the_sum_half_to_even() -> None:
    # Steps of 0.5 * 0.25 = 0.125: 0.3 is 2.4 of them, 0.3125 is 2.5, -0.4375 is -3.5.
    rest = requantization(
        0.5, row(0.25, 0.25, 0.25), row(0.3, 0.3125, -0.4375), products=9, y_scale=None
    )
    assert rest.bias is not None and rest.bias.tolist() == [2, 2, -4]
    assert rest.factor.tolist() == [0.125] * 3
    assert rest.offset is None


def test_one_factor_leads_to_the_steps_of_the_result() -> None:
    rest = requantization(0.5, row(0.25, 0.5), None, products=9, y_scale=0.0625)
    assert rest.bias is None
    assert rest.factor.tolist() == [2.0, 4.0]
    assert rest.factor.dtype == np.float32


def test_a_large_bias_is_a_number_that_float32_holds() -> None:
    rest = requantization(1.0, row(2.0**-26), row(1.0 + 2.0**-23), products=9, y_scale=None)
    assert rest.bias is not None
    assert rest.bias.tolist() == [2**26 + 8]
    assert np.float32(rest.bias[0]) == rest.bias[0]


@pytest.mark.parametrize("scale", [1e-12, 1e-45, 0.0])
def test_a_bias_that_int32_sums_cannot_hold_stays_float(scale: float) -> None:
    rest = requantization(1.0, row(scale, 0.5), row(3.0, 1.0), products=9, y_scale=0.25)
    assert rest.bias is None
    assert rest.offset is not None and rest.offset.tolist() == [12.0, 4.0]


def test_the_bias_leaves_room_for_the_longest_sum() -> None:
    room = 2**31 - 66_311 * 255 * 127
    fits, bursts = (
        requantization(1.0, row(1.0), row(bias), products=66_311, y_scale=None)
        for bias in (float(room - 1), float(room))
    )
    assert fits.offset is None
    assert bursts.bias is None


def test_bounds_count_in_steps() -> None:
    assert in_steps(6.0, 0.5) == 12.0
    assert in_steps(float("inf"), 0.5) == float("inf")

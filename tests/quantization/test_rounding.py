import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_edge.quantization.rounding import (
    best_scales,
    largest_scales,
    output_error,
    round_compensated,
    round_nearest,
)


def test_a_second_weight_makes_up_for_the_first() -> None:
    # Both inputs are nearly the same, so that only the sum of the weights counts: 0.8.
    weights, scales = np.array([[[0.4, 0.4]]]), np.ones((1, 1), np.float32)
    hessian = np.array([[[1.0, 0.99], [0.99, 1.0]]])
    assert round_nearest(weights, scales).tolist() == [[[0, 0]]]
    assert sorted(round_compensated(weights, scales, hessian)[0, 0].tolist()) == [0, 1]


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weights = np.array([[[0.4, 1.6, -2.2]], [[200.0, -200.0, 0.0]]])
    hessian = np.broadcast_to(np.eye(3), (2, 3, 3))
    found = round_compensated(weights, np.ones((2, 1), np.float32), hessian)
    assert found.tolist() == [[[0, 2, -2]], [[127, -127, 0]]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 80))
def test_compensation_is_never_worse_than_nearest(
    seed: int, groups: int, rows: int, k: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal((groups, 2 * k, k)) @ random.standard_normal((k, k))
    hessian = x.transpose(0, 2, 1) @ x / (2 * k) + 0.1 * np.eye(k)
    weights = random.standard_normal((groups, rows, k))
    scales = largest_scales(weights) * 8
    nearest = output_error(weights, scales, round_nearest(weights, scales), hessian)
    steps = round_compensated(weights, scales, hessian)
    assert (np.abs(steps.astype(int)) <= 127).all()
    found = output_error(weights, scales, steps, hessian)
    assert (found <= nearest * (1 + 1e-9) + 1e-12).all()


def test_compensation_is_near_the_best_of_all_integers() -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((40, 4)) @ random.standard_normal((4, 4))
    hessian = (x.T @ x / 40 + 0.01 * np.eye(4))[None]
    weights, scales = random.standard_normal((1, 1, 4)) * 2, np.ones((1, 1), np.float32)
    base = np.floor(weights)
    costs = [
        float(output_error(weights, scales, base + np.array(offsets), hessian)[0, 0])
        for offsets in itertools.product(range(-1, 3), repeat=4)
    ]
    steps = round_compensated(weights, scales, hessian)
    assert output_error(weights, scales, steps, hessian)[0, 0] <= 1.5 * min(costs)


def test_the_best_scale_cuts_off_a_weight_that_does_not_matter() -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((1, 1, 100))
    weights[0, 0, 0] = 40.0
    importance = np.ones((1, 100))
    whole = largest_scales(weights)
    assert best_scales(weights, importance) == pytest.approx(whole)
    importance[0, 0] = 0.0
    assert best_scales(weights, importance)[0, 0] == pytest.approx(whole[0, 0] / 2)


def test_weights_of_zero_have_a_positive_scale() -> None:
    weights = np.zeros((1, 2, 3))
    scales = best_scales(weights, np.ones((1, 3)))
    assert (scales > 0).all()
    assert not round_compensated(weights, scales, np.eye(3)[None]).any()

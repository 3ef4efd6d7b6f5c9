"""Accuracy over the whole range of float32, against numpy in float64."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.backends.tvm.oracle import Array, Cases, computed

pytestmark = pytest.mark.tvm


def sweep(low: float, high: float, count: int = 40_000) -> Array:
    """Numbers from the whole interval: even in value, and even in exponent."""
    random = np.random.default_rng(0)
    largest = max(abs(low), abs(high))
    exponents = largest * 2.0 ** -random.uniform(0, 140, count) * random.choice([-1, 1], count)
    values = np.concatenate([random.uniform(low, high, count), exponents, [low, high]])
    clipped: Array = np.clip(values, low, high).astype(np.float32)
    return clipped


def answer(op: str, x: Array) -> Array:
    cases = Cases(opset=20)
    name = cases.add(op, x)
    return computed(cases.model(), cases.feeds)[name].astype(np.float64)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def erf(x: Array) -> Array:
    from math import erf as scalar

    return np.array([scalar(value) for value in x.tolist()])


TINY = 1.2e-38  # the least normal number: below, digits are lost

# operator -> (reference, interval, greatest relative error, greatest absolute error): one of the
# two bounds holds at each point. One unit in the last place is 0.6e-7 to 1.2e-7.
ACCURACY: dict[str, tuple[Callable[[Array], Array], tuple[float, float], float, float]] = {
    "Exp": (np.exp, (-87.2, 88.7), 1.2e-7, TINY),
    "Log": (np.log, (1e-45, 3.4e38), 2e-7, TINY),
    "Sigmoid": (sigmoid, (-87.0, 87.0), 2e-7, TINY),
    "Tanh": (np.tanh, (-20.0, 20.0), 6e-7, TINY),
    "Erf": (erf, (-6.0, 6.0), 6e-7, TINY),
    "Sin": (np.sin, (-1e6, 1e6), 2e-7, TINY),
    "Cos": (np.cos, (-1e6, 1e6), 2e-7, TINY),
}


@pytest.mark.parametrize("op", ACCURACY)
def test_errors_stay_within_bounds(op: str) -> None:
    function, interval, relative, absolute = ACCURACY[op]
    x = sweep(*interval)
    exact = function(x.astype(np.float64))
    error = np.abs(answer(op, x) - exact)
    worst = int(np.argmax(error - np.maximum(relative * np.abs(exact), absolute)))
    assert error[worst] <= max(relative * abs(exact[worst]), absolute), (x[worst], exact[worst])


NAN, INF = float("nan"), float("inf")
SPECIAL = np.array([NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38, 1e-40, -1e-40], np.float32)
EXPECTED = {
    "Exp": [NAN, INF, 0, 1, 1, INF, 0, 1, 1],
    "Log": [NAN, INF, NAN, -INF, -INF, np.log(3e38), NAN, np.log(1e-40), NAN],
    "Sigmoid": [NAN, 1, 0, 0.5, 0.5, 1, 0, 0.5, 0.5],
    "Tanh": [NAN, 1, -1, 0, 0, 1, -1, 1e-40, -1e-40],
    "Erf": [NAN, 1, -1, 0, 0, 1, -1, 0, 0],
    "Relu": [NAN, INF, 0, 0, 0, 3e38, 0, 1e-40, 0],
    "Abs": [NAN, INF, INF, 0, 0, 3e38, 3e38, 1e-40, 1e-40],
    "Sqrt": [NAN, INF, NAN, 0, 0, np.sqrt(3e38), NAN, 1e-20, NAN],
    "Reciprocal": [NAN, 0, 0, INF, -INF, 1 / 3e38, -1 / 3e38, INF, -INF],
    "Softplus": [NAN, INF, 0, np.log(2), np.log(2), 3e38, 0, np.log(2), np.log(2)],
    "Sign": [NAN, 1, -1, 0, 0, 1, -1, 1, -1],
    "HardSigmoid": [NAN, 1, 0, 0.5, 0.5, 1, 0, 0.5, 0.5],
    "Neg": [NAN, -INF, INF, 0, 0, -3e38, 3e38, -1e-40, 1e-40],
}


def test_special_values() -> None:
    cases = Cases(opset=20)
    names = {op: cases.add(op, SPECIAL) for op in EXPECTED}
    answers = computed(cases.model(), cases.feeds)
    wrong = {
        op: answers[name].tolist()
        for op, name in names.items()
        if not np.allclose(answers[name], EXPECTED[op], rtol=1e-5, atol=5e-7, equal_nan=True)
    }
    assert wrong == {}


def test_the_negative_of_zero_is_negative_zero() -> None:
    cases = Cases()
    cases.add("Reciprocal", cases.inner("Neg", np.array([0.0, -0.0], np.float32)))
    (answers,) = computed(cases.model(), cases.feeds).values()
    assert answers.tolist() == [-INF, INF]


def test_max_min_and_clip_are_nan_if_an_operand_is() -> None:
    cases = Cases()
    a = np.array([NAN, 1, NAN, 1], np.float32)
    b = np.array([1, NAN, NAN, 2], np.float32)
    for op in ("Max", "Min"):
        cases.add(op, a, b)
    bounds = [np.array(0, np.float32), np.array(6, np.float32)]
    cases.add("Clip", a, *bounds)
    answers = list(computed(cases.model(), cases.feeds).values())
    assert [np.isnan(y).tolist() for y in answers] == [
        [True, True, True, False],
        [True, True, True, False],
        [True, False, True, False],
    ]


def test_general_powers_of_special_numbers() -> None:
    x = np.array([-2, -2, -2, 0, 0, 0, NAN, 1, 2, -0.5, 10], np.float32)
    y = np.array([3, -2, 0.5, 2, 0, -1, 0, NAN, 200, 3, 30], np.float32)
    cases = Cases()
    cases.add("Pow", x, y)
    (answers,) = computed(cases.model(), cases.feeds).values()
    expected = [-8, 0.25, NAN, 0, 1, INF, 1, 1, INF, -0.125, 1e30]
    assert np.allclose(answers, expected, rtol=1e-5, equal_nan=True), answers.tolist()


def test_integers_never_trap() -> None:
    least = np.iinfo(np.int32).min
    a, b = np.array([5, -5, least, 7], np.int32), np.array([0, 0, -1, -1], np.int32)
    cases = Cases()
    cases.add("Div", a, b)
    cases.add("Mod", a, b)
    answers = list(computed(cases.model(), cases.feeds).values())
    assert answers[0].tolist()[2:] == [least, -7]
    assert answers[1].tolist()[2:] == [0, 0]

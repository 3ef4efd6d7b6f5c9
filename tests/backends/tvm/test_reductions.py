from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from tests.backends.tvm.oracle import Array, Cases, Const, assert_equals_reference, computed
from tests.backends.tvm.strategies import FEW, Draw, drawers

pytestmark = pytest.mark.tvm

COMPOUND = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]
ALL_AXES = [list(axes) for n in (1, 2, 3, 4) for axes in combinations(range(4), n)]


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_over_every_combination_of_axes(keepdims: int) -> None:
    cases = Cases(opset=13)
    for axes in ALL_AXES:
        cases.add("ReduceMean", floats(2, 3, 4, 19), axes=axes, keepdims=keepdims)
    assert_equals_reference(cases)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_every_reduction_in_every_version(opset: int) -> None:
    cases = Cases(opset=opset)
    simple = ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"]
    for number, op in enumerate([*simple, *COMPOUND]):
        axes = ALL_AXES[number]
        x = np.abs(floats(2, 3, 4, 5)) + np.float32(0.1)
        as_input = opset >= 18 or (op == "ReduceSum" and opset >= 13)
        if as_input:
            cases.add(op, x, Const(np.array(axes) - 4))
        else:
            cases.add(op, x, axes=axes)
        cases.add(op, x, keepdims=number % 2)
    assert_equals_reference(cases)


def test_reductions_over_no_axes_still_compute_their_elements() -> None:
    cases = Cases(opset=18)
    for op in ("ReduceSum", "ReduceL2", "ReduceSumSquare", "ReduceL1"):
        cases.add(op, floats(2, 3), noop_with_empty_axes=1)
    cases.add("ReduceSum", np.array(3, np.float32))
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_reductions_of_integers_are_exact(dtype: str) -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (3, 5, 7)).astype(dtype)
    cases = Cases(opset=13)
    for axes in ([1], [2], [0, 2]):
        cases.add("ReduceMax", x, axes=axes)
        cases.add("ReduceMin", x, axes=axes, keepdims=0)
        cases.add("ReduceSum", x, Const(np.array(axes)))
    cases.add("ReduceMean", x.astype("int32"), axes=[1])
    assert_equals_reference(cases)


def test_long_sums_are_exact_enough() -> None:
    cases = Cases()
    cases.add("ReduceSum", floats(1, 100_003), Const(np.array([1])))
    cases.add("ReduceSum", floats(100_003, 1), Const(np.array([0])))
    cases.add("ReduceMean", floats(1, 1, 1001, 103), axes=[2, 3])
    model = cases.model()
    # float64, since onnxruntime's own sum is off by 1e-8 of the sum of magnitudes here.
    for found, x in zip(computed(model, cases.feeds).values(), cases.feeds.values(), strict=True):
        values = x.astype(np.float64)
        size, count = np.abs(values).sum(), values.size if found.ndim == 4 else 1
        assert abs(found.item() * count - values.sum()) <= 5e-9 * size


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_over_every_axis(opset: int) -> None:
    cases = Cases(opset=opset)
    for op in ("Softmax", "LogSoftmax"):
        for axis in (-1, 0, 1, 2):
            cases.add(op, floats(3, 4, 19) * 3, axis=axis)
        cases.add(op, floats(2, 1000) * 30)
        cases.add(op, floats(3, 1))
    assert_equals_reference(cases)


def test_softmax_ignores_what_is_masked_and_has_no_answer_if_all_is() -> None:
    x = floats(4, 9)
    x[0, 3:], x[1, :], x[2, 4] = -np.inf, -np.inf, np.nan
    cases = Cases()
    cases.add("Softmax", x)
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_layer_normalizations(d: Draw) -> None:
    cases = Cases()
    for axis in (-1, 1, 0):
        x = d.floats(d.between(1, 4), d.between(2, 9), d.between(1, 40))
        shape = x.shape[axis:]
        cases.add(
            "LayerNormalization", x, Const(d.floats(*shape)), Const(d.floats(*shape)), axis=axis
        )
    x = d.floats(3, 5, 33)
    cases.add("LayerNormalization", x, Const(d.floats(33)), axis=1)
    cases.add("LayerNormalization", x, d.floats(33), d.floats(33), epsilon=0.1)
    y = cases.inner("LayerNormalization", x, Const(d.floats(1)), axis=1)
    cases.add("Relu", y)
    assert_equals_reference(cases)


def test_places_of_the_greatest_and_the_least() -> None:
    cases = Cases()
    x = np.random.default_rng(0).integers(-3, 3, (3, 4, 5)).astype(np.float32)  # many are equal
    for op in ("ArgMax", "ArgMin"):
        for axis in (0, 1, 2, -1):
            cases.add(op, x, axis=axis, keepdims=axis % 2)
            cases.add(op, x, axis=axis, select_last_index=1)
        cases.add(op, x.astype(np.int32))
    assert_equals_reference(cases)


def test_cumulative_sums() -> None:
    cases = Cases()
    for axis in (0, 1, -1):
        for exclusive in (0, 1):
            cases.add(
                "CumSum",
                floats(3, 4, 5),
                Const(np.array(axis)),
                exclusive=exclusive,
                reverse=axis % 2,
            )
    assert_equals_reference(cases)

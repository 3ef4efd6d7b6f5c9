from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.backends.tvm.oracle import Array, Cases, Const, Input, assert_equals_reference
from tests.backends.tvm.strategies import FEW, Draw, drawers

pytestmark = pytest.mark.tvm

DTYPES = ["float32", "int64", "int8", "bool"]


def filled(dtype: str, *shape: int) -> Array:
    random = np.random.default_rng(0)
    return (random.integers(0, 2 if dtype == "bool" else 50, shape)).astype(dtype)


def indices(*values: Any) -> Const:
    return Const(np.array(values, np.int64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_permutation_of_four_axes(dtype: str) -> None:
    cases = Cases()
    for perm in permutations(range(4)):
        cases.add("Transpose", filled(dtype, 2, 3, 4, 5), perm=list(perm))
    cases.add("Transpose", filled(dtype, 2, 3, 4))
    cases.add("Transpose", filled(dtype, 2, 3, 1, 3, 2, 2), perm=[5, 3, 1, 0, 2, 4])
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joining_and_cutting(dtype: str) -> None:
    cases = Cases()
    for axis in (0, 1, 2, -1):
        parts = [filled(dtype, *(n if a == axis % 3 else 3 for a in range(3))) for n in (1, 4, 2)]
        cases.add("Concat", parts[0], Const(parts[1]), parts[2], axis=axis)
        cases.add("Split", filled(dtype, 6, 6, 6), indices(1, 3, 2), count=3, axis=axis)
    cases.add("Concat", filled(dtype, 2, 3), axis=1)
    cases.add("Split", filled(dtype, 6, 5), count=3, axis=0)
    assert_equals_reference(cases)


def test_thirty_inputs_are_joined() -> None:
    cases = Cases()
    cases.add("Concat", *(filled("float32", 3, i % 3 + 1) for i in range(30)), axis=1)
    assert_equals_reference(cases)


def test_versions_of_split_slice_and_pad() -> None:
    x = filled("float32", 6, 5)
    versions: list[tuple[int, str, dict[str, Any]]] = [
        (11, "Split", {"axis": -1, "split": [2, 3], "count": 2}),
        (18, "Split", {"axis": 1, "num_outputs": 3, "count": 3}),
        (9, "Slice", {"starts": [1], "ends": [-1], "axes": [1]}),
        (2, "Pad", {"pads": [1, 0, 2, 1], "value": 2.0}),
    ]
    for opset, op, attrs in versions:
        cases = Cases(opset=opset)
        cases.add(op, x, **attrs)
        assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_slices_with_any_bounds(d: Draw) -> None:
    cases = Cases()
    for dtype in ("float32", "int64", "bool"):
        for _ in range(4):
            shape = [d.between(1, 9) for _ in range(3)]
            axes = [a for a in range(3) if d.between(0, 1)] or [2]
            bounds = [_bounds(d, shape[axis]) for axis in axes]
            starts, ends, steps = (list(column) for column in zip(*bounds, strict=True))
            places = [axis - 3 if d.between(0, 1) else axis for axis in axes]
            constants = [indices(*v) for v in (starts, ends, places, steps)]
            cases.add("Slice", filled(dtype, *shape), *constants)
    assert_equals_reference(cases)


def _bounds(d: Draw, size: int) -> tuple[int, int, int]:
    """Start, end and step that leave at least one element."""
    while True:
        start, end, step = d.between(-99, 99), d.between(-99, 99), d.one(1, 2, 3, -1, -2)
        if d.between(0, 1):
            start, end = d.between(-size, size), d.between(-size, size)
        if len(range(size)[start:end:step]):
            return start, end, step


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_borders_of_every_kind(mode: str) -> None:
    cases = Cases(opset=19)
    x = filled("float32", 3, 4, 5)
    for amounts in ((1, 0, 2, 0, 1, 1), (0, 0, 0, 0, 3, 2), (2, 1, 4, 2, 3, 4)):
        cases.add("Pad", x, indices(*amounts), mode=mode)
    cases.add("Pad", filled("int64", 3, 4), indices(2, 1, 1, 2), mode=mode)
    cases.add("Pad", x, indices(2, 1), None, indices(-2), mode=mode)
    if mode == "constant":
        cases.add("Pad", x, indices(-1, 0, 2, 0, -1, 1), Const(np.array(7, np.float32)))
        cases.add("Pad", x, indices(1, 2, 3, 0), None, indices(-1, 1))
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathering(dtype: str) -> None:
    cases = Cases()
    x = filled(dtype, 5, 6)
    cases.add("Gather", x, np.array([0, 4, -1, -5]))
    cases.add("Gather", x, np.array([[0, -1], [2, 3]], np.int32), axis=1)
    cases.add("Gather", x, Const(np.array(2)), axis=1)
    cases.add("Gather", Const(x), np.array([1, 3]), axis=-1)
    cases.add("Gather", filled(dtype, 7), np.array(3))
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeating_and_rearranging(dtype: str) -> None:
    cases = Cases()
    for shape, goal in (((3, 1), (2, 3, 4)), ((1,), (2, 3, 4)), ((3, 4), (3, 1)), ((), (3, 5))):
        cases.add("Expand", filled(dtype, *shape), indices(*goal))
    for repeats in ((2, 3), (1, 1), (3, 1)):
        cases.add("Tile", filled(dtype, 2, 3), indices(*repeats))
    if dtype == "float32":
        for mode in ("DCR", "CRD"):
            cases.add("DepthToSpace", filled(dtype, 2, 12, 3, 4), blocksize=2, mode=mode)
        cases.add("SpaceToDepth", filled(dtype, 2, 3, 4, 6), blocksize=2)
        cases.add("Trilu", filled(dtype, 4, 5))
        cases.add("Trilu", filled(dtype, 2, 4, 5), Const(np.array(1)), upper=0)
    assert_equals_reference(cases)


def test_half_precision_is_moved() -> None:
    cases = Cases()
    x = filled("float16", 4, 6)
    cases.add("Transpose", x)
    cases.add("Concat", x, Const(x), axis=1)
    cases.add("Slice", x, *(indices(v) for v in (-1, -9, 1, -2)))
    cases.add("Tile", x, indices(2, 3))
    cases.add("Where", x > 20, x, Const(np.array(0.5, np.float16)))
    cases.add("Reshape", x, indices(8, 3))
    assert_equals_reference(cases)


def test_views() -> None:
    cases = Cases()
    x = filled("float32", 2, 1, 6)
    for shape in ((3, 4), (0, -1), (-1,), (2, 2, 3, 1)):
        cases.add("Reshape", x, indices(*shape))
    for axis in (0, 1, 2, 3, -1):
        cases.add("Flatten", x, axis=axis)
    cases.add("Squeeze", x, indices(1))
    cases.add("Squeeze", x)
    cases.add("Unsqueeze", x, indices(0, -1))
    cases.add("Shape", x)
    cases.add("Size", x)
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_whatever_is_rearranged_among_convolutions_stays_right(d: Draw) -> None:
    cases = Cases()
    x = d.floats(1, 8, 6, 6)
    y: Input = cases.inner("Conv", x, Const(d.floats(8, 8, 3, 3)), pads=[1, 1, 1, 1])
    for _ in range(6):
        kind = d.one("transpose", "concat", "slice", "reshape", "conv", "softmax", "mean", "pad")
        if kind == "transpose":
            y = cases.inner("Transpose", y, perm=d.one([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]))
            y = cases.inner("Relu", y)
            y = cases.inner("Reshape", y, indices(1, 8, 6, 6))
        elif kind == "concat":
            y = cases.inner("Concat", y, cases.inner("Neg", y), axis=d.one(1, 2, 3))
            y = cases.inner("Reshape", y, indices(2, 8, 6, 6))
            y = cases.inner("ReduceMax", y, axes=[0])
        elif kind == "slice":
            axis = d.between(1, 3)
            size = 8 if axis == 1 else 6
            cut = d.between(1, size - 1)
            head = cases.inner("Slice", y, indices(0), indices(cut), indices(axis))
            tail = cases.inner("Slice", y, indices(cut), indices(99), indices(axis))
            y = cases.inner("Concat", tail, head, axis=axis)
        elif kind == "reshape":
            y = cases.inner("Reshape", y, indices(1, 8, 36))
            y = cases.inner("Transpose", y, perm=[0, 2, 1])
            y = cases.inner("Add", y, Const(d.floats(8)))
            y = cases.inner("Transpose", y, perm=[0, 2, 1])
            y = cases.inner("Reshape", y, indices(1, 8, 6, 6))
        elif kind == "conv":
            y = cases.inner("Conv", y, Const(d.floats(8, 8, 1, 1)))
        elif kind == "softmax":
            y = cases.inner("Softmax", y, axis=d.between(0, 3))
        elif kind == "mean":
            mean = cases.inner("ReduceMean", y, axes=d.one([1], [2, 3], [1, 3], [3]), keepdims=1)
            y = cases.inner("Sub", y, mean)
        else:
            y = cases.inner("Pad", y, indices(0, 0, 1, 1, 0, 0, 0, 0), mode="reflect")
            y = cases.inner("MaxPool", y, kernel_shape=[2, 2])
    cases.add("Identity", y)
    assert_equals_reference(cases)

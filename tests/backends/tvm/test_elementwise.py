from itertools import product

import numpy as np
import pytest
from hypothesis import given

from deepseek_edge.backends.tvm.operators import ELEMENTWISE
from tests.backends.tvm.oracle import Array, Cases, Const, assert_equals_reference
from tests.backends.tvm.strategies import FEW, Draw, drawers

pytestmark = pytest.mark.tvm

# fmt: off
UNARY = [
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu",
    "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
]
# fmt: on
BINARY = ["Add", "Div", "Max", "Min", "Mul", "Sub"]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 37), (3, 37)),
    ((3, 1, 37), (4, 1)),
    ((2, 3, 5, 7), (3, 1, 1)),
    ((2, 1, 5, 1), (1, 3, 1, 7)),
    ((), (4, 3)),
    ((), ()),
    ((1,), (1, 1)),
    ((5000,), (1,)),
]


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def integers(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(len(shape)).integers(-50, 50, shape).astype(dtype)


def test_every_unary_operator() -> None:
    cases = Cases(opset=20)
    for op in UNARY:
        cases.add(op, floats(3, 37) * 3)
    for op in ("Log", "Sqrt"):
        cases.add(op, np.abs(floats(3, 37)))
    assert_equals_reference(cases)


def test_attributes_of_unary_operators() -> None:
    cases = Cases(opset=20)
    x = floats(3, 37)
    for op in ("Celu", "Elu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu"):
        cases.add(op, x, alpha=0.3)
    cases.add("HardSigmoid", x, alpha=0.3, beta=0.1)
    cases.add("Selu", x, alpha=0.3, gamma=2.0)
    cases.add("Gelu", x, approximate="tanh")
    infinite = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    cases.add("IsInf", infinite, detect_positive=0)
    cases.add("IsInf", infinite, detect_negative=0)
    cases.add("IsNaN", infinite)
    cases.add("Round", np.arange(-3, 3.5, 0.5, dtype=np.float32))
    assert_equals_reference(cases)


@pytest.mark.parametrize("op", BINARY)
def test_binary_operators_broadcast(op: str) -> None:
    cases = Cases()
    for (left, right), constant in product(SHAPES, (False, True)):
        b = np.random.default_rng(1).standard_normal(right).astype(np.float32)
        cases.add(op, np.array(floats(*left)), Const(b) if constant else b)
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers(dtype: str) -> None:
    cases = Cases()
    a, b = integers(dtype, 3, 37), integers(dtype, 37)
    for op in ["Add", "Max", "Min", "Mul", "Sub", *COMPARISONS]:
        cases.add(op, a, b)
    for op in ("Abs", "Neg", "Sign"):
        cases.add(op, a)
    divisor = np.where(b == 0, 7, b).astype(dtype)
    cases.add("Div", a, divisor)
    cases.add("Div", a, Const(np.array(-7, dtype)))
    for fmod in (0, 1):
        cases.add("Mod", a, divisor, fmod=fmod)
    cases.add("Clip", a, Const(np.array(-5, dtype)), Const(np.array(5, dtype)))
    cases.add("Clip", a, None, Const(np.array(5, dtype)))
    cases.add("Where", a > b, a, b)
    for exponent in (0, 1, 2, 5):
        cases.add("Pow", a, Const(np.array(exponent, dtype)))
    assert_equals_reference(cases)


def test_comparisons_and_logic() -> None:
    cases = Cases()
    a, b = np.round(floats(3, 37)), np.round(floats(37))
    for op in COMPARISONS:
        cases.add(op, a, b)
    for op in ("And", "Or", "Xor", "Equal"):
        cases.add(op, a > 0, b > 0)
        cases.add(op, a > 0, Const(np.array(True)))
    cases.add("Not", a > 0)
    cases.add("Where", a > 0, a, Const(np.array(-1e9, np.float32)))
    cases.add("Where", Const(a > 0), a, b)
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_casts(d: Draw) -> None:
    cases = Cases()
    codes = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
    for source, (goal, code) in product(codes, codes.items()):
        # Only what fits: anything else is undefined in C and differs between CPUs.
        low = 0 if "uint8" in (source, goal) else -100
        x = (d.random.uniform(low, 100, (3, 17))).astype(source)
        cases.add("Cast", x, to=code)
    cases.add("Cast", np.array([0.5, -0.5, 0.0, -0.0, np.nan], np.float32), to=9)
    cases.add("CastLike", d.floats(3), Const(np.array([1], np.int32)))
    assert_equals_reference(cases)


def test_swish_of_the_newest_operator_set() -> None:
    cases = Cases(opset=24)
    cases.add("Swish", floats(3, 37) * 3)
    cases.add("Swish", floats(3, 37) * 3, alpha=0.5)
    assert_equals_reference(cases)


def test_half_precision_is_only_converted() -> None:
    cases = Cases()
    x = floats(3, 17).astype(np.float16)
    y = cases.inner("Cast", x, to=1)
    cases.add("Cast", cases.inner("Exp", y), to=10)
    assert_equals_reference(cases, tolerance=1e-3)


def test_clips_of_every_version() -> None:
    cases = Cases(opset=6)
    cases.add("Clip", floats(3, 37), min=-0.1, max=0.4)
    cases.add("Clip", floats(3, 37), min=0.0)
    cases.add("Clip", floats(3, 37))
    assert_equals_reference(cases)
    cases = Cases()
    low, high = np.array(-0.5, np.float32), np.array(0.5, np.float32)
    for bounds in ((Const(low), Const(high)), (None, Const(high)), (Const(low),), (), (low, high)):
        cases.add("Clip", floats(3, 37), *bounds)
    assert_equals_reference(cases)


def test_powers() -> None:
    cases = Cases()
    x = floats(3, 7)
    for exponent in (0, 0.5, 1, 2, 3, 9, 64, -1, -2, -3):
        cases.add("Pow", np.abs(x) if exponent == 0.5 else x, Const(np.array(exponent, "f")))
    cases.add("Pow", np.abs(x), floats(7) * 3)
    cases.add("Pow", x, np.round(floats(7) * 3))  # whole exponents of negative numbers
    cases.add("Pow", x, np.array([2, 3, 1, 0, 4, -1, 5]))
    cases.add("Pow", Const(np.array(2, np.float32)), x)
    cases.add("Pow", integers("int64", 3, 7), Const(np.array(2, np.float32)))
    assert_equals_reference(cases)


def test_any_number_of_inputs() -> None:
    cases = Cases()
    many = [np.random.default_rng(i).standard_normal((3, 5), np.float32) for i in range(30)]
    for op in ("Max", "Mean", "Min", "Sum"):
        for inputs in (many[:1], [many[0], many[1][:1], many[2][:, :1]], many):
            cases.add(op, *inputs)
    assert_equals_reference(cases)


def test_slopes_of_prelu_broadcast_from_the_right() -> None:
    cases = Cases()
    for slope in (floats(5, 1, 1), floats(1), floats(2, 5, 3, 3)):
        cases.add("PRelu", floats(2, 5, 3, 3), Const(slope))
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_chains_compute_what_their_operators_do(d: Draw) -> None:
    cases = Cases(opset=20)
    x = d.floats(d.between(1, 5), d.between(1, 40))
    values = [cases.inner("Identity", x)]
    for _ in range(40):
        if d.between(0, 1):
            values.append(cases.inner(d.one("Tanh", "Sigmoid", "Mish", "Neg", "Erf"), values[-1]))
        else:
            other = d.one(*values[-6:], d.floats(x.shape[1]), Const(d.floats(x.shape[0], 1)))
            values.append(cases.inner(d.one("Add", "Mul", "Max", "Sub"), values[-1], other))
            values.append(cases.inner("Softsign", values[-1]))
    cases.add("Identity", values[-1])
    cases.add("Neg", values[20])
    assert_equals_reference(cases)


def test_every_elementwise_operator_is_tested_somewhere_here() -> None:
    others = {"Cast", "Clip", "Log", "Mod", "PRelu", "Pow", "Sqrt", "Swish", "Where"}
    logic = {"And", "Not", "Or", "Xor"}
    elsewhere = {"Copy", "DequantizeLinear", "Expand", "QuantizeLinear"}
    assert set(ELEMENTWISE) == {*UNARY, *BINARY, *COMPARISONS, *others, *logic, *elsewhere}

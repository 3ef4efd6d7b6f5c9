"""Mathematical functions as vector expressions.

exp, log, sin, erf, tanh and sigmoid are polynomials over vectors: LLVM would otherwise call libm
once for each lane. Every function takes and returns float32 vectors of ``lanes`` lanes.

NaN stays NaN: ``tirx.max(a, b)`` is ``a > b ? a : b`` on every target, so that the operand that
may be NaN comes second.
"""

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.schedules.kernel import Expr, element_type, literal, once


def fconst(value: float, lanes: int) -> Expr:
    """A float32 constant vector."""
    return literal(float(np.float32(value)), "float32", lanes)


def converted(expr: Expr, lanes: int, dtype: str) -> Expr:
    """A vector cast to another dtype."""
    return tirx.Cast(f"{dtype}x{lanes}" if lanes > 1 else dtype, expr)


def zero_of(x: Expr, lanes: int) -> Expr:
    """A vector of zeros of the dtype of ``x``."""
    return literal(0, element_type(x), lanes)


def negated(x: Expr, lanes: int) -> Expr:
    """-x."""
    # -0.0 - x, not 0 - x: the negative of 0.0 is -0.0.
    return literal(-0.0 if element_type(x) == "float32" else 0, element_type(x), lanes) - x


def magnitude(x: Expr, lanes: int) -> Expr:
    """The absolute value."""
    return tirx.max(negated(x, lanes), x)


def extremes_by_instruction(x: Expr, lanes: int) -> Expr:
    """``tirx.max`` and ``tirx.min`` of float32 at the root of ``x`` as LLVM's maximum and minimum.

    ARM has both as an instruction each; NaN stays NaN. x86 has the comparison that TVM means.
    """
    if not isinstance(x, tirx.Max | tirx.Min) or element_type(x) != "float32":
        return x
    name = "llvm.maximum" if isinstance(x, tirx.Max) else "llvm.minimum"
    dtype = "float32" if lanes == 1 else f"float32x{lanes}"
    args = [extremes_by_instruction(arg, lanes) for arg in (x.a, x.b)]
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def is_nan(x: Expr, lanes: int) -> Expr:
    """True where a float32 is NaN; by its bits, since TVM takes x == x for true."""
    bits = tirx.reinterpret(f"int32x{lanes}" if lanes > 1 else "int32", x)
    size = tirx.bitwise_and(bits, literal(0x7FFFFFFF, "int32", lanes))
    return size > literal(0x7F800000, "int32", lanes)


def exp(x: Expr, lanes: int) -> Expr:
    """e**x: 2**n times a polynomial on [-ln2/2, ln2/2] (Cody-Waite reduction).

    The polynomial is e**r's own series, cut after r**7. Error below one unit in the last place;
    results below 2**-126 become 0, those above the float32 range infinity.
    """
    x = once(x)
    limit = once(tirx.min(fconst(88.8, lanes), tirx.max(fconst(-87.6, lanes), x)))
    n = once(tirx.floor(limit * fconst(1.4426950408889634, lanes) + fconst(0.5, lanes)))
    r = limit - n * fconst(0.693145751953125, lanes)
    r = once(r - n * fconst(1.428606765330187e-06, lanes))
    poly = fconst(1 / 5040, lanes)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        poly = poly * r + fconst(coefficient, lanes)
    # Two factors of 2**(n/2), since 2**n itself may not be a normal number.
    half = once(tirx.floor(n * fconst(0.5, lanes)))
    result = poly * _power_of_two(half, lanes) * _power_of_two(n - half, lanes)
    return tirx.Select(x < fconst(-87.3, lanes), fconst(0.0, lanes), result)


def _power_of_two(n: Expr, lanes: int) -> Expr:
    suffix = f"x{lanes}" if lanes > 1 else ""
    bits = tirx.Cast(f"int32{suffix}", n) + literal(127, "int32", lanes)
    return tirx.reinterpret(f"float32{suffix}", bits << literal(23, "int32", lanes))


def log(x: Expr, lanes: int) -> Expr:
    """Ln x: exponent times ln 2 plus 2 artanh((m-1)/(m+1)) of the mantissa m.

    Error below two units in the last place.

    The series 2(f + f^3/3 + f^5/5 + ...) has |f| < 0.1716, so its f^11 term is below 4e-10.
    """
    suffix = f"x{lanes}" if lanes > 1 else ""
    x = once(x)
    is_tiny = x < fconst(2.0**-126, lanes)  # denormal: made normal first
    normal = tirx.Select(is_tiny, x * fconst(2.0**23, lanes), x)
    bits = once(tirx.reinterpret(f"int32{suffix}", normal))
    # 0x3f3504f3 is sqrt(1/2): mantissas end up in [sqrt(1/2), sqrt(2)).
    shifted = bits - literal(0x3F3504F3, "int32", lanes)
    exponent = once(shifted >> literal(23, "int32", lanes))
    mantissa = once(
        tirx.reinterpret(f"float32{suffix}", bits - (exponent << literal(23, "int32", lanes)))
    )
    f = once((mantissa - fconst(1.0, lanes)) / (mantissa + fconst(1.0, lanes)))
    square = once(f * f)
    series = fconst(1 / 9, lanes)
    for denominator in (7, 5, 3, 1):
        series = series * square + fconst(1 / denominator, lanes)
    scale = tirx.Cast(f"float32{suffix}", exponent)
    scale = once(scale - tirx.Select(is_tiny, fconst(23.0, lanes), fconst(0.0, lanes)))
    # ln 2 in two parts: the product with the first is exact.
    result = scale * fconst(0.693145751953125, lanes) + (
        fconst(2.0, lanes) * f * series + scale * fconst(1.428606765330187e-06, lanes)
    )
    infinity = fconst(float("inf"), lanes)
    zero = tirx.Select(
        tirx.EQ(x, fconst(0.0, lanes)), fconst(float("-inf"), lanes), fconst(float("nan"), lanes)
    )
    positive = tirx.Select(x < infinity, result, x)
    return tirx.Select(x > fconst(0.0, lanes), positive, zero)


def sine(x: Expr, lanes: int, *, quarter_turns: int = 0) -> Expr:
    """Sin(x + quarter_turns * pi / 2), x reduced in float64.

    Error below 2e-7 for abs(x) <= 1e6; it grows in proportion beyond.
    """
    wide, whole = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("float64", "int64"))
    x = once(x)
    # Beyond, the turns don't fit into an integer; no digit of the result is right.
    bounded = tirx.max(literal(-1e15, "float64", lanes), tirx.Cast(wide, x))
    bounded = once(tirx.min(literal(1e15, "float64", lanes), bounded))
    turns = bounded * literal(2 / np.pi, "float64", lanes) + literal(0.5, "float64", lanes)
    turns = once(tirx.floor(turns))
    rest = bounded - turns * literal(1.57079632673412561417e0, "float64", lanes)
    rest = rest - turns * literal(6.07710050650619224932e-11, "float64", lanes)
    r = once(converted(rest, lanes, "float32"))
    square = once(r * r)
    sin = fconst(2.7557319e-6, lanes)
    for coefficient in (-1 / 5040, 1 / 120, -1 / 6):
        sin = sin * square + fconst(coefficient, lanes)
    cos = fconst(-1 / 3628800, lanes)
    for coefficient in (1 / 40320, -1 / 720, 1 / 24, -0.5, 1.0):
        cos = cos * square + fconst(coefficient, lanes)
    quadrant = once(tirx.Cast(whole, turns) + literal(quarter_turns, "int64", lanes))
    one, zero = literal(1, "int64", lanes), literal(0, "int64", lanes)
    is_odd = tirx.NE(tirx.bitwise_and(quadrant, one), zero)
    is_negative = tirx.NE(tirx.bitwise_and(quadrant, literal(2, "int64", lanes)), zero)
    value = once(tirx.Select(is_odd, cos, r + r * square * sin))
    # x - x is 0, but NaN if x is NaN or infinite.
    value = once(tirx.Select(tirx.EQ(x - x, fconst(0.0, lanes)), value, x - x))
    return tirx.Select(is_negative, fconst(0.0, lanes) - value, value)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e**-x)."""
    one = fconst(1.0, lanes)
    return one / (one + exp(fconst(0.0, lanes) - x, lanes))


def tanh(x: Expr, lanes: int) -> Expr:
    """1 - 2 / (e**2x + 1), and its Taylor series near 0, where that cancels."""
    one, two, x = fconst(1.0, lanes), fconst(2.0, lanes), once(x)
    far = one - two / (exp(two * x, lanes) + one)
    square = once(x * x)
    near = fconst(-17 / 315, lanes)
    for coefficient in (2 / 15, -1 / 3, 1.0):
        near = near * square + fconst(coefficient, lanes)
    return tirx.Select(square < fconst(0.04, lanes), x * near, far)


def erf(x: Expr, lanes: int) -> Expr:
    """The error function by formula 7.1.26 of Abramowitz and Stegun, and its series near 0.

    Absolute error below 5e-7, relative below 1e-6.
    """
    x = once(x)
    size = once(magnitude(x, lanes))
    t = once(fconst(1.0, lanes) / (fconst(1.0, lanes) + fconst(0.3275911, lanes) * size))
    poly = fconst(1.061405429, lanes)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = poly * t + fconst(coefficient, lanes)
    tail = poly * t * exp(fconst(0.0, lanes) - size * size, lanes)
    positive = once(fconst(1.0, lanes) - tail)
    far = tirx.Select(x < fconst(0.0, lanes), fconst(0.0, lanes) - positive, positive)
    square = once(x * x)
    near = fconst(-1 / 1320, lanes)
    for coefficient in (1 / 216, -1 / 42, 1 / 10, -1 / 3, 1.0):
        near = near * square + fconst(coefficient, lanes)
    near = x * (near * fconst(2 / np.pi**0.5, lanes))
    return tirx.Select(size < fconst(0.5, lanes), near, far)


def power(x: Expr, y: Expr, lanes: int) -> Expr:
    """E ** (y ln abs(x)), negative for an odd y of a negative x, NaN for a y between integers."""
    zero, one, half = (fconst(value, lanes) for value in (0.0, 1.0, 0.5))
    size = once(exp(y * log(magnitude(x, lanes), lanes), lanes))
    is_whole = tirx.EQ(tirx.floor(y), y)
    is_odd = tirx.NE(tirx.floor(y * half), y * half)
    signed = tirx.Select(is_odd, zero - size, size)
    negative = tirx.Select(is_whole, signed, fconst(float("nan"), lanes))
    value = tirx.Select(x < zero, negative, size)
    return tirx.Select(tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one)), one, value)

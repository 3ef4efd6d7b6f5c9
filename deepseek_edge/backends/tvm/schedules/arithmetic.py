"""Elementwise operators as vector expressions.

exp, log, erf, tanh and sigmoid are polynomials over vectors: LLVM would otherwise call libm
once for each lane. Every function takes and returns float32 vectors of ``lanes`` lanes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    element_type,
    literal,
    load,
    rounded,
    splat,
)
from deepseek_edge.errors import UnsupportedError

Arguments = Sequence[Expr]


def evaluate(node: Node, args: Arguments, lanes: int) -> Expr:
    """The vector that ``node`` computes from ``args``, all of ``lanes`` lanes.

    Raises:
        UnsupportedError: no rule for this operator, or not for this attribute.
    """
    rule = _RULES.get(node.op)
    if rule is None:
        raise UnsupportedError(
            f"operator {node.op} (node {node.source!r}) is not supported",
            hint="see docs/operators.md for those that are",
        )
    return rule(node, args, lanes)


def fconst(value: float, lanes: int) -> Expr:
    """A float32 constant vector."""
    return literal(float(np.float32(value)), "float32", lanes)


def exp(x: Expr, lanes: int) -> Expr:
    """e**x: 2**n times a polynomial on [-ln2/2, ln2/2] (Cody-Waite reduction).

    The coefficients are a degree-6 minimax fit of (e**r - 1 - r) / r**2; relative error below
    2e-7. Results below 2**-126 become 0, above the float32 range infinity.
    """
    limit = tirx.min(tirx.max(x, fconst(-87.6, lanes)), fconst(88.8, lanes))
    n = tirx.floor(limit * fconst(1.4426950408889634, lanes) + fconst(0.5, lanes))
    r = limit - n * fconst(0.693145751953125, lanes)
    r = r - n * fconst(1.428606765330187e-06, lanes)
    poly = fconst(1 / 5040, lanes)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        poly = poly * r + fconst(coefficient, lanes)
    # Two factors of 2**(n/2), since 2**n itself may not be a normal number.
    half = tirx.floor(n * fconst(0.5, lanes))
    result = poly * _power_of_two(half, lanes) * _power_of_two(n - half, lanes)
    return tirx.Select(x > fconst(-87.5, lanes), result, fconst(0.0, lanes))


def _power_of_two(n: Expr, lanes: int) -> Expr:
    suffix = f"x{lanes}" if lanes > 1 else ""
    bits = tirx.Cast(f"int32{suffix}", n) + literal(127, "int32", lanes)
    return tirx.reinterpret(f"float32{suffix}", bits << literal(23, "int32", lanes))


def log(x: Expr, lanes: int) -> Expr:
    """Ln x for normal x > 0: exponent times ln 2 plus 2 artanh((m-1)/(m+1)) of the mantissa.

    The series 2(f + f^3/3 + f^5/5 + ...) has |f| < 0.1716, so its f^11 term is below 4e-10.
    """
    suffix = f"x{lanes}" if lanes > 1 else ""
    bits = tirx.reinterpret(f"int32{suffix}", x)
    # 0x3f3504f3 is sqrt(1/2): mantissas end up in [sqrt(1/2), sqrt(2)).
    shifted = bits - literal(0x3F3504F3, "int32", lanes)
    exponent = shifted >> literal(23, "int32", lanes)
    mantissa = tirx.reinterpret(
        f"float32{suffix}", bits - (exponent << literal(23, "int32", lanes))
    )
    f = (mantissa - fconst(1.0, lanes)) / (mantissa + fconst(1.0, lanes))
    square = f * f
    series = fconst(1 / 9, lanes)
    for denominator in (7, 5, 3, 1):
        series = series * square + fconst(1 / denominator, lanes)
    natural = tirx.Cast(f"float32{suffix}", exponent) * fconst(0.6931471805599453, lanes)
    result = natural + fconst(2.0, lanes) * f * series
    zero = tirx.Select(
        x < fconst(0.0, lanes), fconst(float("nan"), lanes), fconst(float("-inf"), lanes)
    )
    return tirx.Select(x > fconst(0.0, lanes), result, zero)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e**-x)."""
    one = fconst(1.0, lanes)
    return one / (one + exp(fconst(0.0, lanes) - x, lanes))


def tanh(x: Expr, lanes: int) -> Expr:
    """1 - 2 / (e**2x + 1), and its Taylor series near 0, where that cancels."""
    one, two = fconst(1.0, lanes), fconst(2.0, lanes)
    far = one - two / (exp(two * x, lanes) + one)
    square = x * x
    near = fconst(-17 / 315, lanes)
    for coefficient in (2 / 15, -1 / 3, 1.0):
        near = near * square + fconst(coefficient, lanes)
    return tirx.Select(square < fconst(0.04, lanes), x * near, far)


def erf(x: Expr, lanes: int) -> Expr:
    """The error function by formula 7.1.26 of Abramowitz and Stegun; error below 1.5e-7."""
    magnitude = tirx.max(x, fconst(0.0, lanes) - x)
    t = fconst(1.0, lanes) / (fconst(1.0, lanes) + fconst(0.3275911, lanes) * magnitude)
    poly = fconst(1.061405429, lanes)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = poly * t + fconst(coefficient, lanes)
    tail = poly * t * exp(fconst(0.0, lanes) - magnitude * magnitude, lanes)
    positive = fconst(1.0, lanes) - tail
    return tirx.Select(x < fconst(0.0, lanes), fconst(0.0, lanes) - positive, positive)


def _number(expr: Expr, lanes: int, dtype: str) -> Expr:
    return tirx.Cast(f"{dtype}x{lanes}" if lanes > 1 else dtype, expr)


def _zero(x: Expr, lanes: int) -> Expr:
    return literal(0, element_type(x), lanes)


def _negate(x: Expr, lanes: int) -> Expr:
    return _zero(x, lanes) - x


def _clip(node: Node, args: Arguments, lanes: int) -> Expr:
    x, dtype = args[0], element_type(args[0])
    low, high = node.attrs.get("min"), node.attrs.get("max")  # before opset 11
    present = iter(args[1:])
    lower = next(present) if node.optional(1) is not None else low
    upper = next(present) if node.optional(2) is not None else high
    if lower is not None:
        x = tirx.max(x, literal(lower, dtype, lanes) if isinstance(lower, float) else lower)
    if upper is not None:
        x = tirx.min(x, literal(upper, dtype, lanes) if isinstance(upper, float) else upper)
    return x


def _cast(node: Node, args: Arguments, lanes: int) -> Expr:
    dtype, x = node.output.dtype, args[0]
    if dtype == "bool":
        return x if element_type(x) == "bool" else tirx.NE(x, _zero(x, lanes))
    return _number(x, lanes, dtype)


def _power(node: Node, args: Arguments, lanes: int) -> Expr:
    exponent = node.value(1).data
    x = args[0]
    if exponent is not None and exponent.size == 1:
        known = float(exponent.reshape(-1)[0])
        if known == 0.5:
            return tirx.sqrt(x)
        if known == int(known) and 0 < abs(known) <= 8:
            product = x
            for _ in range(int(abs(known)) - 1):
                product = product * x
            return product if known > 0 else fconst(1.0, lanes) / product
    if element_type(x) != "float32":
        raise UnsupportedError(f"Pow (node {node.source!r}) of integers with this exponent")
    return exp(args[1] * log(x, lanes), lanes)


def _elu(node: Node, args: Arguments, lanes: int) -> Expr:
    defaults = {"Selu": (1.67326319217681884765625, 1.05070102214813232421875)}
    alpha, gamma = defaults.get(node.op, (1.0, 1.0))
    alpha, gamma = node.attrs.get("alpha", alpha), node.attrs.get("gamma", gamma)
    x, inner = args[0], args[0]
    if node.op == "Celu":
        inner = x / fconst(alpha, lanes)
    low = fconst(alpha, lanes) * (exp(inner, lanes) - fconst(1.0, lanes))
    return fconst(gamma, lanes) * tirx.Select(x > fconst(0.0, lanes), x, low)


def _leaky(node: Node, args: Arguments, lanes: int) -> Expr:
    x = args[0]
    slope = args[1] if node.op == "PRelu" else fconst(node.attrs.get("alpha", 0.01), lanes)
    return tirx.Select(x < fconst(0.0, lanes), slope * x, x)


def _hard_sigmoid(x: Expr, alpha: float, beta: float, lanes: int) -> Expr:
    line = rounded(x * fconst(alpha, lanes), lanes) + fconst(beta, lanes)
    return tirx.min(tirx.max(line, fconst(0.0, lanes)), fconst(1.0, lanes))


def _softplus(x: Expr, lanes: int) -> Expr:
    magnitude = tirx.max(x, fconst(0.0, lanes) - x)
    small = exp(fconst(0.0, lanes) - magnitude, lanes)
    return tirx.max(x, fconst(0.0, lanes)) + log(fconst(1.0, lanes) + small, lanes)


def _gelu(node: Node, args: Arguments, lanes: int) -> Expr:
    x, half = args[0], fconst(0.5, lanes)
    if node.attrs.get("approximate", "none") == "tanh":
        cube = x + fconst(0.044715, lanes) * x * x * x
        inner = tanh(fconst(0.7978845608028654, lanes) * cube, lanes)
    else:
        inner = erf(x * fconst(0.7071067811865476, lanes), lanes)
    return half * x * (fconst(1.0, lanes) + inner)


def _sign(x: Expr, lanes: int) -> Expr:
    dtype = element_type(x)
    zero = literal(0, dtype, lanes)
    negative = tirx.Select(x < zero, literal(-1, dtype, lanes), zero)
    return tirx.Select(x > zero, literal(1, dtype, lanes), negative)


def _divide(args: Arguments) -> Expr:
    a, b = args
    return a / b if element_type(a) == "float32" else tirx.truncdiv(a, b)


def _fold(combine: Callable[[Expr, Expr], Expr]) -> "Rule":
    def rule(node: Node, args: Arguments, lanes: int) -> Expr:
        del node, lanes
        total = args[0]
        for arg in args[1:]:
            total = combine(total, arg)
        return total

    return rule


def _mean(node: Node, args: Arguments, lanes: int) -> Expr:
    total = _fold(lambda a, b: a + b)(node, args, lanes)
    return total * fconst(1 / len(args), lanes)


def _modulo(node: Node, args: Arguments, lanes: int) -> Expr:
    a, b = args
    if element_type(a) != "float32":
        operation = tirx.truncmod if node.attrs.get("fmod", 0) else tirx.floormod
        return operation(a, b)
    del lanes
    return a - b * tirx.trunc(a / b)


def _quantize(node: Node, args: Arguments, lanes: int) -> Expr:
    """Round half to even, add the zero point, saturate to int8's 256 values."""
    quantization = node.attrs["quantization"]
    # uint8 storage holds value + 128; its zero point has moved along.
    low = 0 if node.output.dtype == "uint8" else -128
    zero = quantization.zero_point
    scaled = args[0] * fconst(1.0 / np.float64(np.float32(quantization.scale)), lanes)
    bounded = tirx.min(tirx.max(scaled, fconst(low - zero, lanes)), fconst(low + 255 - zero, lanes))
    integer = round_to_integer(bounded, lanes)
    if zero:
        integer = integer + literal(zero, "int32", lanes)
    return _number(integer, lanes, node.output.dtype)


def round_to_integer(x: Expr, lanes: int) -> Expr:
    """The nearest int32, ties to even: one instruction on x86, where a rounding mode is set."""
    if lanes == 1:
        return _number(tirx.nearbyint(x), 1, "int32")
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", "llvm.lrint", x)


def dequantize(x: Expr, scale: float, zero_point: int, lanes: int) -> Expr:
    """(x - zero point) * scale in float32."""
    value = _number(x, lanes, "int32")
    if zero_point:
        value = value - literal(zero_point, "int32", lanes)
    value = _number(value, lanes, "float32")
    return value if scale == 1 else rounded(value * fconst(scale, lanes), lanes)


def load_float(node: Node, buffer: Buffer, at: Expr, lanes: int, *, scaled: bool = True) -> Expr:
    """Elements of an anchor's first input, dequantized if the anchor reads quantized ones.

    With ``scaled`` false they stay integers, and ``input_scale`` is to be applied later.
    """
    value = load(buffer, at, lanes)
    quantization = node.attrs.get("dequantize")
    if quantization is None:
        return value
    scale = quantization.scale if scaled else 1
    return dequantize(value, scale, quantization.zero_point, lanes)


def apply_input_scale(node: Node, value: Expr, lanes: int) -> Expr:
    """What ``load_float`` left out, on a sum or mean of what it loaded."""
    quantization = node.attrs.get("dequantize")
    return (
        value if quantization is None else rounded(value * fconst(quantization.scale, lanes), lanes)
    )


def _dequantize(node: Node, args: Arguments, lanes: int) -> Expr:
    quantization = node.attrs["quantization"]
    return dequantize(args[0], quantization.scale, quantization.zero_point, lanes)


def _thresholded(node: Node, args: Arguments, lanes: int) -> Expr:
    x = args[0]
    return tirx.Select(x > fconst(node.attrs.get("alpha", 1.0), lanes), x, _zero(x, lanes))


Rule = Callable[[Node, Arguments, int], Expr]


def _unary(function: Callable[[Expr, int], Expr]) -> Rule:
    return lambda node, args, lanes: function(args[0], lanes)


_RULES: dict[str, Rule] = {
    "Abs": _unary(lambda x, n: tirx.max(x, _negate(x, n))),
    "Add": _fold(lambda a, b: a + b),
    "And": _fold(tirx.And),
    "Cast": _cast,
    "Ceil": _unary(lambda x, n: tirx.ceil(x)),
    "Celu": _elu,
    "Clip": _clip,
    "Copy": _unary(lambda x, n: x),
    "DequantizeLinear": _dequantize,
    "Div": lambda node, args, n: _divide(args),
    "Elu": _elu,
    "Equal": lambda node, args, n: tirx.EQ(args[0], args[1]),
    "Erf": _unary(erf),
    "Exp": _unary(exp),
    "Expand": _unary(lambda x, n: x),
    "Floor": _unary(lambda x, n: tirx.floor(x)),
    "Gelu": _gelu,
    "Greater": lambda node, args, n: args[0] > args[1],
    "GreaterOrEqual": lambda node, args, n: args[0] >= args[1],
    "HardSigmoid": lambda node, args, n: _hard_sigmoid(
        args[0], node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5), n
    ),
    "HardSwish": lambda node, args, n: args[0] * _hard_sigmoid(args[0], 1 / 6, 0.5, n),
    "IsNaN": _unary(lambda x, n: tirx.NE(x, x)),
    "LeakyRelu": _leaky,
    "Less": lambda node, args, n: args[0] < args[1],
    "LessOrEqual": lambda node, args, n: args[0] <= args[1],
    "Log": _unary(log),
    "Max": _fold(tirx.max),
    "Mean": _mean,
    "Min": _fold(tirx.min),
    "Mish": _unary(lambda x, n: x * tanh(_softplus(x, n), n)),
    "Mod": _modulo,
    "Mul": _fold(lambda a, b: a * b),
    "Neg": _unary(_negate),
    "Not": _unary(lambda x, n: tirx.Not(x)),
    "Or": _fold(tirx.Or),
    "PRelu": _leaky,
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": _unary(lambda x, n: fconst(1.0, n) / x),
    "Relu": _unary(lambda x, n: tirx.max(x, _zero(x, n))),
    "Round": _unary(lambda x, n: tirx.nearbyint(x)),
    "Selu": _elu,
    "Sigmoid": _unary(sigmoid),
    "Sign": _unary(_sign),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(lambda x, n: x / (fconst(1.0, n) + tirx.max(x, _negate(x, n)))),
    "Sqrt": _unary(lambda x, n: tirx.sqrt(x)),
    "Sub": lambda node, args, n: args[0] - args[1],
    "Sum": _fold(lambda a, b: a + b),
    "Tanh": _unary(tanh),
    "ThresholdedRelu": _thresholded,
    "Where": lambda node, args, n: tirx.Select(args[0], args[1], args[2]),
    "Xor": lambda node, args, n: tirx.NE(args[0], args[1]),
}


def constant_vector(array: Array, lanes: int) -> Expr:
    """A one-element constant as an immediate."""
    item = array.reshape(-1)[0].item()
    dtype = str(array.dtype)
    return splat(tirx.const(item, dtype), lanes)

"""Elementwise operators as vector expressions: one rule each."""

from collections.abc import Callable, Sequence

from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node
from deepseek_edge.backends.tvm.schedules.functions import (
    converted,
    erf,
    exp,
    fconst,
    is_nan,
    log,
    magnitude,
    negated,
    power,
    sigmoid,
    sine,
    tanh,
    zero_of,
)
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    element_type,
    literal,
    load,
    once,
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


def _clip(node: Node, args: Arguments, lanes: int) -> Expr:
    x, dtype = args[0], element_type(args[0])
    low, high = node.attrs.get("min"), node.attrs.get("max")  # before opset 11
    present = iter(args[1:])
    lower = next(present) if node.optional(1) is not None else low
    upper = next(present) if node.optional(2) is not None else high
    if lower is not None:
        x = tirx.max(literal(lower, dtype, lanes) if isinstance(lower, float) else lower, x)
    if upper is not None:
        x = tirx.min(literal(upper, dtype, lanes) if isinstance(upper, float) else upper, x)
    return x


def _cast(node: Node, args: Arguments, lanes: int) -> Expr:
    dtype, x = node.output.dtype, args[0]
    if dtype == "bool":
        # Not equal: for NaN, TVM's NE is false.
        return x if element_type(x) == "bool" else tirx.Not(tirx.EQ(x, zero_of(x, lanes)))
    return converted(x, lanes, dtype)


def _power(node: Node, args: Arguments, lanes: int) -> Expr:
    exponent, x = node.value(1).data, args[0]
    dtype = element_type(x)
    if exponent is not None and exponent.size == 1:
        known = float(exponent.reshape(-1)[0])
        if known == 0.5 and dtype == "float32":
            return tirx.sqrt(x)
        if known == int(known) and abs(known) <= 64 and (known >= 0 or dtype == "float32"):
            whole = _repeated(x, int(abs(known)), lanes)
            return whole if known >= 0 else fconst(1.0, lanes) / whole
    if dtype != "float32":
        raise UnsupportedError(
            f"Pow (node {node.source!r}) of {dtype}",
            hint="its exponent must be one constant from 0 to 64; add a Cast to float32 before it",
        )
    return power(x, converted(args[1], lanes, "float32"), lanes)


def _repeated(x: Expr, exponent: int, lanes: int) -> Expr:
    """X ** exponent by squaring."""
    result, square = None, x
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        square = once(square * square)
        exponent >>= 1
    return literal(1, element_type(x), lanes) if result is None else result


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
    return tirx.min(fconst(1.0, lanes), tirx.max(fconst(0.0, lanes), line))


def _softplus(x: Expr, lanes: int) -> Expr:
    small = exp(fconst(0.0, lanes) - magnitude(x, lanes), lanes)
    return tirx.max(fconst(0.0, lanes), x) + log(fconst(1.0, lanes) + small, lanes)


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
    negative = tirx.Select(x < zero, literal(-1, dtype, lanes), x)  # of 0 and NaN: itself
    return tirx.Select(x > zero, literal(1, dtype, lanes), negative)


def _divide(node: Node, args: Arguments, lanes: int) -> Expr:
    del node
    a, b = args
    if element_type(a) == "float32":
        return a / b
    # By 0, and the least integer by -1, would trap on some CPUs.
    divisor, is_minus_one = _safe_divisor(b, lanes)
    quotient = tirx.truncdiv(a, divisor)
    return (
        quotient if is_minus_one is None else tirx.Select(is_minus_one, negated(a, lanes), quotient)
    )


def _safe_divisor(b: Expr, lanes: int) -> tuple[Expr, Expr | None]:
    """``b`` with 1 in the place of 0 and -1, and where it was -1 (unsigned: never)."""
    dtype = element_type(b)
    one = literal(1, dtype, lanes)
    divisor = tirx.Select(tirx.EQ(b, zero_of(b, lanes)), one, b)
    if dtype == "uint8":
        return divisor, None
    is_minus_one = tirx.EQ(b, literal(-1, dtype, lanes))
    return tirx.Select(is_minus_one, one, divisor), is_minus_one


def _fold(combine: Callable[[Expr, Expr], Expr]) -> "Rule":
    def rule(node: Node, args: Arguments, lanes: int) -> Expr:
        del node, lanes
        total = args[0]
        for arg in args[1:]:
            total = combine(total, arg)
        return total

    return rule


def _modulo(node: Node, args: Arguments, lanes: int) -> Expr:
    a, b = args
    if element_type(a) == "float32":
        raise UnsupportedError(f"Mod (node {node.source!r}) of float32: only integers")
    divisor, _ = _safe_divisor(b, lanes)
    operation = tirx.truncmod if node.attrs.get("fmod", 0) else tirx.floormod
    return operation(a, divisor)


def _extreme(operation: Callable[[Expr, Expr], Expr]) -> "Rule":
    """Max or Min of two, NaN if either is."""

    def rule(node: Node, args: Arguments, lanes: int) -> Expr:
        a, b = args
        if element_type(a) != "float32" or node.value(1).data is not None:
            return operation(*((a, b) if node.value(0).data is not None else (b, a)))
        return tirx.Select(is_nan(a, lanes), a, operation(a, b))

    return rule


def _same(node: Node, args: Arguments, lanes: int) -> Expr:
    a, b = args
    if element_type(a) == "bool":
        return tirx.Not(_differ(a, b, lanes))
    return tirx.EQ(a, b)


def _differ(a: Expr, b: Expr, lanes: int) -> Expr:
    return tirx.NE(converted(a, lanes, "int8"), converted(b, lanes, "int8"))


def _is_infinite(node: Node, args: Arguments, lanes: int) -> Expr:
    x, infinity = args[0], float("inf")
    high = tirx.EQ(x, fconst(infinity, lanes))
    low = tirx.EQ(x, fconst(-infinity, lanes))
    if not node.attrs.get("detect_negative", 1):
        return high
    return tirx.Or(high, low) if node.attrs.get("detect_positive", 1) else low


def dequantize(x: Expr, scale: float, zero_point: int, lanes: int) -> Expr:
    """(x - zero point) * scale in float32."""
    value = converted(x, lanes, "int32")
    if zero_point:
        value = value - literal(zero_point, "int32", lanes)
    value = converted(value, lanes, "float32")
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
    return tirx.Select(x > fconst(node.attrs.get("alpha", 1.0), lanes), x, zero_of(x, lanes))


Rule = Callable[[Node, Arguments, int], Expr]


def _unary(function: Callable[[Expr, int], Expr]) -> Rule:
    return lambda node, args, lanes: function(args[0], lanes)


_RULES: dict[str, Rule] = {
    "Abs": _unary(lambda x, n: tirx.max(negated(x, n), x)),
    "Add": _fold(lambda a, b: a + b),
    "And": _fold(tirx.And),
    "Cast": _cast,
    "Ceil": _unary(lambda x, n: tirx.ceil(x)),
    "Celu": _elu,
    "Clip": _clip,
    "Copy": _unary(lambda x, n: x),
    "DequantizeLinear": _dequantize,
    "Cos": _unary(lambda x, n: sine(x, n, quarter_turns=1)),
    "Div": _divide,
    "Elu": _elu,
    "Equal": _same,
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
    "IsInf": _is_infinite,
    "IsNaN": _unary(is_nan),
    "LeakyRelu": _leaky,
    "Less": lambda node, args, n: args[0] < args[1],
    "LessOrEqual": lambda node, args, n: args[0] <= args[1],
    "Log": _unary(log),
    "Max": _extreme(tirx.max),
    "Min": _extreme(tirx.min),
    "Mish": _unary(lambda x, n: x * tanh(_softplus(x, n), n)),
    "Mod": _modulo,
    "Mul": _fold(lambda a, b: a * b),
    "Neg": _unary(negated),
    "Not": _unary(lambda x, n: tirx.Not(x)),
    "Or": _fold(tirx.Or),
    "PRelu": _leaky,
    "Pow": _power,
    "Reciprocal": _unary(lambda x, n: fconst(1.0, n) / x),
    "Relu": _unary(lambda x, n: tirx.max(zero_of(x, n), x)),
    "Round": _unary(lambda x, n: tirx.nearbyint(x)),
    "Selu": _elu,
    "Sigmoid": _unary(sigmoid),
    "Sign": _unary(_sign),
    "Sin": _unary(sine),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(lambda x, n: x / (fconst(1.0, n) + tirx.max(x, negated(x, n)))),
    "Sqrt": _unary(lambda x, n: tirx.sqrt(x)),
    "Sub": lambda node, args, n: args[0] - args[1],
    "Swish": lambda node, args, n: (
        args[0] * sigmoid(args[0] * fconst(node.attrs.get("alpha", 1.0), n), n)
    ),
    "Tanh": _unary(tanh),
    "ThresholdedRelu": _thresholded,
    "Where": lambda node, args, n: tirx.Select(args[0], args[1], args[2]),
    "Xor": lambda node, args, n: _differ(args[0], args[1], n),
}


def constant_vector(array: Array, lanes: int) -> Expr:
    """A one-element constant as an immediate."""
    item = array.reshape(-1)[0].item()
    dtype = str(array.dtype)
    return splat(tirx.const(item, dtype), lanes)

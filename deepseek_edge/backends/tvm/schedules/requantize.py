"""float32 -> int8, as QuantizeLinear has it, in the narrowing instructions of each CPU.

Round half to even, add the zero point, saturate. Narrowing saturates by itself: in two halvings
(packssdw and packsswb, or sqxtn twice), between which the zero point is added to 16 bits with
saturation; with AVX-512 in one (vpmovsdb, vpmovusdb), after a 32-bit addition. LLVM finds these
instructions from bounds and a cast.
"""

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.schedules.functions import converted, fconst
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    element_type,
    literal,
    select,
)
from deepseek_edge.target import Target

# Conversion to int32 is exact up to here, with room for a zero point.
_SAFE = 2.0**30


def quantize(node: Node, x: Expr, lanes: int, target: Target) -> Expr:
    """The stored form of ``x`` (float32) behind a QuantizeLinear node."""
    parameters, dtype = node.attrs["quantization"], node.output.dtype
    # uint8 storage holds value + 128; its zero point has moved along.
    first = 0 if dtype == "uint8" else -128
    zero = parameters.zero_point
    low = int(min(max(parameters.low + zero, first), first + 255))
    high = int(max(min(parameters.high + zero, first + 255), first))
    if parameters.scale != 1:
        x = x * fconst(1.0 / np.float64(np.float32(parameters.scale)), lanes)
    halves = lanes > 1 and target.vector_bits < 512
    is_small = parameters.largest < _SAFE
    if halves:
        if not is_small and target.arch != "aarch64":
            # What is too large becomes the least integer on x86: right at the lower end only.
            x = tirx.min(fconst(_SAFE, lanes), x)
        value = _to_integer(x, lanes, target)
        return _by_halves(value, zero, (first, low, high), lanes, dtype)
    if not is_small:
        x = tirx.max(tirx.min(fconst(high - zero, lanes), x), fconst(low - zero, lanes))
    value = _to_integer(x, lanes, target)
    if zero:
        value = value + literal(zero, "int32", lanes)
    return converted(_between(value, low, high, lanes) if is_small else value, lanes, dtype)


def _by_halves(
    value: Expr, zero: int, bounds: tuple[int, int, int], lanes: int, dtype: str
) -> Expr:
    first, low, high = bounds
    value = converted(_between(value, -(2**15), 2**15 - 1, lanes), lanes, "int16")
    if zero:
        name = f"llvm.sadd.sat.v{lanes}i16"
        value = tirx.call_llvm_pure_intrin(
            f"int16x{lanes}", name, value, literal(zero, "int16", lanes)
        )
    if dtype == "int16":
        return _between(value, low, high, lanes)
    value = converted(_between(value, first, first + 255, lanes), lanes, dtype)
    if low > first:
        value = tirx.max(value, literal(low, dtype, lanes))
    return tirx.min(value, literal(high, dtype, lanes)) if high < first + 255 else value


def _between(value: Expr, low: int, high: int, lanes: int) -> Expr:
    dtype = element_type(value)
    return tirx.min(tirx.max(value, literal(low, dtype, lanes)), literal(high, dtype, lanes))


def _to_integer(x: Expr, lanes: int, target: Target) -> Expr:
    """The nearest int32, ties to even: one instruction, fcvtns or cvtps2dq."""
    if lanes == 1:
        return converted(tirx.nearbyint(x), 1, "int32")
    if target.arch != "aarch64":
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", "llvm.lrint", x)
    width = min(lanes, 4)
    parts = [
        tirx.call_llvm_pure_intrin(
            f"int32x{width}", "llvm.aarch64.neon.fcvtns", select([x], range(at, at + width))
        )
        for at in range(0, lanes, width)
    ]
    return select(parts, range(lanes))

"""Multiply-accumulate units: float FMA and the integer dot products of each instruction set.

A register tile only needs to know: how many consecutive k one instruction takes (``group``),
how weights lie in memory for it, and the three expressions below. All integer units are exact:
no intermediate saturates, for weights in [-127, 127] and any int8 activation.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    lanes_of,
    load,
    ramp,
    select,
    splat,
)
from deepseek_edge.target import Target

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Unit:
    """One kind of multiply-accumulate.

    Attributes:
        sum_type: of the accumulators, one per output channel.
        group: consecutive k of one pixel that an instruction multiplies and adds up.
        storage: how int8 activations lie in memory; uint8 holds value + 128.
        broadcast: (buffer, address, lanes) -> the group at ``address`` for all lanes.
        weights: (buffer, address, lanes) -> the weights of ``lanes`` channels.
        accumulate: (sum, broadcast, weights, lanes) -> the new sum.
        arrange: weights (..., channel, group) -> the order in which bytes lie.
        lane: (vector of 2 or 4 groups, which, lanes) -> as ``broadcast``, where an instruction
            takes one lane of a vector (ARM): a load then serves all. None elsewhere.
        widens: products need registers of their own before they are added: long code spills.
        paired: an instruction multiplies two rows by two columns (see ``PairedAccumulators``):
            ``broadcast`` and ``lane`` are unused, ``weights`` are those of 2 columns.
    """

    sum_type: str
    group: int
    storage: str
    broadcast: Callable[[Buffer, Expr, int], Any]
    weights: Callable[[Buffer, Expr, int], Expr]
    accumulate: Callable[[Expr, Any, Expr, int], Expr]
    arrange: Callable[[Array], Array]
    lane: Callable[[Expr, int, int], Any] | None = None
    widens: bool = False
    paired: bool = False

    @property
    def is_integer(self) -> bool:
        """True if sums are int32."""
        return self.sum_type == "int32"


def _float_add(total: Expr, value: Expr, weights: Expr, lanes: int) -> Expr:
    return total + splat(value, lanes) * weights


FLOAT = Unit(
    sum_type="float32",
    group=1,
    storage="float32",
    broadcast=lambda buffer, address, lanes: bind(load(buffer, address, 1)),
    weights=lambda buffer, address, lanes: bind(load(buffer, address, lanes)),
    accumulate=_float_add,
    arrange=lambda weights: weights,
)


def _float_lane(block: Expr, which: int, lanes: int) -> Expr:
    del lanes
    return select([block], [which])


FLOAT_LANES = dataclasses.replace(FLOAT, lane=_float_lane)


def _byte_lane(block: Expr, which: int, lanes: int) -> Expr:
    """Bytes 4 * which ..., in every 32-bit lane: LLVM makes it sdot's lane operand."""
    places = [4 * which + i for i in range(4)] * lanes
    # A shuffle has no more lanes than it is given.
    return select([block] * (len(places) // lanes_of(block)), places)


def _load_four(buffer: Buffer, address: Expr, lanes: int) -> Expr:
    """Four bytes, repeated in every 32-bit lane, as bytes."""
    word = tirx.reinterpret("int32", load(buffer, address, 4))
    dtype = "uint8" if "uint8" in str(load(buffer, address, 1).ty) else "int8"
    return bind(tirx.reinterpret(f"{dtype}x{4 * lanes}", splat(word, lanes)))


def _four_weights(buffer: Buffer, address: Expr, lanes: int) -> Expr:
    return bind(buffer[ramp(address, 4 * lanes)])


def _dpbusd(total: Expr, value: Expr, weights: Expr, lanes: int) -> Expr:
    return tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", total, value, weights
    )


VNNI = Unit("int32", 4, "uint8", _load_four, _four_weights, _dpbusd, lambda weights: weights)


def _sdot(total: Expr, value: Expr, weights: Expr, lanes: int) -> Expr:
    del lanes
    return tirx.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, weights, value
    )


DOTPROD = Unit(
    "int32", 4, "int8", _load_four, _four_weights, _sdot, lambda weights: weights, _byte_lane
)


def _smmla(total: Expr, value: Expr, weights: Expr, lanes: int) -> Expr:
    """2 rows x 8 by 8 x 2 columns, added to a 2x2 block of sums."""
    del lanes
    return tirx.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", total, value, weights
    )


def _two_columns(buffer: Buffer, address: Expr, lanes: int) -> Expr:
    del lanes
    return bind(load(buffer, address, 16))


I8MM = Unit(
    "int32", 8, "int8", _load_four, _two_columns, _smmla, lambda weights: weights, paired=True
)


def _load_pair(buffer: Buffer, address: Expr, lanes: int) -> Expr:
    word = tirx.reinterpret("int32", load(buffer, address, 2))
    return bind(tirx.reinterpret(f"int16x{2 * lanes}", splat(word, lanes)))


def _pair_weights(buffer: Buffer, address: Expr, lanes: int) -> Expr:
    return bind(tirx.Cast(f"int16x{2 * lanes}", buffer[ramp(address, 2 * lanes)]))


_PMADDWD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


def _pmaddwd(total: Expr, value: Expr, weights: Expr, lanes: int) -> Expr:
    """Products of 16-bit pairs added in 32 bits: exact, unlike the 8-bit vpmaddubsw."""
    pairs = tirx.call_llvm_pure_intrin(f"int32x{lanes}", _PMADDWD[lanes], value, weights)
    return total + pairs


MADD = Unit("int32", 2, "int16", _load_pair, _pair_weights, _pmaddwd, lambda weights: weights)


def _load_pairs(buffer: Buffer, address: Expr, lanes: int) -> tuple[Expr, Expr]:
    """Bytes (k, k+1) in every 16 bits of one vector, (k+2, k+3) in those of another."""
    del lanes
    halves = tirx.reinterpret("int16x2", load(buffer, address, 4))
    first, second = (splat(select([halves], [half]), 4) for half in range(2))
    return (
        bind(tirx.reinterpret("int8x8", first)),
        bind(tirx.reinterpret("int8x8", second)),
    )


def _halves(weights: Expr, half: int) -> Expr:
    return select([weights], range(8 * half, 8 * half + 8))


def _smull_pairs(total: Expr, value: tuple[Expr, Expr], weights: Expr, lanes: int) -> Expr:
    """smull, smlal, sadalp: 2 * 128 * 127 = 32512 still fits 16 bits, so the sum is exact."""
    del lanes
    products = [
        tirx.call_llvm_pure_intrin(
            "int16x8", "llvm.aarch64.neon.smull.v8i16", _halves(weights, half), value[half]
        )
        for half in range(2)
    ]
    pairs = tirx.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products[0] + products[1]
    )
    return total + pairs


def _smull_each(total: Expr, value: tuple[Expr, Expr], weights: Expr, lanes: int) -> Expr:
    """As ``_smull_pairs`` where weights may be -128: two products of 2**14 would not fit."""
    del lanes
    for half in range(2):
        products = tirx.call_llvm_pure_intrin(
            "int16x8", "llvm.aarch64.neon.smull.v8i16", _halves(weights, half), value[half]
        )
        total = total + tirx.call_llvm_pure_intrin(
            "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products
        )
    return total


def _arrange_pairs(weights: Array) -> Array:
    """(..., channels, 4 k) -> for each 4 channels: their k 0 and 1, then their k 2 and 3."""
    lead, channels = weights.shape[:-2], weights.shape[-2]
    split = weights.reshape(*lead, channels // 4, 4, 2, 2)
    order = (*range(len(lead)), *(len(lead) + axis for axis in (0, 2, 1, 3)))
    arranged: Array = split.transpose(order).reshape(weights.shape)
    return arranged


def _pair_lanes(block: Expr, which: int, lanes: int) -> tuple[Expr, Expr]:
    """As ``_load_pairs``, from bytes 4 * which ... of a vector."""
    del lanes
    first, second = (
        select([block], [4 * which + 2 * half, 4 * which + 2 * half + 1] * 4) for half in range(2)
    )
    return bind(first), bind(second)


NEON = Unit(
    "int32",
    4,
    "int8",
    _load_pairs,
    _four_weights,
    _smull_pairs,
    _arrange_pairs,
    _pair_lanes,
    widens=True,
)


NEON_ACTIVATIONS = dataclasses.replace(NEON, accumulate=_smull_each)


def float_unit(target: Target) -> Unit:
    """Fused multiply-adds, by lane where the instruction set has that."""
    return FLOAT_LANES if target.arch == "aarch64" else FLOAT


def integer_unit(target: Target) -> Unit:
    """The fastest exact unit that the target's features allow."""
    features = set(target.features)
    if target.arch == "aarch64":
        return DOTPROD if "dotprod" in features else NEON
    if "avx512vnni" in features and target.vector_bits == 512:
        return VNNI
    if "avxvnni" in features and target.vector_bits == 256:
        return VNNI
    return MADD


def contraction_unit(target: Target, depth: int, rows: int) -> Unit:
    """As ``integer_unit``, for sums of ``depth`` products at ``rows`` rows or pixels of a line.

    The int8 matrix product does twice the work of a dot product, but in fours of depth that are
    half empty, or on a single row, half of it is for nothing.
    """
    if "i8mm" in target.features and depth > DOTPROD.group and rows > 1:
        return I8MM
    return integer_unit(target)


def activation_unit(target: Target) -> Unit:
    """As ``integer_unit``, for products of two activations: both may be -128."""
    unit = integer_unit(target)
    return NEON_ACTIVATIONS if unit is NEON else unit


# The longest sum whose worst case, 255 * 127 a product, fits int32.
LONGEST_SUM = (2**31 - 1) // (255 * 127)

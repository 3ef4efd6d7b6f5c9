"""Emitting one kernel: a TensorIR function with plain pointers and explicit vectors.

A kernel is a C function ``void name(T0 *t0, ..., int32 begin, int32 end)`` that computes tasks
[begin, end) of its step. It is written as the loops that shall run: vectors are vectors
(``Ramp``), register tiles are small local buffers with constant indices, which LLVM keeps in
registers. TVM's part is the typed IR, its checks, and LLVM for every CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - TVM's own name for it

from deepseek_edge.backends.tvm.graph import Value

Expr = Any  # tvm.tirx.Expr: the package has no type stubs
Buffer = Any
MEMORY_TYPE = {"bool": "int8"}  # one byte, 0 or 1


def build(
    tensors: Sequence[Value], body: Callable[[Sequence[Buffer], Expr], None]
) -> "tirx.PrimFunc":
    """Make the function.

    Args:
        tensors: one pointer each, in order; all 64-byte aligned and not aliasing.
        body: ``body(buffers, task)`` emits what one task does.
    """
    return build_in_order(tensors, lambda buffers, task, first: body(buffers, task))


def build_in_order(
    tensors: Sequence[Value], body: Callable[[Sequence[Buffer], Expr, Expr], None]
) -> "tirx.PrimFunc":
    """As ``build``, for tasks that may use what the task before left in scratch memory.

    ``body(buffers, task, first)``: ``first`` is true where no task of this call came before, so
    that there is nothing to be used.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name("kernel")
        # calling_conv 2 keeps the C signature: no packed arguments, no TVM at run time.
        T.func_attr({"calling_conv": 2, "global_symbol": "kernel", "tirx.noalias": True})
        types = [MEMORY_TYPE.get(value.dtype, value.dtype) for value in tensors]
        pointers = [T.arg(f"t{i}", T.ptr(dtype)) for i, dtype in enumerate(types)]
        begin, end = T.arg("begin", T.int32()), T.arg("end", T.int32())
        buffers = [
            T.decl_buffer((max(value.elements, 1),), dtype, data=pointer)
            for value, dtype, pointer in zip(tensors, types, pointers, strict=True)
        ]
        with T.serial(tirx.Cast("int64", begin), tirx.Cast("int64", end)) as task:
            body(buffers, task, tirx.EQ(task, tirx.Cast("int64", begin)))
    return builder.get()


def index(value: int) -> Expr:
    """An int64 constant.

    All index arithmetic is 64 bits wide, so that no sign extension stands between an address
    and its displacement.
    """
    return tirx.const(value, "int64")


@contextmanager
def loop(extent: int | Expr, start: int | Expr = 0) -> Iterator[Expr]:
    """A serial loop over [start, start + extent); with extent 1 no loop, just ``start``."""
    first = index(start) if isinstance(start, int) else start
    if isinstance(extent, int):
        if extent == 1:
            yield first
            return
        extent = index(extent)
    with T.serial(first, first + extent) as i:
        yield i


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Emit the block under a condition; a condition known to be true costs nothing."""
    if isinstance(condition, bool):
        assert condition
        yield
        return
    with T.If(condition), T.Then():
        yield


@contextmanager
def otherwise(condition: Expr) -> Iterator[None]:
    """Emit the block where ``condition`` is false."""
    with T.If(tirx.Not(condition)), T.Then():
        yield


def bind(value: Expr) -> Expr:
    """Compute ``value`` here, once."""
    return T.Bind(value)


def once(value: Expr) -> Expr:
    """As ``bind``, for what an elementwise operator computes and reads several times.

    It passes through registers that TVM doesn't see through: its analysis of bindings expands
    each in the next, which takes forever on chains of operators. Booleans stay expressions.
    """
    dtype = element_type(value)
    if dtype == "bool":
        return value
    lanes = lanes_of(value)
    register = local(dtype, lanes)
    store(register, 0, lanes, value)
    return load(register, 0, lanes)


def local(dtype: str, elements: int) -> Buffer:
    """Registers: a small buffer that only constant indices reach."""
    return T.alloc_buffer((elements,), dtype, scope="local")


def ramp(base: Expr | int, lanes: int) -> Expr:
    """The index of ``lanes`` consecutive elements from ``base``."""
    base = index(base) if isinstance(base, int) else base
    return base if lanes == 1 else tirx.Ramp(base, index(1), lanes)


def splat(scalar: Expr, lanes: int) -> Expr:
    """A vector of ``lanes`` copies."""
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def literal(value: float | int, dtype: str, lanes: int) -> Expr:
    """A constant vector; infinities are kept, NaN is refused by the importer."""
    return splat(tirx.const(value, dtype), lanes)


def select(vectors: Sequence[Expr], places: Sequence[int]) -> Expr:
    """Lanes of several vectors, counted through."""
    return tirx.Shuffle(list(vectors), [tirx.const(place, "int32") for place in places])


def load(buffer: Buffer, base: Expr | int, lanes: int) -> Expr:
    """``lanes`` consecutive elements."""
    return buffer[ramp(base, lanes)]


def load_splat(buffer: Buffer, base: Expr | int, lanes: int) -> Expr:
    """One element, copied to all lanes."""
    return splat(buffer[index(base) if isinstance(base, int) else base], lanes)


def store(buffer: Buffer, base: Expr | int, lanes: int, value: Expr) -> None:
    """Write ``lanes`` consecutive elements."""
    T.buffer_store(buffer, value, [ramp(base, lanes)])


def prefetch(buffer: Buffer, at: Expr) -> None:
    """Ask for the cache line of an element to come into the second cache; it may be past the end.

    The hardware's own prefetchers stop at the end of a page, which a product passes quickly.
    """
    read, second_cache, data = (tirx.const(value, "int32") for value in (0, 2, 1))
    address = tirx.address_of(buffer[at])
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, read, second_cache, data))


def element_type(expr: Expr) -> str:
    """The dtype of one lane."""
    name = str(expr.ty)
    head, _, tail = name.rpartition("x")
    return head if head and tail.isdigit() else name


def lanes_of(expr: Expr) -> int:
    """The number of lanes."""
    head, _, tail = str(expr.ty).rpartition("x")
    return int(tail) if head and tail.isdigit() else 1


def pieces(length: int, lanes: int) -> list[tuple[int, int]]:
    """Cut [0, length) into vectors: (offset, lanes), widest first, powers of two.

    >>> pieces(23, 8)
    [(0, 8), (8, 8), (16, 4), (20, 2), (22, 1)]
    """
    cut, offset = [], 0
    while offset < length:
        while lanes > length - offset:
            lanes //= 2
        cut.append((offset, lanes))
        offset += lanes
    return cut


def for_columns(length: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """Emit ``body(column, lanes)`` over [0, length): a loop of full vectors, then the rest."""
    full = length // lanes
    if full > 0:
        with loop(full) as i:
            body(i * index(lanes), lanes)
    for offset, width in pieces(length - full * lanes, lanes):
        body(index(full * lanes + offset), width)


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """Coordinates of a flat index, last dimension fastest."""
    coordinates: list[Expr] = []
    for size in reversed(shape[1:]):
        coordinates.append(tirx.indexmod(flat, index(size)) if size > 1 else index(0))
        flat = tirx.indexdiv(flat, index(size)) if size > 1 else flat
    return [flat if shape and shape[0] > 1 else index(0), *reversed(coordinates)][: len(shape)]


def zeros(lanes: int) -> Expr:
    """A vector of float32 zeros."""
    return literal(0.0, "float32", lanes)


def lowest(dtype: str, lanes: int) -> Expr:
    """The least value of a dtype: -infinity if it has that."""
    kind = np.dtype(dtype)
    value = float("-inf") if kind.kind == "f" else int(np.iinfo(kind).min)
    return literal(value, dtype, lanes)


def highest(dtype: str, lanes: int) -> Expr:
    """The greatest value of a dtype: infinity if it has that."""
    kind = np.dtype(dtype)
    value = float("inf") if kind.kind == "f" else int(np.iinfo(kind).max)
    return literal(value, dtype, lanes)


# The function of a device's C that multiplies, and rounds; None while LLVM compiles.
_MULTIPLY: ContextVar[str | None] = ContextVar("multiply", default=None)


@contextmanager
def device_code(multiply: str) -> Iterator[None]:
    """What is emitted inside is compiled from C; ``rounded`` calls its function ``multiply``."""
    before = _MULTIPLY.set(multiply)
    try:
        yield
    finally:
        _MULTIPLY.reset(before)


def rounded(value: Expr, lanes: int) -> Expr:
    """A float32 product as it is, rounded: it is not contracted with a following addition.

    Integer programs promise the roundings that the Q/DQ contract names; elsewhere the compiler
    may use fused multiply-adds.
    """
    multiply = _MULTIPLY.get()
    if multiply is not None:
        is_product = isinstance(value, tirx.Mul)  # by 1 it isn't one any more
        return tirx.call_pure_extern("float32", multiply, value.a, value.b) if is_product else value
    return tirx.call_llvm_pure_intrin(
        "float32" if lanes == 1 else f"float32x{lanes}", "llvm.arithmetic.fence", value
    )

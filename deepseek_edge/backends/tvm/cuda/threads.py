"""Emitting a CUDA kernel as TensorIR: one thread an element, or one warp a row.

As schedules/kernel.py for the CPU, of which the expressions come. Half floats lie in memory as
their 16 bits; they are numbers (float32) from ``load`` to ``store``.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - TVM's own name for it

from deepseek_edge.backends.tvm.cuda.launch import THREADS, Launch
from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules import kernel
from deepseek_edge.backends.tvm.schedules.arithmetic import dequantize
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    device_code,
    index,
    loop,
    once,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div

WARP = 32
LONG_ROW = 1024  # elements from which a row gets a whole block
COLUMN_WARPS = 16
MULTIPLY = "dse_product"  # in prelude.cuh, as the other functions named here
MEMORY_TYPE = {"bool": "int8", "float16": "uint16"}


@dataclass(frozen=True)
class Tensor:
    """A kernel's pointer and what it points to."""

    value: Value
    buffer: Any

    def load(self, at: Expr | int) -> Expr:
        """One element as it is computed with."""
        raw = kernel.load(self.buffer, at, 1)
        if self.value.dtype == "float16":
            return tirx.call_pure_extern("float32", "dse_float", raw)
        return raw

    def store(self, at: Expr, value: Expr) -> None:
        """Write one element."""
        kernel.store(self.buffer, at, 1, as_stored(self.value, value))


def as_stored(value: Value, result: Expr) -> Expr:
    """What is written for a result."""
    if value.dtype == "float16":
        return tirx.call_pure_extern("uint16", "dse_half", result)
    return tirx.Cast("int8", result) if value.dtype == "bool" else result


def memory_type(value: Value) -> str:
    """The type of an element in memory."""
    return MEMORY_TYPE.get(value.dtype, value.dtype)


def number_type(value: Value) -> str:
    """The type of an element as it is computed with."""
    return "float32" if value.dtype == "float16" else value.dtype


def load_number(node: Node, source: Tensor, at: Expr, *, scaled: bool = True) -> Expr:
    """As ``arithmetic.load_float``: dequantized if the anchor reads quantized elements."""
    value, quantization = source.load(at), node.attrs.get("dequantize")
    if quantization is None:
        return value
    return dequantize(value, quantization.scale if scaled else 1, quantization.zero_point, 1)


@contextmanager
def _kernel(tensors: Sequence[Value], grid: int, threads: int) -> Any:
    """Inside, (tensors, block, thread); the function is the list's only element after."""
    made: list[Any] = []
    with device_code(MULTIPLY), IRBuilder() as builder:
        with T.prim_func():
            T.func_name("kernel")
            T.func_attr({"calling_conv": 2, "global_symbol": "kernel", "tirx.noalias": True})
            types = [memory_type(value) for value in tensors]
            pointers = [T.arg(f"t{i}", T.ptr(dtype)) for i, dtype in enumerate(types)]
            buffers = [
                T.decl_buffer((max(value.elements, 1),), dtype, data=pointer)
                for value, dtype, pointer in zip(tensors, types, pointers, strict=True)
            ]
            pairs = [Tensor(v, b) for v, b in zip(tensors, buffers, strict=True)]
            with (
                T.launch_thread("blockIdx.x", grid) as block,
                T.launch_thread("threadIdx.x", threads) as thread,
            ):
                yield pairs, block, thread, made
        made.append(builder.get())


def launch_threads(
    tensors: Sequence[Value],
    count: int,
    body: Callable[[Sequence[Tensor], Expr], None],
    *,
    work: int = 0,
) -> Launch:
    """A thread for each number in [0, count).

    Args:
        tensors: one pointer each, in order; all 64-byte aligned and not aliasing.
        count: at least 1.
        body: ``body(tensors, number)`` emits what one thread does.
        work: multiply-accumulates of the step, or about as many other operations.
    """
    grid = ceil_div(max(count, 1), THREADS)
    with _kernel(tensors, grid, THREADS) as (pairs, block, thread, made):
        number = bind(_wide(block) * index(THREADS) + _wide(thread))
        with when(number < index(count)):
            body(pairs, number)
    return Launch(made[0], tuple(tensors), (grid, 1, 1), work)


@dataclass(frozen=True)
class Team:
    """The threads that share a row: a warp, or a block if the row is long.

    Attributes:
        size: how many they are.
        name: as the functions of prelude.cuh have it.
        member: which of them this thread is.
    """

    size: int
    name: str
    member: Expr

    def over_row(self, count: int, body: Callable[[Expr], None]) -> None:
        """Emit ``body(at)`` for this thread's share of [0, count): neighbours take neighbours."""
        with loop(ceil_div(count, self.size)) as step:
            at = bind(step * index(self.size) + self.member)
            if count % self.size:
                with when(at < index(count)):
                    body(at)
            else:
                body(at)

    def combined(self, function: str, value: Expr) -> Expr:
        """What all threads' values make together, computed here: "sum", "max", ..."""
        return once(tirx.call_pure_extern("float32", f"dse_{self.name}_{function}", value))


def launch_rows(
    tensors: Sequence[Value],
    rows: int,
    count: int,
    body: Callable[[Sequence[Tensor], Expr, Team], None],
    *,
    work: int,
) -> Launch:
    """A team for each row of ``count`` elements: ``body(tensors, row, team)``."""
    is_long = count >= LONG_ROW
    size = THREADS if is_long else WARP
    grid = ceil_div(max(rows, 1) * size, THREADS)
    with _kernel(tensors, grid, THREADS) as (pairs, block, thread, made):
        member = bind(tirx.indexmod(_wide(thread), index(size)))
        first = _wide(block) * index(THREADS // size)
        row = bind(first + tirx.indexdiv(_wide(thread), index(size)))
        # All of a block's threads meet in a long row: none may leave before.
        with when(True if is_long else row < index(rows)):
            body(pairs, row, Team(size, "block" if is_long else "warp", member))
    return Launch(made[0], tuple(tensors), (grid, 1, 1), work)


def launch_columns(
    tensors: Sequence[Value],
    sizes: tuple[int, int, int],
    body: Callable[[Sequence[Tensor], Expr, Expr, Callable[[Expr], Expr]], None],
    *,
    dtype: str,
    work: int,
) -> Launch:
    """A block for 32 neighbouring columns of (outer, count, inner); its warps share the count.

    ``body(tensors, number, warp, gather)``, with ``number`` of the output element, or -1 past the
    end, and ``warp`` of COLUMN_WARPS; ``gather(value)`` shows every thread's value to the first
    warp: ``gather(value)(w)`` is that of warp w for the same column.
    """
    outer, _, inner = sizes
    parts = ceil_div(inner, WARP)
    grid, threads = outer * parts, WARP * COLUMN_WARPS
    with _kernel(tensors, grid, threads) as (pairs, block, thread, made):
        lane = bind(tirx.indexmod(_wide(thread), index(WARP)))
        warp = bind(tirx.indexdiv(_wide(thread), index(WARP)))
        part = bind(tirx.indexmod(_wide(block), index(parts)))
        column = bind(part * index(WARP) + lane)
        number = tirx.indexdiv(_wide(block), index(parts)) * index(inner) + column
        number = bind(tirx.Select(column < index(inner), number, index(-1)))
        shared = T.alloc_buffer((threads,), dtype, scope="shared")

        def gather(value: Expr) -> Expr:
            kernel.store(shared, _wide(thread), 1, value)
            T.evaluate(T.tvm_storage_sync("shared"))
            return lambda w: kernel.load(shared, index(w * WARP) + lane, 1)

        body(pairs, number, warp, gather)
    return Launch(made[0], tuple(tensors), (grid, 1, 1), work, threads)


def _wide(number: Expr) -> Expr:
    return tirx.Cast("int64", number)

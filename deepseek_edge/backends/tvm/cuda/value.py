"""The arithmetic behind a sum, for kernels that are written in C++.

Such a kernel loads and stores; what becomes of a sum is a device function in between, of numbers
only: TensorIR made of the expressions that CPU kernels use, inlined by NVRTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - TVM's own name for it

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion, number_of
from deepseek_edge.backends.tvm.cuda.threads import MULTIPLY, as_stored, memory_type, number_type
from deepseek_edge.backends.tvm.graph import Value
from deepseek_edge.backends.tvm.schedules.functions import converted
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    device_code,
    index,
    literal,
    rounded,
    store,
)

C_MEMORY = {
    "float32": "float",
    "float16": "uint16_t",
    "int8": "int8_t",
    "bool": "int8_t",
    "uint8": "uint8_t",
    "int32": "int",
    "int64": "int64_t",
}


class _ValueFusion(DeviceFusion):
    """Operands are arguments, and the result goes where the first argument points."""

    def argue(self, out: Any, arguments: Mapping[Value, Expr]) -> None:
        self.result, self.arguments = out, arguments

    def _operand(self, value: Value, row: Expr, column: Expr, lanes: int) -> Expr:
        if value.data is not None and value.elements == 1:
            return number_of(value)
        argument = self.arguments[value]
        return tirx.NE(argument, literal(0, "int8", 1)) if value.dtype == "bool" else argument

    def _write(self, value: Expr, row: Expr, column: Expr, lanes: int) -> None:
        stored = as_stored(self.out, value) if self.out.dtype == "float16" else value
        store(self.result, 0, 1, stored)


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does with its sums.

    Attributes:
        tables: constants with one element an output channel, by what they are for.
        fusion: the elementwise operators behind.
        sum_type: "float32" or "int32".
    """

    fusion: _ValueFusion
    tables: Mapping[str, Value]
    sum_type: str

    @classmethod
    def of(
        cls, fusion: DeviceFusion, tables: Mapping[str, Value | None], sum_type: str
    ) -> "Epilogue":
        """Leaves out tables that are None."""
        kept = {name: value for name, value in tables.items() if value is not None}
        return cls(_ValueFusion(fusion.step, fusion.target), kept, sum_type)

    @property
    def tensors(self) -> list[Value]:
        """What the kernel takes for this part, the output last."""
        return [*self.tables.values(), *self.fusion.tensors]

    def function(self) -> Any:
        """In C: void (Out *out, sum, one number a table, one an operand)."""
        with device_code(MULTIPLY), IRBuilder() as builder, T.prim_func():
            T.func_name("kernel")
            T.func_attr({"calling_conv": 2, "global_symbol": "kernel", "tirx.noalias": True})
            kind = memory_type(self.fusion.out)
            pointer = T.arg("out", T.ptr(kind))
            total = T.arg("sum", getattr(T, self.sum_type)())
            tables = {
                name: T.arg(f"c{i}", getattr(T, value.dtype)())
                for i, (name, value) in enumerate(self.tables.items())
            }
            operands = {
                value: T.arg(f"o{i}", getattr(T, _argument_type(value))())
                for i, value in enumerate(self.fusion.operands)
            }
            self.fusion.argue(T.decl_buffer((1,), kind, data=pointer), operands)
            result = scaled(total, tables) if "factor" in tables else biased(total, tables)
            anchor = self.fusion.step.anchor
            assert anchor is not None
            result = converted(result, 1, number_type(anchor.output))
            self.fusion.finish(result, index(0), index(0), 1)
        return builder.get()

    def text(self, first: int, columns: int, width: int) -> str:
        """C++: a functor that finishes ``width`` neighbouring sums of a row.

        Args:
            first: number of the kernel's pointer that ``tensors`` begin with.
            columns: elements of a row of the output.
            width: those of a row are a multiple of it.
        """
        lines, names, at = [], [], first
        for value in self.tables.values():
            lines += _load(f"a{at}", value, f"t{at} + column", width)
            names.append(f"a{at}[v]")
            at += 1
        for value in self.fusion.operands:
            place, is_single = place_text(value.shape, self.fusion.shape)
            lines += _load(f"a{at}", value, f"t{at} + {place}", width, is_single=is_single)
            names.append(f"a{at}[v]")
            at += 1
        kind = C_MEMORY[self.fusion.out.dtype]
        arguments = ", ".join(["&y[v]", "sums[v]", *names])
        body = "\n".join(f"    {line}" for line in lines)
        return (
            f"[&](const auto &sums, int row, int column) {{\n{body}\n"
            f"    alignas(16) {kind} y[{width}];\n#pragma unroll\n"
            f"    for (int v = 0; v < {width}; v++) VALUE({arguments});\n"
            f"    dse_store(t{at} + (int64_t)row * {columns} + column, y);\n  }}"
        )


def _argument_type(value: Value) -> str:
    return "int8" if value.dtype == "bool" else number_type(value)


def biased(total: Expr, tables: Mapping[str, Expr]) -> Expr:
    """A float layer's result."""
    return total + tables["bias"] if "bias" in tables else total


def scaled(total: Expr, tables: Mapping[str, Expr]) -> Expr:
    """An integer layer's float result; as schedules/weights.py has it for the CPU."""
    if "start" in tables:
        total = total + tables["start"]
    value = rounded(tirx.Cast("float32", total) * tables["factor"], 1)
    return value + tables["offset"] if "offset" in tables else value


def _load(name: str, value: Value, at: str, width: int, *, is_single: bool = False) -> list[str]:
    kind = {"float32": "float", "float16": "float", "int64": "int64_t"}.get(value.dtype, "int")
    if is_single:
        return [
            f"{kind} {name}[{width}];",
            f"for (int v = 0; v < {width}; v++) {name}[v] = dse_value(*({at}));",
        ]
    return [f"{kind} {name}[{width}];", f"dse_load({name}, {at});"]


def place_text(shape: Sequence[int], out: Sequence[int]) -> tuple[str, bool]:
    """C: where ``row`` and ``column`` of ``out`` are in an operand that broadcasts to it.

    Returns:
        The expression, and whether all columns are one element.
    """
    padded = (1,) * (len(out) - len(shape)) + tuple(shape)
    is_single = padded[-1] == 1 and out[-1] != 1
    terms, step, inner = [], 1, 1
    for size, whole in zip(reversed(padded[:-1]), reversed(out[:-1]), strict=True):
        if size != 1:
            terms.append((inner, whole, step * padded[-1]))
        inner *= whole
        step *= size
    text = " + ".join(_merged(terms, inner)) or "0"
    return (text if is_single else f"{text} + column"), is_single


def _merged(terms: list[tuple[int, int, int]], rows: int) -> list[str]:
    """``row / inner % size * step`` for each run of neighbouring dimensions, as one."""
    runs: list[tuple[int, int, int]] = []
    for inner, size, step in terms:
        if runs:
            first, whole, stride = runs[-1]
            if first * whole == inner and stride * whole == step:
                runs[-1] = (first, whole * size, stride)
                continue
        runs.append((inner, size, step))
    return [
        "(int64_t)(row"
        + (f" / {inner}" if inner > 1 else "")
        + (f" % {size}" if inner * size < rows else "")
        + f") * {step}"
        for inner, size, step in runs
    ]

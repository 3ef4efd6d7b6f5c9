"""The elementwise part of a step, computed in registers at each output vector.

Output positions are given as ``row``, the flat index of all dimensions but the last, and
``column``, the first of ``lanes`` consecutive elements of the last dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm import tirx

from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules.arithmetic import constant_vector, evaluate
from deepseek_edge.backends.tvm.schedules.functions import extremes_by_instruction
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    index,
    literal,
    load,
    load_splat,
    once,
    rounded,
    store,
    unravel,
)
from deepseek_edge.backends.tvm.schedules.requantize import quantize
from deepseek_edge.target import Target


@dataclass
class Fusion:
    """The followers of a step, ready to be emitted at any position of its output.

    Attributes:
        operands: tensors that the kernel must be given, in this order, besides the anchor's;
            one-element constants are immediates and need none.
        shape: of the output, as the schedule iterates over it.
        shapes: of operands that the schedule views otherwise than the graph does.
    """

    step: FusedStep
    target: Target
    operands: list[Value] = field(init=False)
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    shapes: dict[Value, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.operands = [v for v in self.step.operands if v.data is None or v.elements > 1]
        self.out = self.step.outputs[0]
        kinds = {node.op for node in self.step.nodes}
        self.is_integer = bool(
            kinds & {"QuantizeLinear", "DequantizeLinear", "IntegerConv", "IntegerMatMul"}
        )
        self.shape = self.out.shape or (1,)

    @property
    def tensors(self) -> list[Value]:
        """What the kernel takes for this part: the operands, then the output."""
        return [*self.operands, self.out]

    def attach(self, buffers: Sequence[Buffer]) -> None:
        """Hand over the kernel's buffers for ``tensors``."""
        self.buffers = dict(zip(self.tensors, buffers, strict=True))

    def finish_flat(self, result: Expr | None, flat: Expr) -> None:
        """As ``finish``, for one element at a flat index of the output."""
        last = index(self.shape[-1])
        self.finish(result, tirx.indexdiv(flat, last), tirx.indexmod(flat, last), 1)

    def finish(self, result: Expr | None, row: Expr, column: Expr, lanes: int) -> None:
        """Apply the followers to the anchor's ``result`` and store the output vector."""
        known: dict[Value, Expr] = {}
        if self.step.anchor is not None:
            known[self.step.anchor.output] = once(result)
        for node in self.step.followers:
            args = [
                known[value] if value in known else self._operand(value, row, column, lanes)
                for value in node.inputs
                if value is not None
            ]
            result = self._result(node, [once(arg) for arg in args], lanes)
            known[node.output] = once(result)
        value = known[self.step.nodes[-1].output]
        if self.out.dtype == "bool":
            value = tirx.Cast("int8" if lanes == 1 else f"int8x{lanes}", value)
        self._write(value, row, column, lanes)

    def _result(self, node: Node, args: Sequence[Expr], lanes: int) -> Expr:
        """What a follower computes."""
        if node.op == "QuantizeLinear":
            return quantize(node, args[0], lanes, self.target)
        result = evaluate(node, args, lanes)
        if self.target.arch == "aarch64":
            result = extremes_by_instruction(result, lanes)
        return self._product(node, result, lanes)

    def _product(self, node: Node, result: Expr, lanes: int) -> Expr:
        """A follower's result, kept from contraction where the Q/DQ contract names a rounding."""
        if self.is_integer and node.op == "Mul" and node.output.dtype == "float32":
            return rounded(result, lanes)
        return result

    def _write(self, value: Expr, row: Expr, column: Expr, lanes: int) -> None:
        """Store an output vector."""
        store(self.buffers[self.out], row * index(self.shape[-1]) + column, lanes, value)

    def _operand(self, value: Value, row: Expr, column: Expr, lanes: int) -> Expr:
        if value.data is not None and value.elements == 1:
            return constant_vector(value.data, lanes)
        shape = self.shapes.get(value, value.shape)
        base = broadcast_row(shape, self.shape, row)
        last = shape[-1] if shape else 1
        buffer = self.buffers[value]
        if last == 1 and (self.shape[-1] != 1 or lanes > 1):
            vector = load_splat(buffer, base, lanes)
        else:
            vector = load(buffer, base * index(last) + column, lanes)
        if value.dtype == "bool":
            return tirx.NE(vector, literal(0, "int8", lanes))
        return vector


def broadcast_row(shape: tuple[int, ...], out: tuple[int, ...], row: Expr) -> Expr:
    """The flat leading index into a tensor of ``shape`` that broadcasts to ``out``.

    ``row`` is the flat leading index into ``out``; both leave out the last dimension.
    """
    padded = (1,) * (len(out) - len(shape)) + shape
    lead, lead_out = padded[:-1], out[:-1]
    if all(size == 1 for size in lead):
        return index(0)
    if lead == lead_out:
        return row
    # Merge neighbours that broadcast alike, so that few divisions remain.
    sizes: list[int] = []
    kept: list[bool] = []
    for size, whole in zip(lead, lead_out, strict=True):
        if whole == 1:
            continue
        if kept and kept[-1] == (size != 1):
            sizes[-1] *= whole
        else:
            sizes.append(whole)
            kept.append(size != 1)
    coordinates = unravel(row, sizes)
    flat: Expr = index(0)
    for size, keep, coordinate in zip(sizes, kept, coordinates, strict=True):
        if keep:
            flat = flat * index(size) + coordinate
    return flat

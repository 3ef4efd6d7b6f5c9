"""The constant side of a contraction: packed weights, and what turns sums into results.

Sums start from the bias. Integer: for x = (q - z) * s the sum over taps of (q - z) * w is the
sum of q * w plus a constant, so sums start from bias - z * sum(w); a tap that the border of the
image cuts off has no q, and gets z * sum(w of the tap) back. The result is ``sum * factor`` in
float32 (requantization.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.blocks import Blocks, pack, padded_width
from deepseek_edge.backends.tvm.schedules.dot import LONGEST_SUM, Unit, contraction_unit, float_unit
from deepseek_edge.backends.tvm.schedules.functions import converted
from deepseek_edge.backends.tvm.schedules.kernel import Buffer, Expr, load, rounded
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target

INTEGER = ("IntegerConv", "IntegerMatMul")


def unit_of(node: Node, target: Target, depth: int, rows: int) -> Unit:
    """The multiply-accumulate unit of a contraction node; see ``contraction_unit``."""
    return contraction_unit(target, depth, rows) if node.op in INTEGER else float_unit(target)


@dataclass
class Weights:
    """Packed weights of all groups.

    Attributes:
        depth: k of one tap, padded to the unit's group.
        packed: (group, block, tap, k / unit.group, width, unit.group), flat.
        lines: the same with the columns of a filter row as one tap, for images with so few
            channels that padding each tap would cost more than keeping the weights twice; or None.
        line: k of such a tap, padded.
        start: (group, padded columns): what sums start from, or None for zero.
        border: (group, kernel_h, kernel_w, padded columns) int32: what a missing tap gives back;
            None if that is nothing, or no tap can be missing.
        factor, offset: (group * columns) float32, of integer contractions.
    """

    unit: Unit
    depth: int
    padded: int
    packed: Value
    lines: Value | None = None
    line: int = 0
    start: Value | None = None
    border: Value | None = None
    factor: Value | None = None
    offset: Value | None = None
    buffers: dict[str, Buffer] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Value]:
        """What the kernel takes for this part, in order."""
        return [value for _, value in self._named()]

    def _named(self) -> list[tuple[str, Value]]:
        names = ("packed", "lines", "start", "border", "factor", "offset")
        named = [(name, getattr(self, name)) for name in names]
        return [(name, value) for name, value in named if value is not None]

    def attach(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Take this part's buffers from the front; returns the others."""
        names = [name for name, _ in self._named()]
        self.buffers = dict(zip(names, buffers, strict=False))
        return list(buffers[len(names) :])

    def result(self, total: Expr, column: Expr, lanes: int) -> Expr:
        """The float result of a sum, for ``lanes`` channels from ``column``."""
        if not self.unit.is_integer:
            return total
        return scaled(total, self.buffers, column, lanes)


def scaled(total: Expr, tables: Mapping[str, Buffer], column: Expr, lanes: int) -> Expr:
    """An integer layer's float result: ``total`` times "factor" plus, if there is one, "offset"."""
    value = rounded(
        converted(total, lanes, "float32") * load(tables["factor"], column, lanes), lanes
    )
    return value + load(tables["offset"], column, lanes) if "offset" in tables else value


def filters_of(node: Node) -> Array:
    """The constant weights of a Conv node, (out, in/group, kh, kw); a kernel of one axis has kh 1.

    Raises:
        UnsupportedError: weights, or what else it is given, aren't constant.
    """
    weights = node.value(1).data
    if weights is None or any(v is not None and v.data is None for v in node.inputs[2:]):
        raise UnsupportedError(f"Conv (node {node.source!r}) has weights that aren't constant")
    return weights[:, :, None, :] if weights.ndim == 3 else weights


def prepare(
    node: Node,
    target: Target,
    taps: Array,
    blocks: Blocks,
    rows: int,
    *,
    can_miss: bool = False,
    has_lines: bool = False,
) -> Weights:
    """Pack the weights of a contraction.

    Args:
        node: Conv or MatMul, or an integer one.
        target: whose multiply-accumulate unit reads them.
        taps: (group, kernel_h, kernel_w, k, columns).
        blocks: how columns are cut.
        rows: those that share a register tile's weights, of one of the batch's items.
        can_miss: some output pixels miss taps at the border of the image.
        has_lines: all channels of neighbouring taps lie end to end in the image.

    Raises:
        UnsupportedError: int32 sums could overflow.
    """
    groups, columns = taps.shape[0], taps.shape[4]
    unit, padded = unit_of(node, target, taps.shape[3], rows), padded_width(blocks)
    name = node.source or node.output.name
    found = Weights(
        unit,
        depth=_padded(taps.shape[3], unit),
        padded=padded,
        packed=constant(f"{name}/packed", _pack_taps(taps, blocks, unit)),
    )
    if has_lines and not unit.paired and taps.shape[3] % unit.group:
        found.line = _padded(taps.shape[2] * taps.shape[3], unit)
        whole = taps.reshape(groups, taps.shape[1], 1, -1, columns)
        found.lines = constant(f"{name}/lines", _pack_taps(whole, blocks, unit))
    if unit.is_integer:
        first, missing = zero_point_sums(node, taps)
        found.start = _table(f"{name}/start", first, padded)
        found.border = _table(f"{name}/border", missing, padded) if can_miss else None
        found.factor, found.offset = node.value(2), node.optional(4)
    elif (bias := node.optional(2)) is not None and bias.data is not None:
        found.start = _table(f"{name}/bias", bias.data.reshape(groups, columns), padded)
    return found


def _pack_taps(taps: Array, blocks: Blocks, unit: Unit) -> Array:
    """Weights (group, kernel_h, kernel_w, k, columns) as the unit reads them, k padded."""
    groups, _, _, depth, columns = taps.shape
    taps = np.pad(taps, [(0, 0)] * 3 + [(0, _padded(depth, unit) - depth), (0, 0)])
    flat = taps.reshape(groups, -1, columns)
    return np.concatenate([pack(matrix, blocks, unit) for matrix in flat])


def _table(name: str, table: Array, padded: int) -> Value | None:
    """Numbers (..., columns), padded and flat; None if all are zero."""
    if not table.any():
        return None
    room = [(0, 0)] * (table.ndim - 1) + [(0, padded - table.shape[-1])]
    return constant(name, np.pad(table, room).reshape(-1))


def _padded(depth: int, unit: Unit) -> int:
    return depth + -depth % unit.group


def zero_point_sums(node: Node, taps: Array) -> tuple[Array, Array]:
    """What integer sums start from, (group, columns), and what missing taps give back.

    Args:
        node: an integer Conv or MatMul.
        taps: (group, kernel_h, kernel_w, k, columns).

    Raises:
        UnsupportedError: int32 sums could overflow.
    """
    products = int(np.prod(taps.shape[1:4]))
    if products > LONGEST_SUM:
        raise UnsupportedError(
            f"{node.op} (node {node.source!r}): {products} products may overflow int32",
            hint=f"at most {LONGEST_SUM} are summed exactly; keep this layer in float",
        )
    sums = taps.astype(np.int64).sum(axis=3) * int(node.attrs["zero_point"])
    first = -sums.sum(axis=(1, 2))
    bias = node.optional(3)
    if bias is not None and bias.data is not None:
        first += bias.data.reshape(first.shape)
    return first.astype(np.int32), sums.astype(np.int32)

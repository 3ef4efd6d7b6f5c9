"""Reductions, softmax, layer normalization on a GPU: a team of threads a row, warps a column."""

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.launch import Launch
from deepseek_edge.backends.tvm.cuda.threads import (
    COLUMN_WARPS,
    Team,
    Tensor,
    launch_columns,
    launch_rows,
    launch_threads,
    load_number,
    number_type,
)
from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.schedules.functions import converted, exp, fconst, log
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    index,
    load,
    local,
    loop,
    once,
    store,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div
from deepseek_edge.backends.tvm.schedules.reduction import COMBINE, mean_and_scale, start_of

Tensors = Sequence[Tensor]
_FUNCTION = {
    "ReduceMean": "sum",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "product",
}
_MANY = 64  # elements of a column from which several warps share it


def reduce(node: Node, fusion: DeviceFusion) -> Launch:
    """Sum, mean, max, min or product over neighbouring axes (layout.py sees to that)."""
    shape, axes = node.value(0).shape, node.attrs["axes"]
    count = int(np.prod(shape[axes[0] : axes[-1] + 1]))
    inner = int(np.prod(shape[axes[-1] + 1 :]))
    dtype = number_type(node.output)
    if inner == 1 and dtype == "float32":
        return _reduce_rows(node, fusion, count)

    if count >= _MANY:
        return _reduce_columns(node, fusion, (node.output.elements // inner, count, inner))

    def body(tensors: Tensors, number: Expr) -> None:
        source, *rest = tensors
        fusion.take(rest)
        outer = tirx.indexdiv(number, index(inner))
        base = bind(outer * index(count * inner) + tirx.indexmod(number, index(inner)))
        total = local(dtype, 1)
        store(total, 0, 1, start_of(node.op, dtype, 1))
        with loop(count) as r:
            value = load_number(node, source, base + r * index(inner), scaled=False)
            store(total, 0, 1, COMBINE[node.op](load(total, 0, 1), value))
        fusion.finish_flat(once(mean_and_scale(node, load(total, 0, 1), count, 1)), number)

    tensors = [node.value(0), *fusion.tensors]
    outputs = node.output.elements
    return launch_threads(tensors, outputs, body, work=outputs * count)


def _reduce_columns(node: Node, fusion: DeviceFusion, sizes: tuple[int, int, int]) -> Launch:
    """Neighbouring threads read neighbouring columns; the warps' results are combined in order."""
    _, count, inner = sizes
    dtype, combine = number_type(node.output), COMBINE[node.op]

    def body(tensors: Tensors, number: Expr, warp: Expr, gather: Callable[[Expr], Expr]) -> None:
        source, *rest = tensors
        fusion.take(rest)
        total = local(dtype, 1)
        store(total, 0, 1, start_of(node.op, dtype, 1))
        with when(number >= index(0)), loop(ceil_div(count, COLUMN_WARPS)) as step:
            r = bind(step * index(COLUMN_WARPS) + warp)
            with when(r < index(count)):
                outer = tirx.indexdiv(number, index(inner)) * index(count * inner)
                at = bind(outer + r * index(inner) + tirx.indexmod(number, index(inner)))
                value = load_number(node, source, at, scaled=False)
                store(total, 0, 1, combine(load(total, 0, 1), value))
        of_warp = gather(load(total, 0, 1))
        with when(tirx.And(tirx.EQ(warp, index(0)), number >= index(0))):
            for other in range(1, COLUMN_WARPS):
                store(total, 0, 1, combine(load(total, 0, 1), of_warp(other)))
            result = once(mean_and_scale(node, load(total, 0, 1), count, 1))
            fusion.finish_flat(result, number)

    tensors = [node.value(0), *fusion.tensors]
    work = node.output.elements * count
    return launch_columns(tensors, sizes, body, dtype=dtype, work=work)


def _reduce_rows(node: Node, fusion: DeviceFusion, count: int) -> Launch:
    def body(tensors: Tensors, row: Expr, team: Team) -> None:
        source, *rest = tensors
        fusion.take(rest)
        base = bind(row * index(count))
        total = _fold(
            count,
            team,
            node.op,
            lambda at: load_number(node, source, base + at, scaled=False),
        )
        with when(tirx.EQ(team.member, index(0))):
            fusion.finish_flat(once(mean_and_scale(node, total, count, 1)), row)

    tensors = [node.value(0), *fusion.tensors]
    rows = node.output.elements
    return launch_rows(tensors, rows, count, body, work=rows * count)


def _fold(count: int, team: Team, op: str, value: Callable[[Expr], Expr]) -> Expr:
    """Combine float32 ``value(at)`` over [0, count) to one number that all of a team get."""
    # A float32 sum in another order than the CPU's may fall to the other side of a rounding to
    # int8; one in float64 is the nearest float32, as near as any order comes.
    kind = "float64" if _FUNCTION[op] == "sum" else "float32"
    total = local(kind, 1)
    store(total, 0, 1, start_of(op, kind, 1))
    team.over_row(
        count,
        lambda at: store(
            total, 0, 1, COMBINE[op](load(total, 0, 1), converted(value(at), 1, kind))
        ),
    )
    return team.combined(_FUNCTION[op], load(total, 0, 1))


def softmax(node: Node, fusion: DeviceFusion) -> Launch:
    """Softmax and LogSoftmax over the last axis (layout.py sees to that)."""
    count = node.value(0).shape[-1]
    rows = node.output.elements // count
    is_log = node.op == "LogSoftmax"

    def body(tensors: Tensors, row: Expr, team: Team) -> None:
        source, *rest = tensors
        fusion.take(rest)
        base = bind(row * index(count))

        def number(at: Expr) -> Expr:
            return once(load_number(node, source, base + at))

        peak = _fold(count, team, "ReduceMax", number)
        total = _fold(count, team, "ReduceSum", lambda at: exp(number(at) - peak, 1))
        shift = once(peak + log(total, 1) if is_log else fconst(1.0, 1) / total)

        def write(at: Expr) -> None:
            x = number(at)
            fusion.finish(x - shift if is_log else exp(x - peak, 1) * shift, row, at, 1)

        team.over_row(count, write)

    tensors = [node.value(0), *fusion.tensors]
    return launch_rows(tensors, rows, count, body, work=rows * count * 24)


def layer_norm(node: Node, fusion: DeviceFusion) -> Launch:
    """LayerNormalization over the last axis: two passes, as stable as the definition."""
    count = node.value(0).shape[-1]
    rows = node.output.elements // count
    scale, shift = node.value(1), node.optional(2)
    extra = [scale] if shift is None else [scale, shift]

    def body(tensors: Tensors, row: Expr, team: Team) -> None:
        source, gamma, *rest = tensors
        fusion.take(rest[len(extra) - 1 :])
        base = bind(row * index(count))

        def number(at: Expr) -> Expr:
            return load_number(node, source, base + at)

        mean = once(_fold(count, team, "ReduceSum", number) * fconst(1 / count, 1))

        def square(at: Expr) -> Expr:
            x = once(number(at) - mean)
            return x * x

        variance = _fold(count, team, "ReduceSum", square) * fconst(1 / count, 1)
        epsilon = fconst(node.attrs.get("epsilon", 1e-5), 1)
        share = once(fconst(1.0, 1) / tirx.sqrt(variance + epsilon))

        def write(at: Expr) -> None:
            value = (number(at) - mean) * share * gamma.load(at)
            fusion.finish(value + rest[0].load(at) if shift is not None else value, row, at, 1)

        team.over_row(count, write)

    tensors = [node.value(0), *extra, *fusion.tensors]
    return launch_rows(tensors, rows, count, body, work=rows * count * 4)


def extreme_place(node: Node) -> Launch:
    """ArgMax and ArgMin over neighbouring axes: a thread is one output element."""
    x, out, axes = node.value(0), node.output, node.attrs["axes"]
    count = int(np.prod(x.shape[axes[0] : axes[-1] + 1]))
    inner = int(np.prod(x.shape[axes[-1] + 1 :]))
    takes_last, is_max = bool(node.attrs.get("select_last_index")), node.op == "ArgMax"
    dtype = number_type(x)

    def body(tensors: Tensors, number: Expr) -> None:
        source, places = tensors
        outer = tirx.indexdiv(number, index(inner))
        base = bind(outer * index(count * inner) + tirx.indexmod(number, index(inner)))
        best, place = local(dtype, 1), local("int64", 1)
        store(best, 0, 1, source.load(base))
        store(place, 0, 1, index(0))
        with loop(count - 1, 1) as at:
            value = once(source.load(base + at * index(inner)))
            known = load(best, 0, 1)
            if takes_last:
                beats = value >= known if is_max else value <= known
            else:
                beats = value > known if is_max else value < known
            with when(beats):
                store(best, 0, 1, value)
                store(place, 0, 1, at)
        places.store(number, load(place, 0, 1))

    return launch_threads([x, out], out.elements, body, work=out.elements * count)

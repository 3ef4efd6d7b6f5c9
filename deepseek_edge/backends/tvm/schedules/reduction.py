"""Reductions, softmax and layer normalization."""

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.schedules.arithmetic import (
    apply_input_scale,
    load_float,
)
from deepseek_edge.backends.tvm.schedules.functions import exp, fconst, log
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    element_type,
    for_columns,
    highest,
    index,
    literal,
    load,
    local,
    loop,
    lowest,
    ramp,
    splat,
    store,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, ceil_div
from deepseek_edge.target import Target

Combine = Callable[[Expr, Expr], Expr]
COMBINE: dict[str, Combine] = {
    "ReduceMean": lambda a, b: a + b,
    "ReduceSum": lambda a, b: a + b,
    "ReduceMax": tirx.max,
    "ReduceMin": tirx.min,
    "ReduceProd": lambda a, b: a * b,
}
_VECTORS = 4  # independent sums of a task, to hide the adder's latency
# From so many elements on, a row has as many sums, too: each then rounds less often.
_LONG_ROW = 4096


def start_of(op: str, dtype: str, lanes: int) -> Expr:
    """What changes nothing when it is combined."""
    if op in ("ReduceMean", "ReduceSum"):
        return literal(0, dtype, lanes)
    if op == "ReduceProd":
        return literal(1, dtype, lanes)
    return lowest(dtype, lanes) if op == "ReduceMax" else highest(dtype, lanes)


def reduce(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Sum, mean, max, min or product over neighbouring axes (layout.py sees to that)."""
    shape, axes = node.value(0).shape, node.attrs["axes"]
    first, last = axes[0], axes[-1]
    count = int(np.prod(shape[first : last + 1]))
    outer = int(np.prod(shape[:first]))
    inner = shape[last + 1 :]
    if int(np.prod(inner)) > 1:
        return _reduce_columns(node, fusion, target, (outer, count, inner))
    return _reduce_rows(node, fusion, target, outer, count)


def mean_and_scale(node: Node, total: Expr, count: int, lanes: int) -> Expr:
    """The result of a sum: integers are scaled last, so that their sum is exact."""
    if node.op == "ReduceMean" and element_type(total) == "float32":
        total = total / fconst(count, lanes)
    elif node.op == "ReduceMean":
        total = tirx.truncdiv(total, literal(count, element_type(total), lanes))
    return apply_input_scale(node, total, lanes)


def _reduce_columns(
    node: Node, fusion: Fusion, target: Target, sizes: tuple[int, int, tuple[int, ...]]
) -> Lowering:
    """Vectors run over the dimensions that stay; a task is some columns of one row."""
    outer, count, inner = sizes
    dtype = node.output.dtype
    combine = COMBINE[node.op]
    columns = inner[-1]
    lead = int(np.prod(inner[:-1]))
    lanes = target.vector_bits // (8 * np.dtype(dtype).itemsize)
    width = lanes * _VECTORS
    blocks = ceil_div(columns, width)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, *rest = buffers
        fusion.attach(rest)
        block = tirx.indexmod(task, index(blocks))
        row = bind(tirx.indexdiv(task, index(blocks)))
        item, place = tirx.indexdiv(row, index(lead)), tirx.indexmod(row, index(lead))
        base = bind(item * index(count * lead * columns) + place * index(columns))

        def some(column: Expr, vectors: int, lanes: int) -> None:
            sums = local(dtype, vectors * lanes)
            for v in range(vectors):
                store(sums, v * lanes, lanes, start_of(node.op, dtype, lanes))
            with loop(count) as r:
                first = base + r * index(lead * columns) + column
                for v in range(vectors):
                    value = load_float(node, source, first + index(v * lanes), lanes, scaled=False)
                    store(sums, v * lanes, lanes, combine(load(sums, v * lanes, lanes), value))
            for v in range(vectors):
                total = load(sums, v * lanes, lanes)
                total = mean_and_scale(node, total, count, lanes)
                fusion.finish(total, row, column + index(v * lanes), lanes)

        def whole() -> None:
            some(block * index(width), _VECTORS, lanes)

        def rest_of_row() -> None:
            start = columns - columns % width
            for_columns(columns % width, lanes, lambda at, lanes: some(index(start) + at, 1, lanes))

        _choose(columns, width, blocks, block, (whole, rest_of_row))

    tensors = [node.value(0), *fusion.tensors]
    return Lowering(
        build(tensors, body), tuple(tensors), outer * lead * blocks, outer * count * lead * columns
    )


def _choose(
    columns: int,
    width: int,
    blocks: int,
    block: Expr,
    bodies: tuple[Callable[[], None], Callable[[], None]],
) -> None:
    """Emit the first body for full blocks and the second for the last, partial one."""
    whole, rest = bodies
    if columns % width == 0:
        whole()
    elif blocks == 1:
        rest()
    else:
        with when(block < index(blocks - 1)):
            whole()
        with when(block >= index(blocks - 1)):
            rest()


def _reduce_rows(node: Node, fusion: Fusion, target: Target, rows: int, count: int) -> Lowering:
    """The reduced elements lie side by side: vectors along them, then one sum of the lanes."""
    dtype = node.output.dtype
    lanes = target.vector_bits // (8 * np.dtype(dtype).itemsize)

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, *rest = buffers
        fusion.attach(rest)
        base = bind(row * index(count))
        total = fold_row(
            count,
            lanes,
            dtype=dtype,
            combine=COMBINE[node.op],
            start=start_of(node.op, dtype, 1),
            value=lambda at, width: load_float(node, source, base + at, width, scaled=False),
        )
        fusion.finish_flat(bind(mean_and_scale(node, total, count, 1)), row)

    tensors = [node.value(0), *fusion.tensors]
    return Lowering(build(tensors, body), tuple(tensors), rows, rows * count)


def fold_row(
    count: int,
    lanes: int,
    *,
    dtype: str = "float32",
    combine: Combine,
    start: Expr,
    value: Callable[[Expr, int], Expr],
) -> Expr:
    """Combine ``value(at, width)`` over [0, count) to one scalar."""
    while lanes > 1 and lanes > count:
        lanes //= 2
    vectors = _VECTORS if count >= _LONG_ROW else 1
    sums = local(dtype, vectors * lanes)
    for vector in range(vectors):
        store(sums, vector * lanes, lanes, splat(start, lanes))

    def add(at: Expr, width: int, vector: int = 0) -> None:
        part = sums[ramp(vector * lanes, width)]
        store(sums, vector * lanes, width, combine(part, value(at, width)))

    step = vectors * lanes
    done = count - count % step if vectors > 1 else 0
    if done:
        with loop(done // step) as block:
            for vector in range(vectors):
                add(block * index(step) + index(vector * lanes), lanes, vector)
    for_columns(count - done, lanes, lambda at, width: add(index(done) + at, width))
    parts = [bind(load(sums, place, 1)) for place in range(step)]
    while len(parts) > 1:  # pairwise, as exact as a sum can be
        parts = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def softmax(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """Softmax and LogSoftmax over the last axis (layout.py sees to that)."""
    count = node.value(0).shape[-1]
    rows = node.output.elements // count
    lanes = target.vector_bits // 32

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, *rest = buffers
        fusion.attach(rest)
        out = rest[-1]
        base = bind(row * index(count))
        peak = bind(
            fold_row(
                count,
                lanes,
                combine=tirx.max,
                start=lowest("float32", 1),
                value=lambda at, width: load_float(node, source, base + at, width),
            )
        )

        def powers(at: Expr, width: int) -> Expr:
            power = bind(
                exp(load_float(node, source, base + at, width) - splat(peak, width), width)
            )
            store(out, base + at, width, power)
            return power

        total = bind(_sum_row(count, lanes, powers))
        shift = bind(peak + log(total, 1) if node.op == "LogSoftmax" else fconst(1.0, 1) / total)

        def write(at: Expr, width: int) -> None:
            if node.op == "LogSoftmax":
                value = load_float(node, source, base + at, width) - splat(shift, width)
            else:
                value = load(out, base + at, width) * splat(shift, width)
            fusion.finish(value, row, at, width)

        for_columns(count, lanes, write)

    tensors = [node.value(0), *fusion.tensors]
    return Lowering(build(tensors, body), tuple(tensors), rows, rows * count * 12)


def _sum_row(count: int, lanes: int, value: Callable[[Expr, int], Expr]) -> Expr:
    return fold_row(count, lanes, combine=lambda a, b: a + b, start=fconst(0.0, 1), value=value)


def layer_norm(node: Node, fusion: Fusion, target: Target) -> Lowering:
    """LayerNormalization over the last axis: two passes, as stable as the definition."""
    count = node.value(0).shape[-1]
    rows = node.output.elements // count
    lanes = target.vector_bits // 32
    scale, shift = node.value(1), node.optional(2)

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, gamma, *rest = buffers
        beta = rest.pop(0) if shift is not None else None
        fusion.attach(rest)
        base = bind(row * index(count))

        def total(value: Callable[[Expr, int], Expr]) -> Expr:
            return _sum_row(count, lanes, value)

        mean = bind(
            total(lambda at, n: load_float(node, source, base + at, n)) * fconst(1 / count, 1)
        )

        def centred(at: Expr, width: int) -> Expr:
            return bind(load_float(node, source, base + at, width) - splat(mean, width))

        def square(at: Expr, width: int) -> Expr:
            x = centred(at, width)
            return x * x

        variance = total(square) * fconst(1 / count, 1)
        epsilon = fconst(node.attrs.get("epsilon", 1e-5), 1)
        share = bind(fconst(1.0, 1) / tirx.sqrt(variance + epsilon))

        def write(at: Expr, width: int) -> None:
            value = centred(at, width) * splat(share, width) * load(gamma, at, width)
            if beta is not None:
                value = value + load(beta, at, width)
            fusion.finish(value, row, at, width)

        for_columns(count, lanes, write)

    extra = [scale] if shift is None else [scale, shift]
    tensors = [node.value(0), *extra, *fusion.tensors]
    return Lowering(build(tensors, body), tuple(tensors), rows, rows * count * 4)


def extreme_place(node: Node, target: Target) -> Lowering:
    """ArgMax and ArgMin over neighbouring axes: a task is one output element."""
    x, out, axes = node.value(0), node.output, node.attrs["axes"]
    count = int(np.prod(x.shape[axes[0] : axes[-1] + 1]))
    inner = int(np.prod(x.shape[axes[-1] + 1 :]))
    takes_last = bool(node.attrs.get("select_last_index"))
    is_max = node.op == "ArgMax"
    del target

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, places = buffers
        base = bind(
            tirx.indexdiv(task, index(inner)) * index(count * inner)
            + tirx.indexmod(task, index(inner))
        )
        best, place = local(x.dtype, 1), local("int64", 1)
        store(best, 0, 1, load(source, base, 1))
        store(place, 0, 1, index(0))
        with loop(count - 1, 1) as at:
            value = bind(load(source, base + at * index(inner), 1))
            known = load(best, 0, 1)
            if takes_last:
                beats = value >= known if is_max else value <= known
            else:
                beats = value > known if is_max else value < known
            with when(beats):
                store(best, 0, 1, value)
                store(place, 0, 1, at)
        store(places, task, 1, load(place, 0, 1))

    tensors = [x, out]
    return Lowering(build(tensors, body), tuple(tensors), out.elements, out.elements * count)

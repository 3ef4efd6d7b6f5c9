"""Operators that move data: transpose, concatenate, slice, pad, gather."""

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.kernel import (
    MEMORY_TYPE,
    Buffer,
    Expr,
    bind,
    build,
    for_columns,
    index,
    literal,
    load,
    loop,
    otherwise,
    store,
    unravel,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target


def _lanes(value: Value, target: Target) -> int:
    return max(1, target.vector_bits // (8 * np.dtype(value.dtype).itemsize))


def strides_of(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each axis."""
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def flat_index(coordinates: Sequence[Expr], strides: Sequence[int]) -> Expr:
    """The flat index of coordinates."""
    total: Expr = index(0)
    for coordinate, stride in zip(coordinates, strides, strict=True):
        total = total + coordinate * index(stride)
    return total


def _copy(
    source: Buffer, source_base: Expr, out: Buffer, out_base: Expr, *, length: int, lanes: int
) -> None:
    for_columns(
        length,
        lanes,
        lambda at, width: store(out, out_base + at, width, load(source, source_base + at, width)),
    )


def _finish(
    tensors: list[Value], tasks: int, body: Callable[[Sequence[Buffer], Expr], None]
) -> Lowering:
    return Lowering(build(tensors, body), tuple(tensors), max(tasks, 1), 0)


def transpose(node: Node, target: Target) -> Lowering:
    """A task is one row of the output."""
    x, out = node.value(0), node.output
    shape, strides = merge_axes(x.shape, node.attrs["perm"])
    columns, step = shape[-1], strides[-1]
    lanes = _lanes(x, target)

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, target_buffer = buffers
        base = bind(flat_index(unravel(row, shape[:-1]), strides[:-1]))
        if step == 1:
            _copy(source, base, target_buffer, row * index(columns), length=columns, lanes=lanes)
            return
        with loop(columns) as column:
            store(
                target_buffer,
                row * index(columns) + column,
                1,
                load(source, base + column * index(step), 1),
            )

    return _finish([x, out], out.elements // columns, body)


def merge_axes(shape: tuple[int, ...], perm: Sequence[int]) -> tuple[list[int], list[int]]:
    """Output sizes and input strides, neighbours that stay neighbours joined."""
    strides = strides_of(shape)
    sizes: list[int] = []
    steps: list[int] = []
    for axis in perm:
        if shape[axis] == 1:
            continue
        if steps and steps[-1] == strides[axis] * shape[axis]:
            sizes[-1] *= shape[axis]
            steps[-1] = strides[axis]
        else:
            sizes.append(shape[axis])
            steps.append(strides[axis])
    return sizes or [1], steps or [1]


def concat(node: Node, target: Target) -> Lowering:
    """A task copies one run of every input."""
    values = [value for value in node.inputs if value is not None and value.elements]
    out = node.output
    axis = node.attrs["axis"] % len(out.shape)
    outer = int(np.prod(out.shape[:axis]))
    runs = [value.elements // outer for value in values]
    lanes = _lanes(out, target)

    def body(buffers: Sequence[Buffer], item: Expr) -> None:
        *sources, target_buffer = buffers
        start = 0
        for source, run in zip(sources, runs, strict=True):
            _copy(
                source,
                item * index(run),
                target_buffer,
                bind(item * index(sum(runs)) + index(start)),
                length=run,
                lanes=lanes,
            )
            start += run

    return _finish([*values, out], outer, body)


def slice_(node: Node, target: Target) -> Lowering:
    """A task is one row of the output."""
    x, out = node.value(0), node.output
    origin, steps = walk(node)
    columns = out.shape[-1]
    lanes = _lanes(x, target)

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, target_buffer = buffers
        base = bind(flat_index(unravel(row, out.shape[:-1]), steps[:-1]) + index(origin))
        if steps[-1] == 1:
            _copy(source, base, target_buffer, row * index(columns), length=columns, lanes=lanes)
            return
        with loop(columns) as column:
            store(
                target_buffer,
                row * index(columns) + column,
                1,
                load(source, base + column * index(steps[-1]), 1),
            )

    return _finish([x, out], out.elements // columns, body)


def walk(node: Node) -> tuple[int, list[int]]:
    """Where a Slice starts in its input, and the distance of its neighbours along each axis."""
    x = node.value(0)
    rank = len(x.shape)
    starts, steps = [0] * rank, [1] * rank
    for axis, start, step in zip(
        node.attrs["axes"], node.attrs["starts"], node.attrs["steps"], strict=True
    ):
        starts[axis], steps[axis] = start, step
    strides = strides_of(x.shape)
    origin = sum(s * stride for s, stride in zip(starts, strides, strict=True))
    return origin, [step * stride for step, stride in zip(steps, strides, strict=True)]


def pad(node: Node, target: Target) -> Lowering:
    """Every output coordinate looks its input coordinate up; -1 stands for the fill value."""
    x, out = node.value(0), node.output
    begin, fill = padding(node)
    mode = node.attrs.get("mode", "constant")
    rank = len(x.shape)
    sources = [
        pad_sources(size, whole, start, mode)
        for size, whole, start in zip(x.shape, out.shape, begin, strict=True)
    ]
    table = constant(f"{node.source}/sources", np.concatenate(sources))
    offsets = np.cumsum([0, *out.shape])
    strides, columns = strides_of(x.shape), out.shape[-1]
    dtype = MEMORY_TYPE.get(x.dtype, x.dtype)
    del target

    def body(buffers: Sequence[Buffer], row: Expr) -> None:
        source, places, target_buffer = buffers
        lead = [
            bind(load(places, coordinate + index(int(offset)), 1))
            for coordinate, offset in zip(unravel(row, out.shape[:-1]), offsets, strict=False)
        ]
        base = bind(flat_index(lead, strides[:-1]))
        inside: Expr = tirx.const(True, "bool")
        for place in lead:
            inside = tirx.And(inside, place >= index(0))
        inside = bind(inside)
        with loop(columns) as column:
            place = bind(load(places, column + index(int(offsets[rank - 1])), 1))
            found = bind(tirx.And(inside, place >= index(0)))
            at = row * index(columns) + column
            with when(found):
                store(target_buffer, at, 1, load(source, base + place, 1))
            with otherwise(found):
                store(target_buffer, at, 1, literal(fill, dtype, 1))

    return _finish([x, table, out], out.elements // columns, body)


def padding(node: Node) -> tuple[list[int], float | int | bool]:
    """What a Pad puts before each axis, and the value that it fills with.

    Raises:
        UnsupportedError: either isn't constant, or not for all axes.
    """
    amounts, fill = node.optional(1), node.optional(2)
    if amounts is None or amounts.data is None or node.optional(3) is not None:
        raise UnsupportedError(
            f"Pad (node {node.source!r}): amounts must be constant, for all axes"
        )
    if fill is not None and fill.data is None:
        raise UnsupportedError(f"Pad (node {node.source!r}): its fill value depends on data")
    begin = [int(v) for v in amounts.data[: len(node.value(0).shape)]]
    return begin, fill.data.item() if fill is not None and fill.data is not None else 0


def pad_sources(size: int, whole: int, start: int, mode: str) -> Array:
    """For each coordinate of a padded axis that of the input, or -1: (whole,) int64."""
    places = np.arange(whole) - start
    if mode == "edge":
        places = np.clip(places, 0, size - 1)
    elif mode == "reflect":
        period = max(2 * (size - 1), 1)
        places = np.abs((places + size - 1) % period - (size - 1))
    elif mode == "wrap":
        places = places % size
    else:
        places = np.where((places >= 0) & (places < size), places, -1)
    return places.astype(np.int64)


def gather(node: Node, target: Target) -> Lowering:
    """A task copies one run; indices out of range are clamped, so that none reads outside."""
    x, where, out = node.value(0), node.value(1), node.output
    axis = node.attrs.get("axis", 0) % len(x.shape)
    size = x.shape[axis]
    run = int(np.prod(x.shape[axis + 1 :]))
    outer = int(np.prod(x.shape[:axis]))
    count = where.elements
    lanes = _lanes(x, target)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        source, wanted, target_buffer = buffers
        item = tirx.indexdiv(task, index(count))
        place = bind(tirx.Cast("int64", load(wanted, tirx.indexmod(task, index(count)), 1)))
        place = tirx.Select(place < index(0), place + index(size), place)
        place = bind(tirx.min(tirx.max(place, index(0)), index(size - 1)))
        base = bind((item * index(size) + place) * index(run))
        _copy(source, base, target_buffer, bind(task * index(run)), length=run, lanes=lanes)

    return _finish([x, where, out], outer * count, body)

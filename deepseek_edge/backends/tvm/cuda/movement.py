"""Operators that move data, on a GPU: a thread for each element of the result."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.cuda.launch import Launch
from deepseek_edge.backends.tvm.cuda.threads import Tensor, launch_threads, number_type
from deepseek_edge.backends.tvm.graph import Node, constant
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    index,
    literal,
    otherwise,
    unravel,
    when,
)
from deepseek_edge.backends.tvm.schedules.movement import (
    flat_index,
    merge_axes,
    pad_sources,
    padding,
    strides_of,
    walk,
)

Tensors = Sequence[Tensor]


def transpose(node: Node) -> Launch:
    """Neighbouring threads write neighbours."""
    x, out = node.value(0), node.output
    shape, strides = merge_axes(x.shape, node.attrs["perm"])

    def body(tensors: Tensors, number: Expr) -> None:
        source, target = tensors
        target.store(number, source.load(bind(flat_index(unravel(number, shape), strides))))

    return launch_threads([x, out], out.elements, body)


def slice_(node: Node) -> Launch:
    """Any starts and steps."""
    x, out = node.value(0), node.output
    origin, steps = walk(node)

    def body(tensors: Tensors, number: Expr) -> None:
        source, target = tensors
        at = bind(flat_index(unravel(number, out.shape), steps) + index(origin))
        target.store(number, source.load(at))

    return launch_threads([x, out], out.elements, body)


def concat(node: Node) -> Launch:
    """A run of every input, one after the other."""
    values = [value for value in node.inputs if value is not None and value.elements]
    out = node.output
    axis = node.attrs["axis"] % len(out.shape)
    outer = int(np.prod(out.shape[:axis]))
    runs = [value.elements // outer for value in values]

    def body(tensors: Tensors, number: Expr) -> None:
        *sources, target = tensors
        item = bind(tirx.indexdiv(number, index(sum(runs))))
        place = bind(tirx.indexmod(number, index(sum(runs))))
        start = 0
        for source, run in zip(sources, runs, strict=True):
            inside = tirx.And(place >= index(start), place < index(start + run))
            with when(inside):
                at = bind(item * index(run) + place - index(start))
                target.store(number, source.load(at))
            start += run

    return launch_threads([*values, out], out.elements, body)


def pad(node: Node) -> Launch:
    """Every output coordinate looks its input coordinate up; -1 stands for the fill value."""
    x, out = node.value(0), node.output
    begin, fill = padding(node)
    mode = node.attrs.get("mode", "constant")
    table = constant(
        f"{node.source}/sources",
        np.concatenate(
            [
                pad_sources(size, whole, start, mode)
                for size, whole, start in zip(x.shape, out.shape, begin, strict=True)
            ]
        ),
    )
    offsets, strides = np.cumsum([0, *out.shape]), strides_of(x.shape)

    def body(tensors: Tensors, number: Expr) -> None:
        source, places, target = tensors
        found = [
            bind(places.load(coordinate + index(int(offset))))
            for coordinate, offset in zip(unravel(number, out.shape), offsets, strict=False)
        ]
        inside: Expr = tirx.const(True, "bool")
        for place in found:
            inside = tirx.And(inside, place >= index(0))
        inside = bind(inside)
        with when(inside):
            target.store(number, source.load(bind(flat_index(found, strides))))
        with otherwise(inside):
            kind = "int8" if x.dtype == "bool" else number_type(x)
            target.store(number, literal(fill, kind, 1))

    return launch_threads([x, table, out], out.elements, body)


def gather(node: Node) -> Launch:
    """Indices out of range are clamped, so that none reads outside."""
    x, where, out = node.value(0), node.value(1), node.output
    axis = node.attrs.get("axis", 0) % len(x.shape)
    size = x.shape[axis]
    run, count = int(np.prod(x.shape[axis + 1 :])), where.elements

    def body(tensors: Tensors, number: Expr) -> None:
        source, wanted, target = tensors
        task = bind(tirx.indexdiv(number, index(run)))
        item = tirx.indexdiv(task, index(count))
        place = bind(tirx.Cast("int64", wanted.load(tirx.indexmod(task, index(count)))))
        place = bind(tirx.Select(place < index(0), place + index(size), place))
        place = bind(tirx.min(tirx.max(place, index(0)), index(size - 1)))
        base = (item * index(size) + place) * index(run)
        target.store(number, source.load(bind(base + tirx.indexmod(number, index(run)))))

    return launch_threads([x, where, out], out.elements, body)


def pack(node: Node) -> Launch:
    """NHWC with channels filled up, of NHWC or NCHW (rewrite.py): a thread a channel."""
    x, out = node.value(0), node.output
    height, width, channels = out.shape[1:]
    has_first, fill = node.attrs["channels_first"], node.attrs["fill"]
    given = x.shape[1] if has_first else x.shape[3]

    def body(tensors: Tensors, number: Expr) -> None:
        source, target = tensors
        pixel = bind(tirx.indexdiv(number, index(channels)))
        channel = bind(tirx.indexmod(number, index(channels)))
        at = pixel * index(given) + channel
        if has_first:
            item = tirx.indexdiv(pixel, index(height * width))
            place = tirx.indexmod(pixel, index(height * width))
            at = (item * index(given) + channel) * index(height * width) + place
        exists = channel < index(given)
        with when(exists):
            target.store(number, source.load(bind(at)))
        with otherwise(exists):
            target.store(number, literal(fill, number_type(out), 1))

    return launch_threads([x, out], out.elements, body)

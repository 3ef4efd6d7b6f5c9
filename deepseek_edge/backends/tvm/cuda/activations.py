"""Products of two activations on a GPU: a thread a result."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.launch import Launch
from deepseek_edge.backends.tvm.cuda.threads import Tensor, launch_threads
from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules.fusion import broadcast_row
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    index,
    load,
    local,
    loop,
    rounded,
    store,
)
from deepseek_edge.backends.tvm.schedules.weights import INTEGER


def activation_product(node: Node, fusion: DeviceFusion) -> Launch:
    """(..., m, k) x (..., k, n) of two activations: a thread a result; int8 exactly."""
    a, b = node.value(0), node.value(1)
    a_shape = a.shape if len(a.shape) > 1 else (1, *a.shape)
    b_shape = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    rows, depth = a_shape[-2:]
    columns, batch = b_shape[-1], tuple(np.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
    is_integer = node.op in INTEGER
    sum_type, whole = "int32" if is_integer else "float32", (*batch, 1)
    zeros = [int(node.attrs.get(key, 0)) for key in ("zero_point", "second_zero_point")]
    extra: list[Value] = [node.value(2)] if is_integer else []  # its factor

    def factor(tensor: Tensor, at: Expr, zero: int) -> Expr:
        value = tensor.load(at)
        return tirx.Cast("int32", value) - tirx.const(zero, "int32") if is_integer else value

    def body(tensors: Sequence[Tensor], number: Expr) -> None:
        left, right, *rest = tensors
        fusion.take(rest[len(extra) :])
        row, column = (
            bind(tirx.indexdiv(number, index(columns))),
            tirx.indexmod(number, index(columns)),
        )
        item = bind(tirx.indexdiv(row, index(rows)))
        a_base = broadcast_row((*a_shape[:-2], 1), whole, item) * index(rows * depth)
        a_base = bind(a_base + tirx.indexmod(row, index(rows)) * index(depth))
        b_base = broadcast_row((*b_shape[:-2], 1), whole, item) * index(depth * columns)
        b_base = bind(b_base + column)
        total = local(sum_type, 1)
        store(total, 0, 1, tirx.const(0, sum_type))
        with loop(depth) as k:
            x = factor(left, a_base + k, zeros[0])
            y = factor(right, b_base + k * index(columns), zeros[1])
            store(total, 0, 1, load(total, 0, 1) + x * y)
        result = load(total, 0, 1)
        if is_integer:
            result = rounded(tirx.Cast("float32", result) * rest[0].load(0), 1)
        fusion.finish_flat(result, number)

    tensors = [a, b, *extra, *fusion.tensors]
    outputs = int(np.prod(batch)) * rows * columns
    return launch_threads(tensors, outputs, body, work=outputs * depth)

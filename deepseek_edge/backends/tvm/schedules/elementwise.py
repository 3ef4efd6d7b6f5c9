"""Chains of elementwise operators without an anchor."""

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.kernel import (
    Buffer,
    Expr,
    bind,
    build,
    for_columns,
    index,
    when,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering, ceil_div
from deepseek_edge.target import Target

CHUNK = 4096  # elements of one task, where a row is longer


def elementwise(fusion: Fusion, target: Target) -> Lowering:
    """Rows of the output after merging the dimensions that broadcast alike."""
    collapse(fusion)
    rows = int(np.prod(fusion.shape[:-1]))
    columns = fusion.shape[-1]
    widest = max(
        np.dtype(value.dtype).itemsize
        for node in fusion.step.followers
        for value in [*node.inputs, *node.outputs]
        if value is not None
    )
    lanes = max(1, target.vector_bits // (8 * widest))
    chunks = ceil_div(columns, CHUNK)

    def body(buffers: Sequence[Buffer], task: Expr) -> None:
        fusion.attach(buffers)
        row = bind(tirx.indexdiv(task, index(chunks))) if chunks > 1 else task
        start = bind(tirx.indexmod(task, index(chunks)) * index(CHUNK))

        def chunk(length: int) -> None:
            for_columns(
                length,
                lanes,
                lambda at, width: fusion.finish(
                    None, row, (start + at) if chunks > 1 else at, width
                ),
            )

        if columns % CHUNK == 0 or chunks == 1:
            chunk(min(columns, CHUNK))
            return
        with when(start < index((chunks - 1) * CHUNK)):
            chunk(CHUNK)
        with when(start >= index((chunks - 1) * CHUNK)):
            chunk(columns % CHUNK)

    tensors = fusion.tensors
    work = rows * columns * len(fusion.step.followers)
    return Lowering(build(tensors, body), tuple(tensors), rows * chunks, work)


def collapse(fusion: Fusion) -> None:
    """Merge neighbouring dimensions over which every operand is contiguous or broadcast."""
    out = fusion.shape
    padded = {
        value: (1,) * (len(out) - len(value.shape)) + value.shape for value in fusion.operands
    }
    sizes: list[int] = []
    merged: dict[object, list[int]] = {value: [] for value in padded}
    before: tuple[bool, ...] | None = None
    for axis, size in enumerate(out):
        if size == 1:
            continue
        pattern = tuple(shape[axis] == size for shape in padded.values())
        if pattern == before:
            sizes[-1] *= size
            for value, shape in padded.items():
                merged[value][-1] *= shape[axis]
        else:
            sizes.append(size)
            for value, shape in padded.items():
                merged[value].append(shape[axis])
        before = pattern
    fusion.shape = tuple(sizes) or (1,)
    fusion.shapes = {value: tuple(merged[value]) or (1,) for value in padded}

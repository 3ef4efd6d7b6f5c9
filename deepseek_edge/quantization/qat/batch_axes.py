"""Which axis of each tensor counts the samples.

Graphs are quantized and compiled with a batch of 1 written into their shapes. Training runs the
same graph with many samples, so shapes written as constants are read with the batch left open,
and what would mix samples is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from deepseek_edge.errors import UnsupportedError
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.placement import ELEMENTWISE
from deepseek_edge.quantization.qat.nodes import Node

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
)  # fmt: skip
_LOGIC = (
    "And", "Cast", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Mean",
    "Not", "Or", "Xor",
)  # fmt: skip
# Samples lie along the first axis of the first input.
_SAMPLES_FIRST = (
    "AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth",
)  # fmt: skip


def batch_axes(index: GraphIndex) -> dict[str, int]:
    """The axis of samples of every tensor that depends on an input.

    Args:
        index: of a graph whose inputs have a batch of 1.

    Raises:
        UnsupportedError: an operator is unknown, or a node mixes samples.
    """
    axes: dict[str, int] = {}
    for name in index.inputs:
        if index.shape(name)[:1] != (1,):
            raise UnsupportedError(
                f"input {name!r} has shape {list(index.shape(name))}: no batch of 1 comes first",
                hint="export the model with a batch of 1",
            )
        axes[name] = 0
    for proto in index.nodes:
        node = Node(proto, index, axes)
        follow = _follower(node)
        if any(name in axes for name in proto.input):
            axis = follow(node)
            axes.update({name: axis for name in proto.output if name})
    return axes


def _follower(node: Node) -> Callable[[Node], int]:
    found = _FOLLOWERS.get(node.op)
    if found is None or node.proto.domain not in ("", "ai.onnx"):
        raise node.refusal("the operator has no form for training")
    return found


def _batched(node: Node) -> list[tuple[int, int]]:
    """(place, axis) of the inputs that have samples."""
    return [
        (place, node.batch_axes[name])
        for place, name in enumerate(node.proto.input)
        if name in node.batch_axes
    ]


def _mixes(node: Node) -> UnsupportedError:
    shape = list(node.shape())
    return node.refusal(f"it mixes the samples of a batch (its input is {shape})")


def _only_first(node: Node) -> int:
    """The axis of the first input, which alone may have samples."""
    batched = _batched(node)
    if [place for place, _ in batched] != [0]:
        raise _mixes(node)
    return batched[0][1]


def _samples_first(node: Node) -> int:
    if _only_first(node) != 0 or node.attribute("transA", 0):
        raise _mixes(node)
    return 0


def _elementwise(node: Node) -> int:
    """Broadcasting aligns last axes."""
    rank = len(node.output_shape)
    found = {axis + rank - len(node.shape(place)) for place, axis in _batched(node)}
    constant = {
        name: node.index.shape(name)
        for name in node.proto.input
        if name and name not in node.batch_axes
    }
    axis = found.pop()
    if found or any(
        len(shape) >= rank - axis and shape[axis - rank] != 1 for shape in constant.values()
    ):
        raise _mixes(node)
    return axis


def _mat_mul(node: Node) -> int:
    rank = len(node.output_shape)
    ends = {place: axis - len(node.shape(place)) for place, axis in _batched(node)}
    if min(len(node.shape(0)), len(node.shape(1))) < 2:
        raise _mixes(node)
    end = next(iter(ends.values()))
    rows_only = ends == {0: -2}
    if not rows_only and (set(ends.values()) != {end} or end >= -2):
        raise _mixes(node)
    for place in {0, 1} - set(ends):  # a constant with a batch of its own
        shape = node.shape(place)
        if len(shape) >= -end and end < -2 and shape[end] != 1:
            raise _mixes(node)
    return rank + end


def _reshape(node: Node) -> int:
    """The axis of 1 with the same number of elements before it; the nearest, if there are more."""
    axis = _only_first(node)
    before, after = node.shape(), node.output_shape
    elements = math.prod(before[:axis])
    found = [
        place
        for place, size in enumerate(after)
        if size == 1 and math.prod(after[:place]) == elements
    ]
    if not found:
        raise node.refusal(f"it makes {list(after)} of {list(before)}, which has no batch")
    return min(found, key=lambda place: abs(place - axis))


def _transpose(node: Node) -> int:
    axis = _only_first(node)
    rank = len(node.shape())
    return int(list(node.attribute("perm", list(range(rank))[::-1])).index(axis))


def _along(node: Node, axis: int, default: int = -1) -> int:
    """An operator that works along one axis of its inputs."""
    if node.axis(default) == axis:
        raise _mixes(node)
    return axis


def _softmax(node: Node) -> int:
    return _along(node, _only_first(node))


def _concat(node: Node) -> int:
    axes = {axis for _, axis in _batched(node)}
    if len(axes) > 1:
        raise _mixes(node)
    rank = len(node.output_shape)
    if int(node.attribute("axis", 0)) % rank == min(axes):
        raise _mixes(node)
    return axes.pop()


def _split(node: Node) -> int:
    return _along(node, _only_first(node), 0)


def _layer_normalization(node: Node) -> int:
    axis = _only_first(node)
    if node.axis(-1) <= axis:
        raise _mixes(node)
    return axis


def _reduce(node: Node) -> int:
    axis, rank = _only_first(node), len(node.shape())
    axes = {one % rank for one in reduced_axes(node)}
    if axis in axes:
        raise _mixes(node)
    return axis if node.attribute("keepdims", 1) else axis - sum(one < axis for one in axes)


def reduced_axes(node: Node) -> list[int]:
    """The axes of a reduction: an input since opset 18, or 13 for sums; an attribute before."""
    axes = node.integers(1) if node.has(1) else node.attribute("axes", None)
    if axes:
        return list(axes)
    return [] if node.attribute("noop_with_empty_axes", 0) else list(range(len(node.shape())))


def _slice(node: Node) -> int:
    axis, rank = _only_first(node), len(node.shape())
    axes = node.integers(3) or list(range(len(node.integers(1) or [])))
    if axis in [one % rank for one in axes] and node.output_shape[axis] != 1:
        raise _mixes(node)
    return axis


def _pad(node: Node) -> int:
    axis = _only_first(node)
    if node.output_shape[axis] != 1:
        raise _mixes(node)
    return axis


def _expand(node: Node) -> int:
    axis = _only_first(node) + len(node.output_shape) - len(node.shape())
    if node.output_shape[axis] != 1:
        raise _mixes(node)
    return axis


def _gather(node: Node) -> int:
    batched, axis = _batched(node), node.axis(0)
    if len(batched) > 1:
        raise _mixes(node)
    place, of_samples = batched[0]
    if place == 1:
        return axis + of_samples
    if of_samples == axis:
        raise _mixes(node)
    return of_samples if of_samples < axis else of_samples + len(node.shape(1)) - 1


_FOLLOWERS: dict[str, Callable[[Node], int]] = {
    **dict.fromkeys(_SAMPLES_FIRST, _samples_first),
    **dict.fromkeys([*ELEMENTWISE, *_LOGIC], _elementwise),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(["LogSoftmax", "Softmax"], _softmax),
    **dict.fromkeys(["Pad", "Resize", "Tile"], _pad),
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "LayerNormalization": _layer_normalization,
    "MatMul": _mat_mul,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}

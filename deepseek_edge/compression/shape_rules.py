"""How channels pass operations that have no weights: element by element, or only moving them.

Where the user's code may have written a size as a number (``split``, ``view``), the rule assumes
that it was computed from the tensor's shape; the check of the pruned module finds out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.fx import Node

from deepseek_edge.compression.channels import Ids, first_with_channels, fixed, has_channels
from deepseek_edge.compression.flow import Call, Flow, Labels, Rule
from deepseek_edge.compression.layer_rules import align

if TYPE_CHECKING:
    from torch._ops import OpOverloadPacket


def pointwise(flow: Flow, call: Call) -> Labels:
    """Element by element, operands broadcast."""
    operands = [flow.of(node) for node in call.node.all_input_nodes]
    return align(flow, call, operands)


def same(flow: Flow, call: Call) -> Labels:
    """The first argument's labels."""
    return flow.of(call.node.args[0])


def windows(flow: Flow, call: Call) -> Labels:
    """Pooling and resizing: all axes behind the channels are worked on."""
    return _slide(flow, call, call.shape)


def windows_and_places(flow: Flow, call: Call) -> list[Labels]:
    """Pooling that also says where the values were."""
    return [_slide(flow, call, value.shape) for value in call.node.meta["val"]]


def _slide(flow: Flow, call: Call, shape: Sequence[int]) -> Labels:
    x = flow.of(call.node.args[0])
    count = int(call.op[-2])  # max_pool2d
    flow.pin(call, x, range(len(x) - count, len(x)), "a window slides over them")
    return (*x[:-count], *(fixed(size) for size in shape[-count:]))


def pad(flow: Flow, call: Call) -> Labels:
    """Constant or other padding of the last axes."""
    x = list(flow.of(call.node.args[0]))
    amounts = call["pad"] if "pad" in call.arguments else call["padding"]
    for index in range(len(amounts) // 2):
        if amounts[2 * index] or amounts[2 * index + 1]:
            axis = len(x) - 1 - index
            flow.pin(call, tuple(x), (axis,), "padding fixes their number")
            x[axis] = fixed(call.shape[axis])
    return tuple(x)


def reduction(flow: Flow, call: Call) -> Labels:
    """Sums, means and the like over some axes."""
    x = flow.of(call.node.args[0])
    dims = call.get("dim")
    chosen = range(len(x)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    axes = {axis % len(x) for axis in chosen} if x else set()
    flow.pin(call, x, tuple(axes), "they are reduced to one number")
    if call.get("keepdim"):
        return tuple(fixed(1) if axis in axes else ids for axis, ids in enumerate(x))
    return tuple(ids for axis, ids in enumerate(x) if axis not in axes)


def softmax(flow: Flow, call: Call) -> Labels:
    """Normalized along one axis."""
    x = flow.of(call.node.args[0])
    flow.pin(call, x, (call["dim"] % len(x),), "they share a sum of one")
    return x


def concatenate(flow: Flow, call: Call) -> Labels:
    """Tensors one after the other along an axis."""
    operands = [flow.of(value) for value in call["tensors"] if flow.of(value) != ()]
    operands = [labels for labels in operands if len(labels) == len(call.shape)]
    along = call["dim"] % len(call.shape)
    result = []
    for axis in range(len(call.shape)):
        parts = [labels[axis] for labels in operands]
        if axis == along:
            result.append(np.concatenate(parts))
            continue
        for ids in parts[1:]:
            flow.tie(call, parts[0], ids)
        result.append(first_with_channels(parts))
    return tuple(result)


def stack(flow: Flow, call: Call) -> Labels:
    """Tensors of one shape along a new axis."""
    joined = align(flow, call, [flow.of(value) for value in call["tensors"]])
    axis = call["dim"] % len(call.shape)
    return (*joined[:axis], fixed(call.shape[axis]), *joined[axis:])


def split(flow: Flow, call: Call) -> list[Labels]:
    """Equal pieces stay equal; of unequal ones nothing can go."""
    x = flow.of(call.node.args[0])
    axis = call["dim"] % len(x)
    sizes = [piece.shape[axis] for piece in call.node.meta["val"]]
    if len(set(sizes)) > 1:
        flow.pin(call, x, (axis,), "they are split into unequal pieces")
    pieces = np.split(x[axis], np.cumsum(sizes)[:-1])
    if has_channels(x[axis]) and len(set(sizes)) == 1:
        for piece in pieces[1:]:
            flow.tie(call, pieces[0], piece)
    return [(*x[:axis], piece, *x[axis + 1 :]) for piece in pieces]


def gated(flow: Flow, call: Call) -> Labels:
    """``glu``: the first half times the sigmoid of the second."""
    x = flow.of(call["self"])
    axis = call["dim"] % len(x)
    first, second = np.split(x[axis], 2)
    flow.tie(call, first, second)
    return (*x[:axis], first, *x[axis + 1 :])


def unbind(flow: Flow, call: Call) -> list[Labels]:
    """One tensor for each index of an axis."""
    x = flow.of(call["self"])
    axis = call["dim"] % len(x)
    flow.pin(call, x, (axis,), "each is taken by its number")
    return [(*x[:axis], *x[axis + 1 :])] * len(x[axis])


def select(flow: Flow, call: Call) -> Labels:
    """One index of an axis."""
    return unbind(flow, call)[0]


def narrow(flow: Flow, call: Call) -> Labels:
    """A slice with numbers; one that takes all keeps the channels free."""
    x = flow.of(call["self"])
    axis = call["dim"] % len(x)
    if call.shape[axis] == len(x[axis]) and call["step"] == 1:
        return x
    flow.pin(call, x, (axis,), "each is taken by its number")
    return (*x[:axis], fixed(call.shape[axis]), *x[axis + 1 :])


def item(flow: Flow, call: Call) -> Labels:
    """One of several tensors."""
    value, index = call.node.args
    assert isinstance(value, Node) and isinstance(index, int)
    several = flow.labels[value]
    assert isinstance(several, list)
    return several[index]


def permute(flow: Flow, call: Call) -> Labels:
    """Axes in another order."""
    x = flow.of(call["self"])
    order = list(range(len(x)))
    if "dims" in call.arguments:
        order = [axis % len(x) for axis in call["dims"]]
    elif "dim0" in call.arguments:
        first, second = call["dim0"] % len(x), call["dim1"] % len(x)
        order[first], order[second] = second, first
    else:
        order.reverse()  # t()
    return tuple(x[axis] for axis in order)


def expand(flow: Flow, call: Call) -> Labels:
    """Axes of one element repeated."""
    x = flow.of(call["self"])
    new = len(call.shape) - len(x)
    result = [fixed(size) for size in call.shape[:new]]
    for axis, ids in enumerate(x):
        size = call.shape[new + axis]
        if len(ids) != size:
            flow.pin(call, x, (axis,), "it is repeated")
        result.append(ids if len(ids) == size else fixed(size))
    return tuple(result)


def reshape(flow: Flow, call: Call) -> Labels:
    """Axes merged and split: ``view``, ``flatten``, ``squeeze`` and the like.

    Of channels that are split over several axes, the axis can get shorter that was asked for as
    -1, or else the last one; all others keep their size.
    """
    x, shape = flow.of(call.node.args[0]), call.shape
    asked = call.get("size") if call.get("size") is not None else call.get("shape")
    open_axes = {axis for axis, size in enumerate(asked or ()) if size == -1}
    result = [fixed(size) for size in shape]
    for old, new in _blocks([len(ids) for ids in x], shape):
        busy = [axis for axis in old if has_channels(x[axis])]
        merged = len(busy) == 1 and len(new) == 1
        if len(busy) == 1 and (merged or len(old) == 1):
            ids = _repeated(x, old, busy[0])
            if merged:
                result[new[0]] = ids
            else:
                free = next((axis for axis in new if axis in open_axes), new[-1])
                result[free] = _split(flow, call, ids, new, free)
        else:
            flow.pin(call, x, tuple(busy), "several axes are mixed")
    return tuple(result)


def _blocks(old: list[int], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of both shapes that hold the same elements; axes of size 1 are left out."""
    befores = [axis for axis, size in enumerate(old) if size != 1]
    afters = [axis for axis, size in enumerate(new) if size != 1]
    blocks = []
    while befores and afters:
        left, right = [befores.pop(0)], [afters.pop(0)]
        while (have := math.prod(old[a] for a in left)) != (
            want := math.prod(new[a] for a in right)
        ):
            if have < want:
                left.append(befores.pop(0))
            else:
                right.append(afters.pop(0))
        blocks.append((left, right))
    return blocks


def _repeated(x: Labels, axes: list[int], busy: int) -> Ids:
    """The labels of axes merged to one, of which one has channels."""
    shape = [len(x[axis]) for axis in axes]
    own = [len(x[axis]) if axis == busy else 1 for axis in axes]
    return np.broadcast_to(x[busy].reshape(own), shape).ravel()


def _split(flow: Flow, call: Call, ids: Ids, axes: list[int], free: int) -> Ids:
    """Tie the channels of an axis that is split, so that only ``free`` gets shorter."""
    grid = np.moveaxis(ids.reshape([call.shape[axis] for axis in axes]), axes.index(free), 0)
    rows = grid.reshape(call.shape[free], -1)
    flow.tie(call, rows, np.broadcast_to(rows[:, :1], rows.shape))
    return rows[:, 0]


def rules() -> dict[OpOverloadPacket, Rule]:
    """The rules of this module by operation; those that torch marks as pointwise aside."""
    aten = torch.ops.aten
    table: dict[Rule, str] = {
        pointwise: "masked_fill",
        same: "hardswish hardswish_ relu6_ dropout dropout_ feature_dropout feature_dropout_ "
        "alpha_dropout contiguous clone to _to_copy detach detach_ alias lift_fresh_copy type_as "
        "log_sigmoid zeros_like ones_like full_like empty_like rand_like randn_like",
        windows: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d",
        windows_and_places: "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
        pad: "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d "
        "replication_pad2d",
        reduction: "sum mean amax amin std var prod all any",
        softmax: "softmax log_softmax",
        concatenate: "cat concat",
        stack: "stack",
        split: "chunk split split_with_sizes",
        gated: "glu",
        unbind: "unbind",
        select: "select",
        narrow: "slice",
        permute: "permute transpose t",
        expand: "expand",
        reshape: "view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as",
    }
    return {getattr(aten, name): rule for rule, names in table.items() for name in names.split()}

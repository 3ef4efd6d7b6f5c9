"""ONNX operators that move values, and resizing, in torch; the batch stays open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepseek_edge.quantization.qat.nodes import Node

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Function = Callable[..., Any]


def movement(node: Node) -> Function | None:
    """The function of a node's data inputs, or None if it is another kind of operator."""
    built = _BUILT.get(node.op)
    return None if built is None else built(node)


def _open_shape(node: Node) -> list[int]:
    """The output's shape with -1 for samples."""
    shape, axis = list(node.output_shape), node.output_batch_axis
    if axis is not None:
        shape[axis] = -1
    return shape


def _reshape(node: Node) -> Function:
    shape = _open_shape(node)
    return lambda x: x.reshape(shape)


def _transpose(node: Node) -> Function:
    rank = len(node.shape())
    order = tuple(node.attribute("perm", list(range(rank))[::-1]))
    return lambda x: x.permute(order)


def _concat(node: Node) -> Function:
    axis, batch = int(node.attribute("axis", 0)), node.output_batch_axis
    constant = [name not in node.batch_axes for name in node.proto.input]
    if batch is None or not any(constant):
        return lambda *values: torch.cat(values, axis)
    of_samples = constant.index(False)

    def run(*values: Tensor) -> Tensor:
        samples = values[of_samples].shape[batch]
        sizes = [samples if place == batch else -1 for place in range(values[0].dim())]
        return torch.cat(
            [v.expand(sizes) if c else v for v, c in zip(values, constant, strict=True)], axis
        )

    return run


def _split(node: Node) -> Function:
    axis = node.axis(0)
    sizes = [node.index.shape(name)[axis] for name in node.proto.output]
    return lambda x: torch.split(x, sizes, axis)


def _slice(node: Node) -> Function:
    starts, ends = node.integers(1) or [], node.integers(2) or []
    rank = len(node.shape())
    axes = [one % rank for one in node.integers(3) or range(len(starts))]
    steps = node.integers(4) or [1] * len(starts)
    cuts, flipped = [slice(None)] * rank, []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis == node.output_batch_axis:
            continue  # all samples
        size = node.shape()[axis]
        places = range(size)[start:end:step]
        if step > 0:
            cuts[axis] = slice(places.start, places.stop, step)
        elif places:  # torch has no negative steps: the same places from the other end
            cuts[axis] = slice(places[-1], places[0] + 1, -step)
            flipped.append(axis)
    where = tuple(cuts)
    if flipped:
        return lambda x: x[where].flip(flipped)
    return lambda x: x[where]


def _gather(node: Node) -> Function:
    axis = node.axis(0)
    size = node.shape()[axis]

    def run(x: Tensor, places: Tensor) -> Tensor:
        places = torch.where(places < 0, places + size, places)
        found = x.index_select(axis, places.reshape(-1).to(torch.int64))
        return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])

    return run


def _expand(node: Node) -> Function:
    shape = _open_shape(node)
    return lambda x: x.expand(shape)


def _tile(node: Node) -> Function:
    repeats = node.integers(1) or []
    return lambda x: x.repeat(repeats)


_PAD_MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}


def _pad(node: Node) -> Function:
    rank = len(node.shape())
    given = node.integers(1) or []
    axes = [one % rank for one in node.integers(3) or range(rank)]
    ends = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        ends[axis] = given[place], given[place + len(axes)]
    mode = _PAD_MODES[node.attribute("mode", "constant")]
    first = next((axis for axis in range(rank) if any(ends[axis])), rank - 1)
    if mode != "constant":  # torch pads the last two axes of four like that, the last of three
        if rank not in (3, 4) or first < 2:
            raise node.refusal(f"it repeats values (mode {mode}) along axis {first} of {rank}")
        first = 2
    flat = [end for pair in reversed(ends[first:]) for end in pair]
    value = node.constant(2)
    filled = 0.0 if value is None or mode != "constant" else float(value.reshape(()))
    return lambda x: functional.pad(x, flat, mode, filled)


def _depth_to_space(node: Node) -> Function:
    block = int(node.attribute("blocksize", 1))
    column_first = node.attribute("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if column_first:
            return functional.pixel_shuffle(x, block)
        parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c // block**2, h * block, w * block)

    return run


def _space_to_depth(node: Node) -> Function:
    block = int(node.attribute("blocksize", 1))

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * block**2, h // block, w // block)

    return run


class _Resize(nn.Module):
    """Along one axis after the other: each new value from one or two old ones."""

    def __init__(self, axes: list[int], sources: list[tuple[Array, Array]]) -> None:
        super().__init__()
        self.axes = axes
        for number, (places, shares) in enumerate(sources):
            self.register_buffer(f"places_{number}", torch.from_numpy(places))
            self.register_buffer(f"shares_{number}", torch.from_numpy(shares))

    def forward(self, x: Tensor) -> Tensor:
        for number, axis in enumerate(self.axes):
            places = self.get_buffer(f"places_{number}")
            if len(places) == 1:
                x = x.index_select(axis, places[0])
                continue
            share = self.get_buffer(f"shares_{number}")
            share = share.reshape((-1,) + (1,) * (x.dim() - axis - 1))
            lower, upper = (x.index_select(axis, one) for one in places)
            x = lower * (1.0 - share) + upper * share
        return x


def _resize(node: Node) -> Function:
    import numpy as np

    before, after = node.shape(), node.output_shape
    mode = node.attribute("mode", "nearest")
    rules = {
        "antialias": 0,
        "keep_aspect_ratio_policy": "stretch",
    }
    for name, only in rules.items():
        if node.attribute(name, only) != only:
            raise node.refusal(f"its {name} is {node.attribute(name, only)}")
    if mode not in ("nearest", "linear"):
        raise node.refusal(f"its mode is {mode}; nearest and linear are supported")
    scales = node.constant(2)
    named = [one % len(before) for one in node.attribute("axes", list(range(len(before))))]
    axes, sources = [], []
    for axis in range(len(before)):
        if before[axis] == after[axis]:
            continue
        scale = np.float32(after[axis] / before[axis])
        if scales is not None and scales.size:
            scale = np.float32(scales.reshape(-1)[named.index(axis)])
        place = _coordinates(node, before[axis], after[axis], scale)
        axes.append(axis)
        sources.append(_sources(node, place, before[axis]))
    return _Resize(axes, sources)


def _coordinates(node: Node, size: int, wanted: int, scale: Any) -> Array:
    """(wanted,) float32: where along the old axis each new value lies (ONNX Resize)."""
    import numpy as np

    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    places = np.arange(wanted, dtype=np.float32)
    half = np.float32(0.5)
    if mode == "asymmetric":
        found = places / scale
    elif mode == "align_corners":
        found = places * np.float32((size - 1) / max(wanted - 1, 1))
    elif mode == "pytorch_half_pixel" and wanted == 1:
        found = np.zeros_like(places)
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        found = (places + half) / scale - half
    else:
        raise node.refusal(f"its coordinate_transformation_mode is {mode}")
    result: Array = found.astype(np.float32)
    return result


def _sources(node: Node, place: Array, size: int) -> tuple[Array, Array]:
    """(1 or 2, wanted) int64 old places, and (wanted,) the second's share."""
    import numpy as np

    half = np.float32(0.5)
    if node.attribute("mode", "nearest") == "linear":
        place = np.clip(place, 0, size - 1)
        lower = np.floor(place).astype(np.int64)
        both = np.stack([lower, np.minimum(lower + 1, size - 1)])
        return both, (place - lower).astype(np.float32)
    rounded = {
        "round_prefer_floor": np.ceil(place - half),
        "round_prefer_ceil": np.floor(place + half),
        "floor": np.floor(place),
        "ceil": np.ceil(place),
    }[node.attribute("nearest_mode", "round_prefer_floor")]
    nearest = np.clip(rounded, 0, size - 1).astype(np.int64)[None]
    return nearest, np.zeros(place.shape, np.float32)


_BUILT: dict[str, Callable[[Node], Function]] = {
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], _reshape),
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
}

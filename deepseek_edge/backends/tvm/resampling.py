"""Resize and Upsample as tables: which input elements make an output row or column, and how much.

Coordinates are computed in float32, as onnxruntime does: where a position falls on the border
between two elements, the rounding decides which one is nearest.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from deepseek_edge.backends.tvm.graph import Array, Graph, Node, Value
from deepseek_edge.backends.tvm.writer import Writer
from deepseek_edge.errors import UnsupportedError

Taps = tuple[Array, Array]  # sources (size, taps) int64, weights (size, taps) float32


def resize(graph: Graph, node: Node) -> list[Node] | None:
    """Resize and Upsample -> Resize of (batch, channels, height, width) with ``taps``."""
    del graph
    if node.op not in ("Resize", "Upsample") or "taps" in node.attrs:
        return None
    _check(node)
    x, out = node.value(0), node.output
    scales = _scales(node)
    axes = [
        axis for axis, scale in enumerate(scales) if scale != 1 or x.shape[axis] != out.shape[axis]
    ]
    if len(axes) > 2:
        raise _refused(node, f"resizes {len(axes)} dimensions; one or two are supported")
    write = Writer(node)
    if not axes:
        return write.done(x)
    others = [axis for axis in range(len(x.shape)) if axis not in axes]
    order = (*others, *axes)
    image = write.transpose(x, order)
    lead = [x.shape[axis] for axis in others] or [1]
    shape = (prod(lead[:-1]), lead[-1])
    sizes = [(x.shape[axis], out.shape[axis]) for axis in axes]
    taps = [
        axis_taps(node, before, after, scales[axis])
        for axis, (before, after) in zip(axes, sizes, strict=True)
    ]
    if len(axes) == 1:
        sizes.insert(0, (1, 1))
        taps.insert(0, (np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32)))
    if x.dtype != "float32" and "dequantize" not in node.attrs and taps[-1][0].shape[1] > 1:
        raise _refused(node, f"interpolates {x.dtype}; add a Cast to float32 before it")
    image = write.reshape(image, (*shape, sizes[0][0], sizes[1][0]))
    resized = write.add(
        "Resize",
        [image],
        (*shape, sizes[0][1], sizes[1][1]),
        dtype=out.dtype,
        **{**node.attrs, "taps": taps},
    )
    back = write.reshape(resized, tuple(out.shape[axis] for axis in order))
    return write.done(write.transpose(back, tuple(int(axis) for axis in np.argsort(order))))


def _refused(node: Node, why: str) -> UnsupportedError:
    return UnsupportedError(f"{node.op} (node {node.source!r}) {why}")


def _check(node: Node) -> None:
    for attribute in ("antialias", "exclude_outside"):
        if node.attrs.get(attribute):
            raise _refused(node, f"has {attribute} = 1")
    policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise _refused(node, f"has keep_aspect_ratio_policy {policy!r}")
    if any(v is not None and v.data is None for v in node.inputs[1:]):
        raise _refused(node, "has a size that depends on data")


def _scales(node: Node) -> list[np.float32]:
    """One a dimension: as given, else what the sizes say."""
    before, after = node.value(0).shape, node.output.shape
    scales = [np.float32(b) / np.float32(a) for a, b in zip(before, after, strict=True)]
    if node.op == "Upsample" or len(node.inputs) == 2:
        given: Value | None = node.optional(1)
    else:
        given = node.optional(2)
    values: Sequence[float] = node.attrs.get("scales", ())
    if given is not None and given.data is not None:
        values = given.data.reshape(-1).tolist()
    axes = node.attrs.get("axes") or range(len(before))
    for axis, value in zip(axes, values, strict=False):
        scales[axis] = np.float32(value)
    return scales


def axis_taps(node: Node, size: int, whole: int, scale: np.float32) -> Taps:
    """The taps along one axis of ``size`` elements, of which ``whole`` are made.

    Coordinate transformations and modes as ONNX Resize-19 defines them.
    """
    mode = node.attrs.get("mode", "nearest")
    is_old = node.op == "Upsample" or node.attrs.get("opset", 19) < 11
    transform = (
        "asymmetric" if is_old else node.attrs.get("coordinate_transformation_mode", "half_pixel")
    )
    x = _coordinates(node, transform, scale, size, whole)
    if mode == "nearest":
        rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
        if is_old:
            rounding = "floor" if scale >= 1 else "ceil"
        sources, weights = _nearest(rounding, x)[:, None], np.ones((whole, 1))
    elif mode == "linear":
        low = np.floor(x)
        sources = np.stack([low, low + 1], axis=1)
        weights = np.stack([1 - (x - low), x - low], axis=1)
    elif mode == "cubic":
        sources, weights = _cubic(x, node.attrs.get("cubic_coeff_a", -0.75))
    else:
        raise _refused(node, f"has mode {mode!r}")
    return np.clip(sources, 0, size - 1).astype(np.int64), weights.astype(np.float32)


def _coordinates(node: Node, transform: str, scale: np.float32, size: int, whole: int) -> Array:
    out = np.arange(whole, dtype=np.float32)
    half = np.float32(0.5)
    centred: Array = (out + half) / scale - half
    if transform == "asymmetric":
        centred = out / scale
    elif transform == "align_corners":
        centred = out * np.float32(size - 1) / np.float32(max(whole - 1, 1))
    elif transform == "half_pixel_symmetric":
        adjustment = np.float32(whole) / (scale * np.float32(size))
        centre = np.float32(size) / np.float32(2)
        centred = centre * (np.float32(1) - adjustment) + (out + half) / scale - half
    elif transform == "pytorch_half_pixel":
        centred = centred if whole > 1 else np.zeros(1, np.float32)
    elif transform != "half_pixel":
        raise _refused(node, f"has coordinate_transformation_mode {transform!r}")
    return centred


def _nearest(mode: str, x: Array) -> Array:
    if mode == "floor":
        rounded = np.floor(x)
    elif mode == "ceil":
        rounded = np.ceil(x)
    elif mode == "round_prefer_ceil":
        rounded = np.floor(x + np.float32(0.5))
    else:
        rounded = np.ceil(x - np.float32(0.5))
    return np.asarray(rounded)


def _cubic(x: Array, a: float) -> tuple[Array, Array]:
    """Keys' cubic convolution with parameter ``a`` over the four nearest elements."""
    low = np.floor(x)
    t = x - low

    def near(d: Array) -> Array:
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: Array) -> Array:
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    sources = np.stack([low - 1, low, low + 1, low + 2], axis=1)
    return sources, np.stack([far(1 + t), near(t), near(1 - t), far(2 - t)], axis=1)

"""Layers as products: the rows of inputs that a layer multiplies its weights with.

Whatever the layer, its weights become ``groups`` matrices (rows, k), and what they are multiplied
with are vectors of k values, so that one arithmetic rounds them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.quantization.graph import GraphIndex, attribute

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Product:
    """One layer's geometry.

    Attributes:
        op: "Conv", "ConvTranspose", "Gemm" or "MatMul".
        shape: of the weights.
        groups: of channels.
        transposed: of a Gemm: weights are (out, in).
        kernel, strides, dilations: of a convolution, by axis.
        pads: before and after, by axis.
    """

    op: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()

    @property
    def is_matrix(self) -> bool:
        """True for Gemm and MatMul."""
        return self.op in ("Gemm", "MatMul")


def product_of(index: GraphIndex, node: onnx.NodeProto) -> Product:
    """The geometry of a layer with constant weights."""
    shape = index.shape(node.input[1])
    if node.op_type in ("Gemm", "MatMul"):
        return Product(node.op_type, shape, transposed=bool(attribute(node, "transB", 0)))
    spatial = len(shape) - 2
    strides = tuple(attribute(node, "strides", [1] * spatial))
    dilations = tuple(attribute(node, "dilations", [1] * spatial))
    given = attribute(node, "pads", [0] * 2 * spatial)
    pads = tuple(zip(given[:spatial], given[spatial:], strict=True))
    automatic = attribute(node, "auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        size = index.shape(node.input[0])[2:]
        pads = tuple(
            same_pads(size[i], shape[2 + i], strides[i], dilations[i], automatic == "SAME_LOWER")
            for i in range(spatial)
        )
    groups = attribute(node, "group", 1)
    return Product(node.op_type, shape, groups, False, strides, dilations, pads)


def same_pads(size: int, kernel: int, stride: int, dilation: int, lower: bool) -> tuple[int, int]:
    """Pads before and after that ONNX's auto_pad SAME_UPPER or SAME_LOWER means."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if lower else (less, more)


def to_rows(product: Product, weights: Array) -> Array:
    """Weights as (groups, rows, k)."""
    import numpy as np

    if product.is_matrix:
        return np.asarray((weights if product.transposed else weights.T)[None])
    groups = product.groups
    if product.op == "Conv":  # (out, in / groups, *kernel)
        return np.asarray(weights.reshape(groups, weights.shape[0] // groups, -1))
    # (in, out / groups, *kernel): every tap of an output channel is a row over the inputs.
    parts = weights.reshape(groups, weights.shape[0] // groups, -1)
    return np.asarray(parts.transpose(0, 2, 1))


def from_rows(product: Product, rows: Array) -> Array:
    """Rows in the shape of the layer's weights: the inverse of ``to_rows``, contiguous."""
    import numpy as np

    if product.is_matrix:
        return np.ascontiguousarray(rows[0] if product.transposed else rows[0].T)
    if product.op == "Conv":
        return np.ascontiguousarray(rows.reshape(product.shape))
    return np.ascontiguousarray(rows.transpose(0, 2, 1).reshape(product.shape))


def merge_scales(product: Product, scales: Array) -> Array:
    """Scales of rows as the graph's scales of output channels: the largest of those that share one.

    Args:
        product: the layer.
        scales: (groups, rows).

    Returns:
        (channels,) along the weights' axis of output channels.
    """
    import numpy as np

    if product.op != "ConvTranspose":
        return scales.reshape(-1)
    merged: Array = scales.reshape(product.groups, product.shape[1], -1).max(axis=(0, 2))
    return merged.astype(np.float32)


def spread_scales(product: Product, channels: Array) -> Array:
    """Scales of output channels as scales of rows: (groups, rows)."""
    import numpy as np

    if product.op != "ConvTranspose":
        return channels.reshape(product.groups, -1)
    taps = int(np.prod(product.shape[2:]))
    return np.tile(np.repeat(channels, taps), (product.groups, 1))


def has_exact_rows(product: Product) -> bool:
    """True if ``input_rows`` can gather what the weights are multiplied with."""
    if product.op != "ConvTranspose":
        return True
    # Taps that overlap would add up several rows into one output.
    return product.strides == product.shape[2:]


def count_vectors(product: Product, x: Array) -> int:
    """How many vectors ``input_rows`` can gather from one input."""
    import numpy as np

    if product.is_matrix:
        return int(x.size // x.shape[-1])
    size = x.shape[2:] if product.op == "ConvTranspose" else output_size(product, x.shape[2:])
    return int(x.shape[0] * np.prod(size))


def output_size(product: Product, size: Sequence[int]) -> tuple[int, ...]:
    """Spatial size of a convolution's output (ONNX Conv)."""
    kernel = product.shape[2:]
    return tuple(
        (size[i] + sum(product.pads[i]) - (kernel[i] - 1) * product.dilations[i] - 1)
        // product.strides[i]
        + 1
        for i in range(len(kernel))
    )


def input_rows(product: Product, x: Array, chosen: Array) -> Array:
    """Vectors that a layer's weights are multiplied with.

    Args:
        product: the layer, with ``has_exact_rows``.
        x: its input, (..., k) for a matrix or (n, channels, *spatial).
        chosen: (vectors,) int64, which of ``count_vectors``.

    Returns:
        (groups, vectors, k) float32, k as in ``to_rows``.
    """
    import numpy as np

    if product.is_matrix:
        return x.reshape(1, -1, x.shape[-1])[:, chosen]
    groups, channels = product.groups, x.shape[1] // product.groups
    if product.op == "ConvTranspose":
        sample, *place = np.unravel_index(chosen, (x.shape[0], *x.shape[2:]))
        at: tuple[Any, ...] = (sample, slice(None), *place)
        rows = x[at]  # (vectors, channels)
        return np.asarray(rows.reshape(-1, groups, channels).transpose(1, 0, 2))
    kernel = product.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), *product.pads))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, product.dilations, strict=True)]
    windows: Array = np.lib.stride_tricks.sliding_window_view(
        padded, spans, axis=tuple(range(2, x.ndim))
    )
    size = (x.shape[0], *output_size(product, x.shape[2:]))
    sample, *place = np.unravel_index(chosen, size)
    starts = [at * stride for at, stride in zip(place, product.strides, strict=True)]
    taps = tuple(slice(None, None, dilation) for dilation in product.dilations)
    where: tuple[Any, ...] = (sample, slice(None), *starts, *taps)
    rows = windows[where]  # (vectors, channels, *kernel)
    return np.asarray(rows.reshape(len(chosen), groups, -1).transpose(1, 0, 2))

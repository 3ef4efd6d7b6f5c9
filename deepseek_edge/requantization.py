"""From int32 sums to int8: the numbers that a program and its reference must share.

For x = (q - z) s_x and w s_w, a layer's sum over (q - z) w counts steps of s_x s_w. Its bias is
rounded to such steps and added to the sum, which stays an integer. One float32 factor a channel
then gives the float result or, where nothing but bounds stands before the next quantization,
that one's steps:

    sum + round(b / (s_x s_w))  ->  * s_x s_w                              -> float result
    sum + round(b / (s_x s_w))  ->  * (s_x s_w / s_y), bounds / s_y, round  -> + z_y, saturate
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
Node = TypeVar("Node")
Bounds = tuple[float, float]

# (q - z) w in magnitude, for int8 q and z and weights in [-127, 127].
LARGEST_PRODUCT = 255 * 127


@dataclass(frozen=True)
class Requantization:
    """(sum + bias) * factor + offset, each (channels,).

    Attributes:
        bias: int64 that float32 holds exactly, or None.
        factor: float32.
        offset: float32: the bias, where it is too large for int32 sums; or None.
    """

    bias: Array | None
    factor: Array
    offset: Array | None


def requantization(
    x_scale: float, w_scales: Array, bias: Array | None, *, products: int, y_scale: float | None
) -> Requantization:
    """What follows the sums of one layer.

    Args:
        x_scale: of the layer's input.
        w_scales: (channels,) of its weights.
        bias: (channels,) float32, or None.
        products: how many products a sum has.
        y_scale: of the result's steps, or None for a float result.
    """
    steps = w_scales.astype(np.float64) * x_scale
    unit = 1.0 if y_scale is None else y_scale
    factor = (steps / unit).astype(np.float32)
    if bias is None:
        return Requantization(None, factor, None)
    with np.errstate(all="ignore"):
        # float32 must hold it: then sum + bias is rounded once, in int32 as in float32.
        rounded = np.rint((bias / steps).astype(np.float32).astype(np.float64))
    if np.all(np.abs(rounded) < 2**31 - products * LARGEST_PRODUCT):  # false for NaN
        return Requantization(rounded.astype(np.int64), factor, None)
    # A channel of tiny weights, whose result is its bias and little else.
    return Requantization(None, factor, (bias.astype(np.float64) / unit).astype(np.float32))


def in_steps(bound: float, y_scale: float) -> float:
    """A bound of the float result, in steps."""
    with np.errstate(over="ignore"):
        return float(np.float32(np.float64(bound) / y_scale))


def up_to_quantization(
    layer: Node,
    reader: Callable[[Node], Node | None],
    bounds: Callable[[Node], Bounds | None],
    is_quantization: Callable[[Node], bool],
) -> list[Node] | None:
    """The nodes behind ``layer`` if they are only bounds, up to a QuantizeLinear; else None.

    Args:
        layer: whose result is followed.
        reader: node -> the only reader of its output; None if there are more, or it is a result.
        bounds: node -> the constants that it keeps its input between; None if it does other things.
        is_quantization: true for a QuantizeLinear with one known scale.
    """
    nodes: list[Node] = []
    node = reader(layer)
    while node is not None and bounds(node) is not None:
        nodes.append(node)
        node = reader(node)
    return [*nodes, node] if node is not None and is_quantization(node) else None

"""Affine quantization: real = scale * (integer - zero_point), the arithmetic of ONNX.

QuantizeLinear divides by the scale in float32, rounds half to even, adds the zero point and
saturates (ONNX operators, QuantizeLinear-13). Here the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
# -128 is left out: a product of two such weights' pairs must fit kernels' 16-bit sums.
WEIGHT_MAX = 127
# Below it, scale products of two tensors leave float32's normal numbers.
SMALLEST_SCALE = 1e-18


@dataclass(frozen=True)
class Affine:
    """How one activation tensor is quantized.

    Attributes:
        scale: of one step; exactly representable as float32.
        zero_point: the integer that stands for 0.0, -128 to 127.
    """

    scale: float
    zero_point: int


def affine_from_range(low: float, high: float, *, symmetric: bool) -> Affine:
    """The scale and zero point that cover a range.

    The range is widened to hold 0, so that zero padding is exact.

    Args:
        low: finite.
        high: finite, not below ``low``.
        symmetric: zero point 0, and the range -127 to 127 steps.
    """
    import numpy as np

    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        step = max(-low, high) / ACTIVATION_MAX
        return Affine(float(np.float32(max(step, SMALLEST_SCALE))), 0)
    step = float(np.float32(max((high - low) / (ACTIVATION_MAX - ACTIVATION_MIN), SMALLEST_SCALE)))
    zero_point = int(np.clip(np.rint(ACTIVATION_MIN - low / step), ACTIVATION_MIN, ACTIVATION_MAX))
    return Affine(step, zero_point)


def quantize(values: Array, affine: Affine) -> Array:
    """Float32 activations of any shape as int8, with ties to even."""
    import numpy as np

    steps = np.rint(values.astype(np.float32) / np.float32(affine.scale))
    kept = np.clip(steps + affine.zero_point, ACTIVATION_MIN, ACTIVATION_MAX)
    return cast("Array", kept.astype(np.int8))


def dequantize(values: Array, affine: Affine) -> Array:
    """Int8 of any shape as float32."""
    import numpy as np

    real: Array = (values.astype(np.float32) - affine.zero_point) * np.float32(affine.scale)
    return real


def quantize_weights(weights: Array, scales: Array) -> Array:
    """Weights as integers of -127 to 127, each to the nearest step.

    Args:
        weights: (out, ...) float.
        scales: (out,) float32, one step of each output channel.

    Returns:
        (out, ...) int8.
    """
    import numpy as np

    spread = scales.reshape((-1,) + (1,) * (weights.ndim - 1)).astype(np.float32)
    steps = np.rint(weights.astype(np.float32) / spread)
    return cast("Array", np.clip(steps, -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8))

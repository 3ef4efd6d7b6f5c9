"""Fake-quant with learned steps: rounds like ONNX forward, like nothing backward.

S. Esser et al., Learned Step Size Quantization (ICLR 2020), equations 1 to 3 and section 2.2.
Unlike torch's own fake-quant, which multiplies by the scale's inverse, this divides by the scale
and rounds half to even, as QuantizeLinear does, so that it makes the artifact's integers.

A step is learned as its logarithm: it stays positive whatever a gradient does, and an optimizer
whose updates don't depend on the gradient's size (AdamW) changes each step by the same *share*,
be it of logits or of weights a thousand times smaller (S. Jain et al., Trained Quantization
Thresholds, MLSys 2020, section 3.3 and appendix B).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from deepseek_edge.quantization.affine import (
    ACTIVATION_MAX,
    ACTIVATION_MIN,
    SMALLEST_SCALE,
    WEIGHT_MAX,
    Affine,
)

# By how much one gradient may ask the logarithm of a step to change, before the learning rate: a
# channel whose weights are all but 0 has a step so small that its relative gradient explodes.
_LARGEST_GRADIENT = 1.0
_OBSERVER_MOMENTUM = 0.99


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.bounds = low, high
        return torch.round(x / scale).clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        x, scale = ctx.saved_tensors
        steps = x / scale
        rounded = torch.round(steps)
        kept = rounded.clamp(*ctx.bounds)
        inside = kept == rounded
        by_x = gradient * inside
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = kept.sub_(steps.mul_(inside)).mul_(gradient).sum_to_size(scale.shape)
        return by_x, by_scale, None, None


def fake_quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """What is left of numbers when only multiples of a step may stand for them.

    The gradient passes where rounding doesn't saturate and is 0 elsewhere. That of the scale is
    ``round(x / s) - x / s`` there, ``low`` or ``high`` elsewhere (LSQ, equation 3, but that what
    rounds to a bound counts as inside, so that a tensor that is quantized twice is so once).

    Args:
        x: float32 of any shape.
        scale: float32 that broadcasts to it, positive.
        low: the smallest multiple, at most 0.
        high: the largest.

    Returns:
        float32, the multiple times the scale, exactly as DequantizeLinear gives it.
    """
    return cast("Tensor", _FakeQuantize.apply(x, scale, low, high))  # type: ignore[no-untyped-call]


class _StepSize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logarithm: Tensor, factor: float) -> Tensor:
        scale = torch.exp(logarithm)
        ctx.save_for_backward(scale)
        ctx.factor = factor
        return scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (scale,) = ctx.saved_tensors
        share = gradient * ctx.factor / scale
        return share.clamp(-_LARGEST_GRADIENT, _LARGEST_GRADIENT), None


def step_size(logarithm: Tensor, share: float) -> Tensor:
    """A step from its logarithm, with the gradient that makes a descent on it LSQ's.

    The step's gradient g is multiplied by a share and *divided* by the step s: moving the
    logarithm by ``-lr share g / s`` moves s by ``-lr share g``, which is LSQ's update.

    Args:
        logarithm: of the step.
        share: as ``gradient_share`` gives it; 0: the step isn't learned.
    """
    return cast("Tensor", _StepSize.apply(logarithm, share))  # type: ignore[no-untyped-call]


def gradient_share(elements: int, high: int) -> float:
    """1 / sqrt(elements high), so that steps learn about as fast as weights (LSQ, section 2.2).

    Args:
        elements: how many numbers of one sample, or weights of one channel, share the step.
        high: the largest multiple.
    """
    return 1.0 / math.sqrt(max(elements * high, 1))


class ActivationQuantizer(nn.Module):
    """Fake-quant of one activation tensor, or of several that share a scale.

    Args:
        affine: what it starts from; the zero point stays.
        elements: of the tensor, in one sample.

    Attributes:
        zero_point: an integer of -128 to 127.
        is_observing: ranges are followed and used instead of the learned step, in training mode.
    """

    reach: Tensor
    seen: Tensor

    def __init__(self, affine: Affine, elements: int) -> None:
        super().__init__()
        self.zero_point = affine.zero_point
        self.low = ACTIVATION_MIN - affine.zero_point
        self.high = ACTIVATION_MAX - affine.zero_point
        self.elements = elements
        self.is_observing = False
        self.log_scale = _step_parameter(torch.tensor(math.log(affine.scale)))
        # Starting from what calibration saw, not from the first batch.
        ends = torch.tensor([-self.low * affine.scale, self.high * affine.scale])
        self.register_buffer("reach", ends)  # below and above 0
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers as multiples of the step; float32 of the same shape."""
        observes = self.is_observing and self.training
        if observes:
            self._observe(x.detach())
        share = 0.0 if observes else gradient_share(self.elements, self.high)
        scale = step_size(self.log_scale, share)
        return fake_quantize(x, scale, self.low, self.high)

    @property
    def affine(self) -> Affine:
        """Scale and zero point as they are now."""
        return Affine(float(torch.exp(self.log_scale.detach())), self.zero_point)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the range towards what was seen since the last call, and set the step to cover it.

        All processes see what one alone would.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.seen, torch.distributed.ReduceOp.MAX)
        self.reach.lerp_(self.seen, 1.0 - _OBSERVER_MOMENTUM)
        self.seen.zero_()
        steps = self.reach.new_tensor([max(-self.low, 1), max(self.high, 1)])
        self.log_scale.copy_(torch.log((self.reach / steps).amax().clamp(min=SMALLEST_SCALE)))

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.seen.copy_(torch.maximum(self.seen, torch.stack([-low, high])))


class WeightQuantizer(nn.Module):
    """Fake-quant of one layer's weights, each output channel with its step.

    Args:
        scales: (channels,) that it starts from.
        shape: of the weights.
        axis: of the weights, along which channels lie.
    """

    def __init__(self, scales: Tensor, shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.spread = tuple(-1 if place == axis else 1 for place in range(len(shape)))
        self.elements = math.prod(shape) // shape[axis]
        self.log_scale = _step_parameter(torch.log(scales.float()))

    def forward(self, weights: Tensor) -> Tensor:
        """Weights as multiples of their channel's step; float32 of the same shape."""
        scales = step_size(self.log_scale, gradient_share(self.elements, WEIGHT_MAX))
        scales = scales.reshape(self.spread)
        return fake_quantize(weights, scales, -WEIGHT_MAX, WEIGHT_MAX)

    @property
    def scales(self) -> Tensor:
        """(channels,) float32, as they are now."""
        return torch.exp(self.log_scale.detach())


def _step_parameter(logarithm: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(logarithm.float())
    # Decay would pull every step towards 1.
    parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return parameter

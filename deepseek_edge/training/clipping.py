"""Adaptive gradient clipping: no unit's step may be large beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdaptiveGradientClipper:
    """Scale the gradient of each unit down to ``clip_factor`` times the norm of its weights.

    Brock et al., High-performance large-scale image recognition without normalization,
    https://arxiv.org/abs/2102.06171, section 4, equation 3:
    G <- clip_factor max(|W|, eps) / |G| G wherever |G| / max(|W|, eps) > clip_factor. A unit is a
    row of a matrix, an output channel of a convolution, or a whole parameter of less dimensions.

    Args:
        model: whose parameters' gradients are clipped.
        clip_factor: above 0; 0.01 is usual, smaller for larger batches.
        eps: keeps weights that are 0 able to grow.
        exclude: whether the parameter of this name is left alone; None: those of the last
            ``nn.Linear``, as the paper does.
    """

    def __init__(
        self,
        model: nn.Module,
        clip_factor: float = 0.01,
        *,
        eps: float = 1e-3,
        exclude: Callable[[str], bool] | None = None,
    ) -> None:
        if clip_factor <= 0 or eps <= 0:
            raise UsageError(f"clip_factor is {clip_factor}, eps {eps}", hint="both are above 0")
        self.clip_factor = clip_factor
        self.eps = eps
        excluded = in_last_linear(model) if exclude is None else exclude
        self._parameters = [p for name, p in model.named_parameters() if not excluded(name)]

    def clip(self) -> None:
        """Clip all gradients in place; parameters without one are passed over.

        The device is not waited for. Gradients that are not finite are not made so.
        """
        import torch

        with torch.no_grad():
            for parameter in self._parameters:
                if parameter.grad is not None:
                    limit = _unit_norms(parameter).clamp(min=self.eps) * self.clip_factor
                    norms = _unit_norms(parameter.grad)
                    # Where the gradient is 0, so is the norm: limit / 0 is infinite, and cut to 1.
                    parameter.grad.mul_((limit / norms).clamp(max=1.0))


def in_last_linear(model: nn.Module) -> Callable[[str], bool]:
    """A predicate that names of parameters of the model's last ``nn.Linear`` satisfy."""
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = {f"{linear[-1]}.{part}".lstrip(".") for part in ("weight", "bias")} if linear else set()
    return lambda name: name in names


def _unit_norms(tensor: Tensor) -> Tensor:
    import torch

    axes = tuple(range(1, tensor.dim())) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
    return norms

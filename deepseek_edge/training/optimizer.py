"""The optimizer, and the moving average of what it makes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepseek_edge.training.config import TrainConfig

MOMENTUM = 0.9


def make_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of the settings over all parameters that need gradients.

    Parameters of one dimension (biases, batch normalization) and those with the attribute
    ``no_weight_decay = True`` are not decayed.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    kept = [p for p in parameters if p.dim() <= 1 or getattr(p, "no_weight_decay", False)]
    ids = {id(p) for p in kept}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in ids]},
        {"params": kept, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
        fused=fused,
    )


class WeightAverage:
    """An exponential moving average of a model's floating-point parameters.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the first random weights fade
    fast; this is TensorFlow's ExponentialMovingAverage with ``num_updates``.

    Args:
        model: its current parameters are the first values.
        decay: between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        self._decay = decay
        self.values = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current parameters.

        Args:
            step: t, 1 after the first step.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, self._parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the averages; its buffers stay as they are."""
        copy_all(self._parameters, self.values)


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)

"""What training makes small: cross-entropy, and a teacher's view beside it."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

from deepseek_edge.errors import UsageError
from deepseek_edge.training.config import Loss, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


def cross_entropy(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of the model's logits.

    Targets are smoothed as in Szegedy et al., https://arxiv.org/abs/1512.00567, section 7:
    (1 - s) on the label's class plus s / classes on each.

    Args:
        model: inputs to logits (n, classes).
        inputs: (n, ...).
        labels: (n,) int64.
        label_smoothing: s; ``functools.partial`` fixes it where a ``Loss`` is wanted.

    Returns:
        A scalar, float32.
    """
    from torch.nn import functional

    logits = model(inputs).float()
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def distill(
    teacher: nn.Module,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    label_smoothing: float = 0.0,
) -> Loss:
    """Make a loss that also draws the model's soft answers to a teacher's.

    weight T^2 KL(softmax(teacher / T) || softmax(model / T)) + (1 - weight) cross-entropy: Hinton
    et al., https://arxiv.org/abs/1503.02531, section 2. T^2 keeps the size of the gradients.

    Args:
        teacher: inputs to logits (n, classes); copied, so it may itself be trained afterwards.
        temperature: T, above 0.
        weight: of the teacher's part, 0 to 1.
        label_smoothing: of the cross-entropy.

    Raises:
        UsageError: temperature or weight are out of range.
    """
    if temperature <= 0 or not 0 <= weight <= 1:
        raise UsageError(
            f"distillation with temperature {temperature} and weight {weight}",
            hint="the temperature is above 0, the weight from 0 to 1",
        )
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        _move_to(frozen, inputs)
        logits = model(inputs).float()
        with torch.no_grad():
            soft = (frozen(inputs).float() / temperature).log_softmax(dim=1)
        own = (logits / temperature).log_softmax(dim=1)
        apart = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
        hard = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return weight * temperature**2 * apart + (1 - weight) * hard

    return loss


def with_label_smoothing(loss: Loss, config: TrainConfig) -> Loss:
    """The loss with the settings' label smoothing.

    Raises:
        UsageError: the settings smooth labels, but the loss is not ``cross_entropy``.
    """
    if loss is cross_entropy:
        return partial(cross_entropy, label_smoothing=config.label_smoothing)
    if config.label_smoothing:
        raise UsageError(
            f"label_smoothing is {config.label_smoothing}, but the loss is your own",
            hint="smooth labels in your loss (distill has label_smoothing), and leave it 0 here",
        )
    return loss


def _move_to(teacher: nn.Module, inputs: Tensor) -> None:
    import torch

    first = next(teacher.parameters(), None)
    if first is not None and first.device != inputs.device:
        teacher.to(inputs.device)
        if inputs.dim() == 4:
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

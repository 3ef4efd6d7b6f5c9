"""Train a model, and let it classify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.training.config import (
    Loss,
    OnStep,
    Progress,
    TrainConfig,
    TrainingData,
    TrainResult,
    ignore_step,
    stay_silent,
)
from deepseek_edge.training.losses import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor, nn


def train(
    model: nn.Module,
    data: TrainingData,
    config: TrainConfig,
    *,
    loss: Loss = cross_entropy,
    checkpoint: Path | None = None,
    on_step: OnStep = ignore_step,
    progress: Progress = stay_silent,
) -> TrainResult:
    """Train a model in place.

    Under ``torchrun`` each process computes its share of every batch, and all end with the same
    weights. Shuffling, augmentation and dropout depend on the seed and the epoch alone; so the
    result doesn't depend on the number of processes, except for batch statistics, dropout and
    float noise, nor on interruptions at all.

    Args:
        model: from a batch of inputs to what the loss wants. It is left in evaluation mode on the
            CPU, also after an error.
        data: what to train on.
        config: how to train.
        loss: called with the model (under ``torchrun`` a wrapper of it), inputs and labels on the
            device that trains; the mean over the samples it is given.
        checkpoint: file that is written after each epoch; if it is there, training goes on
            after the last epoch in it. Under ``torchrun`` all processes must see the same file.
        on_step: called after each optimizer step with the steps done and all steps; it may change
            parameters, on every process alike: from parameters and steps, not from buffers. Only
            what the model holds of it is in the checkpoint.
        progress: called after each step with "train", the steps done and all steps.

    Raises:
        UsageError: the settings don't fit the data, the machine or the number of processes, or
            the checkpoint is damaged or of another model, data or settings.
        TrainingError: the loss or the weights are not finite, and the model holds the weights of
            the last good epoch; or the GPU's memory is too small.
        OutputError: the checkpoint can't be written.
    """
    from deepseek_edge.training.session import run  # loads torch

    return run(
        model,
        data,
        config,
        loss=loss,
        checkpoint=checkpoint,
        on_step=on_step,
        progress=progress,
    )


def predict(
    model: nn.Module, inputs: Tensor, *, batch_size: int = 1000, device: str | None = None
) -> Tensor:
    """The class of each input: that with the largest logit, the first of equal ones.

    Args:
        model: inputs to logits (n, classes); left in evaluation mode on the CPU.
        inputs: (n, ...).
        batch_size: inputs at once.
        device: "cpu", "cuda" or "cuda:N"; None: CUDA if there is one, else the CPU.

    Returns:
        (n,) int64 on the CPU.

    Raises:
        UsageError: there is no such device.
    """
    import torch

    from deepseek_edge.training.processes import choose_device

    place = choose_device(device)
    model.eval().to(place)
    try:
        with torch.inference_mode():
            found = [
                model(part.to(place)).argmax(dim=1) for part in torch.split(inputs, batch_size)
            ]
            return torch.cat(found).cpu().clone()
    finally:
        model.cpu()

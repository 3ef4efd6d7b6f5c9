"""What training is told and what it tells: settings, data, result."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from deepseek_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Types in quotes, so that this module doesn't load torch.
# Model, inputs (n, ...), labels (n,) -> mean over the samples, a scalar.
Loss: TypeAlias = "Callable[[nn.Module, Tensor, Tensor], Tensor]"
# A batch (n, ...) on its device, a generator of that device -> a batch of the same shape.
Augment: TypeAlias = "Callable[[Tensor, torch.Generator], Tensor]"
# What is being done, how much of it is done, how much there is.
Progress: TypeAlias = Callable[[str, int, int], None]
# Steps done, all steps.
OnStep: TypeAlias = Callable[[int, int], None]

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; the result depends on these, the model, loss and data.

    Attributes:
        epochs: passes over the data.
        batch_size: samples of one optimizer step, on all processes together. What is left of an
            epoch's shuffled samples after the last whole batch is not used in that epoch.
        learning_rate: the peak, reached after the warm-up; a cosine takes it to 0 at the end.
        optimizer: "sgd" with Nesterov's momentum of 0.9, or "adamw".
        weight_decay: of parameters of two or more dimensions without ``no_weight_decay = True``.
        warmup_epochs: of linear warm-up; cut to the length of the run.
        label_smoothing: share of the target that is spread over all classes; of ``cross_entropy``.
        clip_factor: largest ratio of gradient to weight norms (adaptive gradient clipping); None:
            no clipping.
        accumulate: parts that a process computes its share of a batch in, one after the other, to
            need less memory.
        precision: "bfloat16": matrix products and convolutions under autocast; weights, gradients
            and the optimizer's state stay float32.
        checkpoint_activations: keep only the inputs of the children of ``nn.Sequential`` and
            ``nn.ModuleList``, or of the modules with these names, and compute the rest again
            during the backward pass: less memory, about a third more time.
        average: decay of an exponential moving average of the weights that the model ends with;
            None: it ends with the last weights.
        seed: of the order of samples, augmentation and dropout.
        device: "cpu", "cuda" or "cuda:N"; None: CUDA if there is one, else the CPU.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    clip_factor: float | None = None
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_activations: bool | tuple[str, ...] = False
    average: float | None = None
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            UsageError: one is out of its range.
        """
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            _require(_is_whole(value) and value >= 1, name, value, "a whole number from 1")
        _require(_is_above_zero(self.learning_rate), "learning_rate", self.learning_rate, "above 0")
        for name in ("weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "a number from 0")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", smoothing, "from 0 to below 1")
        clip, average, seed = self.clip_factor, self.average, self.seed
        _require(clip is None or _is_above_zero(clip), "clip_factor", clip, "above 0, or None")
        _require(average is None or 0 < average < 1, "average", average, "between 0 and 1, or None")
        _require(_is_whole(seed) and seed >= 0, "seed", seed, "a whole number from 0")
        _require(self.optimizer in ("sgd", "adamw"), "optimizer", self.optimizer, "sgd or adamw")
        precisions = ("float32", "bfloat16")
        _require(self.precision in precisions, "precision", self.precision, " or ".join(precisions))
        device = self.device
        fits = device is None or _DEVICE.fullmatch(device) is not None
        _require(fits, "device", device, "cpu, cuda, cuda:N, or None for the best one there is")
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"a batch of {self.batch_size} can't be computed in {self.accumulate} equal parts",
                hint="batch_size must be a multiple of accumulate",
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_above_zero(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _require(fits: bool, name: str, value: object, allowed: str) -> None:
    if not fits:
        raise UsageError(f"{name} is {value!r}", hint=allowed)


@dataclass(frozen=True)
class TrainingData:
    """Labelled samples.

    Attributes:
        inputs: (n, ...) float32, or uint8 pixels that ``augment`` or the model scales; moved whole
            to the device that trains.
        labels: (n,) int64, class indices.
        augment: changes each batch on its device, drawing from the generator it is given; None:
            samples are used as they are.
    """

    inputs: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check that every sample has a label.

        Raises:
            InputError: other lengths, no samples, or labels that are not (n,) int64.
        """
        import torch

        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise InputError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}",
                hint="give the class index of each sample, shape (n,) int64",
            )
        if self.inputs.shape[:1] != self.labels.shape or len(self.labels) == 0:
            raise InputError(
                f"inputs have shape {tuple(self.inputs.shape)}, labels {tuple(self.labels.shape)}",
                hint="the first axis of both counts samples, and there must be one",
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Attributes:
        steps: of the optimizer, those before a resume included.
        epochs: likewise.
        losses: mean training loss of each epoch.
        seconds: of training, those before a resume included.
        samples_per_s: samples of all steps by those seconds.
    """

    steps: int
    epochs: int
    losses: tuple[float, ...]
    seconds: float
    samples_per_s: float


def ignore_step(_done: int, _total: int) -> None:
    """The default ``on_step``: changes nothing."""


def stay_silent(_stage: str, _done: int, _total: int) -> None:
    """The default ``progress``: tells nobody."""


def differences(one: TrainConfig, values: dict[str, object]) -> list[str]:
    """Settings that change the result and are not equal, as "name: stored, now".

    Args:
        one: the settings now.
        values: those of a checkpoint, by name.
    """
    own = settings(one)
    names = sorted(own.keys() | values.keys())
    return [
        f"{name} was {values.get(name)}, is {own.get(name)}"
        for name in names
        if own.get(name) != values.get(name)
    ]


def settings(config: TrainConfig) -> dict[str, object]:
    """The settings that a checkpoint is bound to, as JSON values: all but the device."""
    values = dataclasses.asdict(config)
    del values["device"]
    if isinstance(config.checkpoint_activations, tuple):
        values["checkpoint_activations"] = list(config.checkpoint_activations)
    return values

"""One training run from the first step to the last."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepseek_edge.errors import TrainingError
from deepseek_edge.training.batches import Part, derived_seed, epoch_batches, steps_per_epoch
from deepseek_edge.training.checkpoint import data_digest, restore_checkpoint, write_checkpoint
from deepseek_edge.training.clipping import AdaptiveGradientClipper
from deepseek_edge.training.config import (
    Loss,
    OnStep,
    Progress,
    TrainConfig,
    TrainingData,
    TrainResult,
)
from deepseek_edge.training.losses import with_label_smoothing
from deepseek_edge.training.optimizer import WeightAverage, copy_all, make_optimizer
from deepseek_edge.training.processes import (
    Place,
    average_over_processes,
    check_same_start,
    replicated,
    training_place,
    wait_for_all,
)
from deepseek_edge.training.recompute import checkpointed_activations
from deepseek_edge.training.schedule import learning_rate_at
from deepseek_edge.training.state import TrainingState, model_tensors

# The device is waited for this often, to see whether the loss is still a number.
CHECK_STEPS = 200


@dataclass(frozen=True)
class _Run:
    """What stays the same during a run."""

    config: TrainConfig
    place: Place
    replica: nn.Module  # the model, or its wrapper that averages gradients over processes
    loss: Loss
    clipper: AdaptiveGradientClipper | None
    steps: int  # of an epoch
    on_step: OnStep
    progress: Progress


def run(
    model: nn.Module,
    data: TrainingData,
    config: TrainConfig,
    *,
    loss: Loss,
    checkpoint: Path | None,
    on_step: OnStep,
    progress: Progress,
) -> TrainResult:
    """Do what :func:`deepseek_edge.training.train` says."""
    loss = with_label_smoothing(loss, config)
    with (
        training_place(config.device) as place,
        _memory_errors_told(config),
        checkpointed_activations(model, config.checkpoint_activations),
    ):
        steps = steps_per_epoch(len(data), config, place)
        digest = data_digest(data) if checkpoint is not None else ""
        with _on_device(model, data, place.device) as moved:
            clip = config.clip_factor
            replica = replicated(model, place)
            clipper = None if clip is None else AdaptiveGradientClipper(model, clip)
            this = _Run(config, place, replica, loss, clipper, steps, on_step, progress)
            average = None if config.average is None else WeightAverage(model, config.average)
            state = TrainingState(model, make_optimizer(model, config, place.device), average)
            if checkpoint is not None and checkpoint.exists():
                restore_checkpoint(checkpoint, state, config, digest)
            check_same_start(state.epoch, place)
            while state.epoch < config.epochs:
                _train_epoch(this, state, moved)
                if checkpoint is not None and place.rank == 0:
                    write_checkpoint(checkpoint, state, config, digest)
            if state.average is not None:
                state.average.apply()
            wait_for_all(place)
    return _result(state, config, steps)


def _result(state: TrainingState, config: TrainConfig, steps: int) -> TrainResult:
    samples = state.epoch * steps * config.batch_size
    return TrainResult(
        steps=state.epoch * steps,
        epochs=state.epoch,
        losses=tuple(state.losses),
        seconds=state.seconds,
        samples_per_s=samples / state.seconds,
    )


def _train_epoch(this: _Run, state: TrainingState, data: TrainingData) -> None:
    began = time.monotonic()
    place, config = this.place, this.config
    changing = list(model_tensors(state.model).values())
    good = [tensor.clone() for tensor in changing]
    torch.manual_seed(derived_seed(config.seed, state.epoch, f"model of {place.rank}"))
    losses = torch.zeros(this.steps, device=place.device)
    before = state.epoch * this.steps
    try:
        for index, parts in enumerate(epoch_batches(data, config, place, state.epoch)):
            losses[index] = _step(this, state, parts, before + index)
            if (index + 1) % CHECK_STEPS == 0 or index + 1 == this.steps:
                start = index - index % CHECK_STEPS
                _check_losses(losses[start : index + 1], before + start, config, place)
        average_over_processes(list(state.model.buffers()), place)
        _check_weights(changing, before + this.steps, config)
    except TrainingError:
        copy_all(changing, good)
        raise
    state.losses.append(float(losses.mean()))
    state.epoch += 1
    state.seconds += time.monotonic() - began


def _step(this: _Run, state: TrainingState, parts: list[Part], step: int) -> Tensor:
    """One step of the optimizer; returns the batch's loss on the device, without waiting for it."""
    config, device = this.config, this.place.device
    total = config.epochs * this.steps
    warmup = min(total, round(config.warmup_epochs * this.steps))
    rate = learning_rate_at(step, total, peak=config.learning_rate, warmup=warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    batch_loss = torch.zeros((), device=device)
    for number, (inputs, labels) in enumerate(parts, 1):
        half = config.precision == "bfloat16"
        with _gradients_shared(this.replica, number == len(parts)):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                value = this.loss(this.replica, inputs, labels) / len(parts)
            value.backward()  # type: ignore[no-untyped-call]
        batch_loss += value.detach()
    if this.clipper is not None:
        this.clipper.clip()
    state.optimizer.step()
    this.on_step(step + 1, total)
    if state.average is not None:
        state.average.update(step + 1)
    if this.place.rank == 0:
        this.progress("train", step + 1, total)
    return batch_loss


@contextmanager
def _gradients_shared(replica: nn.Module, is_last: bool) -> Iterator[None]:
    """Average gradients over processes after the last part of a batch only."""
    if is_last or not isinstance(replica, nn.parallel.DistributedDataParallel):
        yield
        return
    with replica.no_sync():
        yield


def _check_losses(losses: Tensor, first: int, config: TrainConfig, place: Place) -> None:
    """Average the losses of some steps over processes, and stop at the first that is no number.

    Args:
        losses: (n,) of steps ``first`` + 1 to ``first`` + n; replaced by the averages.
        first: steps before them.
        config: for the hint.
        place: of this process.
    """
    average_over_processes([losses], place)
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        index = int(bad[0, 0])
        raise _diverged(f"the loss is {float(losses[index])}", first + index + 1, config)


def _check_weights(tensors: list[Tensor], step: int, config: TrainConfig) -> None:
    finite = [tensor.isfinite().all() for tensor in tensors]
    if finite and not bool(torch.stack(finite).all()):
        raise _diverged("weights are not finite", step, config)


def _diverged(what: str, step: int, config: TrainConfig) -> TrainingError:
    clip = "" if config.clip_factor else ", or set clip_factor (0.01 is usual)"
    return TrainingError(
        f"training diverged: {what} at step {step}; the weights are those of the last good epoch",
        hint=f"lower the learning rate (it is {config.learning_rate:g}){clip}",
    )


@contextmanager
def _on_device(
    model: nn.Module, data: TrainingData, device: torch.device
) -> Iterator[TrainingData]:
    """Move model and data to the device, and the model back; random numbers go on undisturbed."""
    of_images = data.inputs.dim() == 4
    benchmark = torch.backends.cudnn.benchmark
    forked = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=forked):
            model.train().to(device)
            if of_images:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            # All batches have one shape, so the fastest kernels are worth looking for.
            torch.backends.cudnn.benchmark = True
            yield TrainingData(data.inputs.to(device), data.labels.to(device), data.augment)
    finally:
        torch.backends.cudnn.benchmark = benchmark
        model.zero_grad(set_to_none=True)
        model.eval().cpu()
        if of_images:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@contextmanager
def _memory_errors_told(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        steps = [f"raise accumulate (it is {config.accumulate})"]
        if not config.checkpoint_activations:
            steps.append("set checkpoint_activations")
        if config.precision == "float32":
            steps.append("set precision to bfloat16")
        steps.append(f"lower batch_size (it is {config.batch_size})")
        raise TrainingError(
            f"the GPU's memory is too small: {str(error).splitlines()[0]}", hint=", or ".join(steps)
        ) from error

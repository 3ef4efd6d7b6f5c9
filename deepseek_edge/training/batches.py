"""The samples of each step: shuffled, augmented, and cut to this process's share."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from deepseek_edge.errors import UsageError
from deepseek_edge.training.config import TrainConfig, TrainingData
from deepseek_edge.training.processes import Place

Part = tuple[Tensor, Tensor]


def steps_per_epoch(samples: int, config: TrainConfig, place: Place) -> int:
    """Whole batches of an epoch.

    Raises:
        UsageError: there is none, or a batch can't be shared by the processes.
    """
    if samples < config.batch_size:
        raise UsageError(
            f"{samples} samples are fewer than a batch of {config.batch_size}",
            hint=f"batch_size is at most {samples}",
        )
    if config.batch_size % (config.accumulate * place.size):
        raise UsageError(
            f"a batch of {config.batch_size} can't be shared by {place.size} processes in "
            f"{config.accumulate} equal parts each",
            hint="batch_size must be a multiple of accumulate times the number of processes",
        )
    return samples // config.batch_size


def epoch_batches(
    data: TrainingData, config: TrainConfig, place: Place, epoch: int
) -> Iterator[list[Part]]:
    """The batches of one epoch, each as the parts that this process computes.

    Every process shuffles and augments alike and then takes its share, so that all of them
    together see what one alone would.

    Args:
        data: on the device of ``place``.
        config: its seed decides the order, together with ``epoch``.
        place: of this process.
        epoch: 0 for the first.

    Yields:
        ``accumulate`` pairs of inputs and labels of the same size.
    """
    steps = len(data) // config.batch_size
    shuffle = torch.Generator().manual_seed(derived_seed(config.seed, epoch, "order"))
    order = torch.randperm(len(data), generator=shuffle)[: steps * config.batch_size]
    generator = torch.Generator(place.device)
    generator.manual_seed(derived_seed(config.seed, epoch, "augment"))
    size = config.batch_size // (config.accumulate * place.size)
    for chosen in order.view(steps, -1).to(place.device):
        inputs = data.inputs[chosen]
        if data.augment is not None:
            inputs = data.augment(inputs, generator)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        parts = zip(torch.split(inputs, size), torch.split(data.labels[chosen], size), strict=True)
        yield list(parts)[place.rank :: place.size]


def derived_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed for one purpose in one epoch, as far from the others as a hash can make it."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits

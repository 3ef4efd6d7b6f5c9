"""One process alone, or one of several that torchrun started."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from deepseek_edge.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where this process trains.

    Attributes:
        device: its own.
        rank: 0 to ``size`` - 1.
        size: number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1


@contextmanager
def training_place(device: str | None) -> Iterator[Place]:
    """Join the other processes of a torchrun, or find that there are none.

    Args:
        device: "cpu", "cuda" or "cuda:N"; None: CUDA if there is one, else the CPU. Under
            torchrun each process takes the GPU of its local rank.

    Raises:
        UsageError: CUDA is asked for and there is none, or not that many.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, size)
    if size == 1:
        yield Place(chosen)
        return
    on_gpu = chosen.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(chosen)
    joined = not distributed.is_initialized()
    if joined:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", device_id=chosen if on_gpu else None
        )
    try:
        yield Place(chosen, distributed.get_rank(), size)
    finally:
        if joined:
            distributed.destroy_process_group()


def choose_device(device: str | None, size: int = 1) -> torch.device:
    """The device of this process, one of ``size``; see :func:`training_place`."""
    count = torch.cuda.device_count()
    name = device or ("cuda" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if size > 1:
        if ":" in name:
            raise UsageError(
                f"{size} processes can't all train on {name}",
                hint="leave the number away: each takes its own GPU",
            )
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    chosen = torch.device(name if ":" in name else f"{name}:0")
    if chosen.index >= count:
        raise UsageError(
            f"there is no device {chosen}: this machine has {count} CUDA devices",
            hint="start no more processes than GPUs, or train with device='cpu'",
        )
    return chosen


def replicated(model: nn.Module, place: Place) -> nn.Module:
    """The model, whose backward pass then also averages gradients over all processes.

    Every process starts with the weights and buffers of rank 0.
    """
    if place.size == 1:
        return model
    replica = nn.parallel.DistributedDataParallel(
        model, device_ids=[place.device] if place.device.type == "cuda" else None
    )
    # Afterwards buffers are made equal once an epoch: in each step that would cost as much as the
    # gradients of a small model, and forbid losses that call the model twice. The argument of
    # this name is deprecated, and would leave buffers apart at the start too.
    replica.broadcast_buffers = False
    return replica


def average_over_processes(tensors: Sequence[Tensor], place: Place) -> None:
    """Replace each tensor by its mean over all processes; integers by those of rank 0."""
    if place.size == 1:
        return
    for tensor in tensors:
        if tensor.is_floating_point():
            distributed.all_reduce(tensor)
            tensor.div_(place.size)
        else:
            distributed.broadcast(tensor, 0)


def check_same_start(epoch: int, place: Place) -> None:
    """Refuse to train when processes would start at different epochs, and then wait forever.

    Raises:
        UsageError: they would.
    """
    if place.size == 1:
        return
    ends = torch.tensor([epoch, -epoch], device=place.device)
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    last, first = int(ends[0]), -int(ends[1])
    if first != last:
        raise UsageError(
            f"processes found checkpoints of epochs {first} and {last}",
            hint="put the checkpoint in a folder that all machines share",
        )


def wait_for_all(place: Place) -> None:
    """Return when every process has come here."""
    if place.size > 1:
        distributed.barrier()

"""All that changes while a model is trained, as named tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from deepseek_edge.training.optimizer import WeightAverage, copy_all


@dataclass
class TrainingState:
    """A model and what its training needs to go on.

    Random numbers are not part of it: each epoch draws its own from the seed and its number.

    Attributes:
        model: itself, not a wrapper of it.
        optimizer: over its parameters.
        average: of its weights, or None.
        epoch: epochs done.
        losses: mean loss of each of them.
        seconds: that they took.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return {
        f"model/{name}": tensor.detach()
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }


def state_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Every tensor of the state by name; the optimizer's start with "optimizer/"."""
    tensors = model_tensors(state.model)
    for index, values in state.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
    if state.average is not None:
        tensors |= {f"average/{i}": value for i, value in enumerate(state.average.values)}
    return tensors


def restore_tensors(state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
    """Give the state the values that :func:`state_tensors` named.

    Args:
        state: whose model and average have tensors of these names and shapes.
        tensors: all of them, on any device.
    """
    for name, own in _own_tensors(state):
        copy_all([own], [tensors[name]])
    _restore_optimizer(state.optimizer, tensors)


def own_shapes(state: TrainingState) -> dict[str, tuple[int, ...]]:
    """Shapes by name of all tensors but the optimizer's, which appear with its first step."""
    return {name: tuple(tensor.shape) for name, tensor in _own_tensors(state)}


def _own_tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    yield from model_tensors(state.model).items()
    if state.average is not None:
        yield from ((f"average/{i}", value) for i, value in enumerate(state.average.values))


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            values.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    for parameter, held in optimizer.state.items():
        for key, value in held.items():
            if value.shape == parameter.shape:
                # Fused steps want the memory layout of the parameter.
                held[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

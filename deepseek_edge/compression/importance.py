"""How much each unit of a group matters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepseek_edge.compression.channels import FIXED
from deepseek_edge.compression.flow import Axis
from deepseek_edge.compression.groups import ChannelGraph, Group
from deepseek_edge.errors import UnsupportedError, UsageError

Importance = Literal["l1", "l2", "taylor", "bn_scale"]
Scores = NDArray[np.float64]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


def score_by_weights(model: nn.Module, graph: ChannelGraph, *, power: int) -> list[Scores]:
    """The norm of all weights of each unit: rows that make it and columns that read it.

    Weights count as they are deployed, with the batch normalization behind them folded in:
    times scale / sqrt(running variance + epsilon) (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, section 3.2). Without that, the norm of a row before a
    normalization says nothing: the normalization undoes it.

    Args:
        model: that ``graph`` was found in.
        graph: its groups.
        power: 1 for the sum of magnitudes (Li et al. 2017, https://arxiv.org/abs/1608.08710),
            2 for the Euclidean norm.

    Returns:
        For each group the scores of its units, none negative.
    """
    powers = {
        name: value.abs() if power == 1 else value.square()
        for name, value in deployed_weights(model, graph).items()
    }
    totals = [_gather(group, powers) for group in graph.groups]
    return [total if power == 1 else np.sqrt(total) for total in totals]


def deployed_weights(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Weights of all layers, float64 on the CPU, batch normalizations folded in."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = {}
    for layer in graph.layers:
        weight = tensors[layer.weight].detach().cpu().double()
        if layer.norm is not None:
            scale, variance = (tensors[name].detach().cpu().double() for name in layer.norm[:2])
            factor = scale / torch.sqrt(variance + layer.norm[2])
            shape = [1] * weight.dim()
            if layer.out_axis == 0 and not (layer.shape and layer.shape.op == "conv_transpose"):
                shape[0] = -1
                weight = weight * factor.view(shape)
        found[layer.weight] = weight
    return found


def score_by_normalization(model: nn.Module, graph: ChannelGraph) -> list[Scores]:
    """The sum of magnitudes of the batch normalizations' scales.

    Liu et al. 2017, https://arxiv.org/abs/1708.06519, section 3.

    Raises:
        UnsupportedError: a layer that could be pruned has no normalization to rank it.
    """
    scales = {
        f"{name}.weight" if name else "weight": module.weight.detach().cpu().double().abs()
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.weight is not None
    }
    for group in graph.groups:
        if not any(name in scales for name, _ in group.members):
            raise UnsupportedError(
                f"no batch normalization tells which channels of {group.layers[0]} matter",
                hint="exclude that layer, or rank by l1",
            )
    return [_gather(group, scales) for group in graph.groups]


def score_by_loss(model: nn.Module, graph: ChannelGraph, loss: Loss, data: Batches) -> list[Scores]:
    """The squared first-order change of the loss when a unit's weights become zero.

    (sum of gradient times weight)^2 for each layer's part of a unit, added up over layers and
    averaged over batches (Molchanov et al. 2019, https://arxiv.org/abs/1906.10771, section 3.1,
    equation 8, of whole filters).

    Args:
        model: stays as it is, gradients too.
        graph: its groups.
        loss: (model, inputs, labels) -> scalar.
        data: batches of inputs and labels.

    Raises:
        UsageError: no batch, or a loss that isn't a number.
    """
    judged = copy.deepcopy(model).eval()
    names = {layer.weight for layer in graph.layers}
    weights = {name: value for name, value in judged.named_parameters() if name in names}
    for value in weights.values():
        value.requires_grad_(True)
    totals = [np.zeros(group.size) for group in graph.groups]
    batches = 0
    for inputs, labels in data:
        found = loss(judged, inputs, labels)
        if not torch.isfinite(found):
            raise UsageError(
                f"the loss of batch {batches} is {found.item()}",
                hint="taylor importance needs a finite loss on every batch",
            )
        gradients = torch.autograd.grad(found, list(weights.values()), materialize_grads=True)
        products = {
            name: (weight * gradient).detach().cpu().double()
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
        for index, group in enumerate(graph.groups):
            totals[index] += _gather(group, products, square=True)
        batches += 1
    if not batches:
        raise UsageError(
            "there is no batch of data", hint="data= is read once a round: give a list"
        )
    return [total / batches for total in totals]


def normalize(scores: Scores) -> Scores:
    """Scores relative to the mean of their group, so that groups can be compared.

    DepGraph (Fang et al. 2023, https://arxiv.org/abs/2301.12900), section 3.3: the number of
    channels times the score over the sum of the N best; here N is all of them.
    """
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def _along(values: Mapping[str, Tensor], axis: Axis) -> Scores | None:
    """Sums of a tensor over all axes but one; None if it isn't there."""
    name, kept = axis
    if name not in values:
        return None
    value = values[name]
    others = [other for other in range(value.dim()) if other != kept]
    return np.asarray(value.sum(others) if others else value)


def _gather(group: Group, values: Mapping[str, Tensor], *, square: bool = False) -> Scores:
    """Add up, for each unit, values of the elements of all axes that it has a part in."""
    total = np.zeros(group.size)
    for axis, units in group.members.items():
        along = _along(values, axis)
        if along is not None:
            chosen = units != FIXED
            added = np.bincount(units[chosen], along[chosen], group.size).astype(np.float64)
            total += added**2 if square else added
    return total

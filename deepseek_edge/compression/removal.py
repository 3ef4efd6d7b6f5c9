"""Take channels out of a module's parameters and buffers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepseek_edge.compression.channels import FIXED
from deepseek_edge.compression.flow import Axis
from deepseek_edge.compression.groups import ChannelGraph, Group

Doomed = Mapping[int, NDArray[np.bool_]]
"""For the index of a group: of each of its units, whether it goes."""


def remove_channels(model: nn.Module, graph: ChannelGraph, doomed: Doomed) -> nn.Module:
    """A copy of a module without some units: plain layers, only narrower.

    Args:
        model: that ``graph`` was found in; stays as it is.
        graph: its groups.
        doomed: the units to take out.
    """
    smaller = copy.deepcopy(model)
    for new, old in zip(smaller.parameters(), model.parameters(), strict=True):
        new.__dict__.update(old.__dict__)  # marks that deepcopy forgets, e.g. no weight decay
    for owner, name, value, places in _owned(smaller, _elements(graph, doomed)):
        smaller_value = value
        for axis, goes in places.items():
            index = torch.from_numpy(np.flatnonzero(~goes)).to(value.device)
            smaller_value = smaller_value.index_select(axis, index)
        _replace(owner, name, smaller_value)
    for module, before in zip(smaller.modules(), model.modules(), strict=True):
        _adjust(module, before)
    return smaller


def silence_channels(model: nn.Module, graph: ChannelGraph, doomed: Doomed) -> nn.Module:
    """A copy of a module with all parameters of some units zero: what removal must equal."""
    silent = copy.deepcopy(model)
    parameters = dict(silent.named_parameters())
    with torch.no_grad():
        for (name, axis), goes in _elements(graph, doomed).items():
            if name in parameters:
                index = torch.from_numpy(np.flatnonzero(goes)).to(parameters[name].device)
                parameters[name].index_fill_(axis, index, 0.0)
    return silent


def units_along(group: Group, axis: Axis, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each element of an axis, whether it belongs to a chosen unit."""
    units = group.members[axis]
    return cast("NDArray[np.bool_]", np.where(units == FIXED, False, chosen[units]))


def _elements(graph: ChannelGraph, doomed: Doomed) -> dict[Axis, NDArray[np.bool_]]:
    """Of each element of each axis that loses any, whether it goes."""
    found: dict[Axis, NDArray[np.bool_]] = {}
    for index, chosen in doomed.items():
        group = graph.groups[index]
        for axis in group.members:
            goes = units_along(group, axis, chosen)
            found[axis] = found[axis] | goes if axis in found else goes
    return {axis: goes for axis, goes in found.items() if goes.any()}


def _owned(
    model: nn.Module, elements: Mapping[Axis, NDArray[np.bool_]]
) -> Iterator[tuple[nn.Module, str, Tensor, dict[int, NDArray[np.bool_]]]]:
    """Each place in a module that holds a tensor which gets smaller.

    A parameter that several modules share is made smaller once, and stays shared.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    places: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for (name, axis), goes in elements.items():
        places.setdefault(id(tensors[name]), {})[axis] = goes
    keep_alive = list(tensors.values())  # an id is only unique among living objects
    done: dict[int, Tensor] = {}
    for owner in model.modules():
        for name, value in [*owner._parameters.items(), *owner._buffers.items()]:
            if value is None or id(value) not in places:
                continue
            if id(value) in done:
                setattr(owner, name, done[id(value)])
                continue
            yield owner, name, value.detach(), places[id(value)]
            done[id(value)] = getattr(owner, name)
    del keep_alive


def _replace(owner: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(owner, name)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(value, requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
        setattr(owner, name, new)
    else:
        setattr(owner, name, value)


def _adjust(module: nn.Module, before: nn.Module) -> None:
    """Let a layer of torch say the sizes that its tensors have now."""
    if isinstance(module, nn.modules.conv._ConvNd):
        old = cast("nn.modules.conv._ConvNd", before).weight.shape
        new = module.weight.shape
        module.groups = module.groups * new[0] // old[0] if module.groups > 1 else 1
        rows, columns = new[0], new[1] * module.groups
        is_transposed = module.transposed
        module.in_channels, module.out_channels = (
            (rows, columns) if is_transposed else (columns, rows)
        )
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        own = [
            value
            for value in (module._parameters["weight"], module.running_mean)
            if value is not None
        ]
        module.num_features = len(own[0]) if own else module.num_features
    elif isinstance(module, nn.GroupNorm) and module.affine:
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)

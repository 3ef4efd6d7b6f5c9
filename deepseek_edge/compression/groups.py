"""Dependency groups: the channels of a model that can go, and what goes with each of them.

A unit is one or more channels that are tied: a row of a convolution's weights, the scale of its
normalization, the column of each layer that reads it, and so on through additions and
concatenations (DepGraph, Fang et al. 2023, https://arxiv.org/abs/2301.12900, section 3.2, calls it
a group). Here a group is all units that come out of the same layers; they compete with each other.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from deepseek_edge.compression import layer_rules, shape_rules
from deepseek_edge.compression.channels import FIXED, Channels, Ids
from deepseek_edge.compression.flow import Axis, Flow, Layer, read_call, unlabelled
from deepseek_edge.compression.tracing import trace


@dataclass(frozen=True)
class Group:
    """Units that come out of the same layers.

    Attributes:
        layers: names of these.
        axes: of their weights, the output axis of each.
        size: how many units.
        members: for every axis of a parameter or buffer that units have a part in, the unit of
            each element, or ``FIXED``.
    """

    layers: tuple[str, ...]
    axes: tuple[Axis, ...]
    size: int
    members: Mapping[Axis, Ids]


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a model.

    Attributes:
        layers: in the order in which they run; a layer that runs twice is there twice.
        groups: in the order in which their first layers run.
        shapes: of all parameters.
        fixed: name of each layer none of whose outputs can go, with the reason.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    fixed: Mapping[str, str]


def find_groups(
    model: nn.Module, example_inputs: tuple[Any, ...], kept: Mapping[str, str] | None = None
) -> ChannelGraph:
    """Find the dependency groups of a module by tracing it.

    Args:
        model: stays as it is.
        example_inputs: its positional arguments.
        kept: names of layers whose outputs have to stay, with the reason.

    Raises:
        UnsupportedError: it can't be traced.
    """
    names: dict[int, str] = {}
    tensors = [*_all_parameters(model), *model.named_buffers(remove_duplicate=False)]
    first = {name: names.setdefault(id(value), name) for name, value in tensors}
    flow = follow(trace(model, example_inputs), first)
    weights = {layer.weight: layer for layer in flow.layers}
    for node, name in flow.parameters.items():
        layer = weights.get(name)
        if layer is not None and layer.name in (kept or {}):
            flow.channels.pin(flow.of(node)[layer.out_axis], (kept or {})[layer.name])
    groups, reasons = _collect(flow)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    return ChannelGraph(tuple(flow.layers), groups, shapes, reasons)


def _all_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def follow(program: torch.export.ExportedProgram, first: Mapping[str, str]) -> Flow:
    """Carry channels through all operations of a traced module.

    Args:
        program: the module.
        first: of each name of a parameter or buffer the first one that means the same tensor.
    """
    flow = Flow()
    tables = {**layer_rules.rules(), **shape_rules.rules()}
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        call = read_call(node)
        if node.op == "placeholder":
            flow.labels[node] = unlabelled(node.meta.get("val"))
            spec = kinds[node.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
                flow.add_parameter(node, first[spec.target])
        elif node.op == "output":
            for one in node.all_input_nodes:
                labels = flow.of(one)
                for ids in labels:
                    flow.channels.pin(ids, "the model returns them")
        elif node.target is operator.getitem:
            flow.labels[node] = shape_rules.item(flow, call)
        elif isinstance(node.target, torch._ops.OpOverload):
            rule = tables.get(node.target.overloadpacket)
            if rule is None and torch.Tag.pointwise in node.target.tags:
                rule = shape_rules.pointwise
            flow.labels[node] = (rule or layer_rules.pin_all)(flow, call)
        else:
            flow.labels[node] = layer_rules.pin_all(flow, call)
    return flow


def _collect(flow: Flow) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Group units by the layers they come out of; say why other layers have none."""
    roots = flow.channels.roots()
    pins: dict[int, str] = {}
    for channel, why in flow.channels.pins:
        pins.setdefault(int(roots[channel]), why)
    axes: dict[Axis, Ids] = {
        (name, axis): roots[ids]
        for node, name in flow.parameters.items()
        for axis, ids in enumerate(flow.of(node))
    }
    outputs = {layer.out: layer.name for layer in flow.layers}
    joined = Channels()  # of layers: those that share a unit belong to one group
    numbers = joined.new(len(outputs))
    layer_of: dict[int, int] = {}
    reasons: dict[str, str] = {}
    for number, (axis, name) in enumerate(outputs.items()):
        units = np.unique(axes[axis]).tolist()
        free = [unit for unit in units if unit not in pins]
        if not free:
            reasons[name] = pins[units[0]]
        for unit in free:
            other = layer_of.setdefault(unit, number)
            joined.tie(numbers[[number]], numbers[[other]], "")
    of_layer = joined.roots()
    units_of: dict[int, list[int]] = {}
    for unit, number in layer_of.items():
        units_of.setdefault(int(of_layer[number]), []).append(unit)
    groups = [_group(units, axes, outputs) for units in units_of.values()]
    order = {layer.name: index for index, layer in reversed(list(enumerate(flow.layers)))}
    groups.sort(key=lambda group: min(order[name] for name in group.layers))
    return tuple(groups), reasons


def _group(units: Sequence[int], axes: Mapping[Axis, Ids], outputs: Mapping[Axis, str]) -> Group:
    numbers = np.full(max(int(ids.max(initial=-1)) for ids in axes.values()) + 1, FIXED)
    numbers[np.sort(np.array(units))] = np.arange(len(units))
    members = {axis: numbers[ids] for axis, ids in axes.items()}
    members = {axis: found for axis, found in members.items() if (found != FIXED).any()}
    own = [axis for axis in outputs if axis in members]
    names = tuple(dict.fromkeys(outputs[axis] for axis in own))
    return Group(names, tuple(own), len(units), members)

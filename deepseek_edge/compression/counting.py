"""Parameters, operations and shapes of a model with fewer channels, without making it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepseek_edge.compression.channels import FIXED, Ids
from deepseek_edge.compression.flow import Axis, Layer
from deepseek_edge.compression.groups import ChannelGraph
from deepseek_edge.compression.shapes import LayerShape


@dataclass(frozen=True)
class Ranking:
    """In which order the units of each group would go.

    Attributes:
        orders: of each group its units, least important first.
        losses: of each group and axis how many elements are gone after 0, 1, 2, ... units.
    """

    graph: ChannelGraph
    orders: tuple[Ids, ...]
    losses: tuple[Mapping[Axis, Ids], ...]


def rank(graph: ChannelGraph, orders: Sequence[Ids]) -> Ranking:
    """Prepare to count; ``orders`` is as in :class:`Ranking`."""
    losses = []
    for group, order in zip(graph.groups, orders, strict=True):
        counts = {
            axis: np.bincount(units[units != FIXED], minlength=group.size)
            for axis, units in group.members.items()
        }
        losses.append(
            {axis: np.concatenate([[0], np.cumsum(count[order])]) for axis, count in counts.items()}
        )
    return Ranking(graph, tuple(orders), tuple(losses))


def doomed_units(ranking: Ranking, gone: Sequence[int]) -> dict[int, NDArray[np.bool_]]:
    """Mark the units that go when so many of each group do."""
    doomed = {}
    for index, (order, count) in enumerate(zip(ranking.orders, gone, strict=True)):
        chosen = np.zeros(len(order), np.bool_)
        chosen[order[:count]] = True
        doomed[index] = chosen
    return doomed


def lengths(ranking: Ranking, gone: Sequence[int]) -> dict[Axis, int]:
    """How long each axis of each parameter is when so many units of each group are gone."""
    left = {
        (name, axis): size
        for name, shape in ranking.graph.shapes.items()
        for axis, size in enumerate(shape)
    }
    for losses, count in zip(ranking.losses, gone, strict=True):
        if count:
            for axis, lost in losses.items():
                if axis in left:
                    left[axis] -= int(lost[count])
    return left


def count_parameters(ranking: Ranking, left: Mapping[Axis, int]) -> int:
    """Elements of all parameters, from the lengths of their axes."""
    return sum(
        math.prod(left[name, axis] for axis in range(len(shape)))
        for name, shape in ranking.graph.shapes.items()
    )


def count_macs(ranking: Ranking, left: Mapping[Axis, int]) -> int:
    """Multiply-accumulates of all convolutions and linear layers."""
    shapes = (shape_of(layer, ranking.graph, left) for layer in ranking.graph.layers)
    return sum(shape.macs for shape in shapes if shape is not None)


def shape_of(layer: Layer, graph: ChannelGraph, left: Mapping[Axis, int]) -> LayerShape | None:
    """A layer's shape, from the lengths of its weights' axes."""
    shape = layer.shape
    if shape is None:
        return None
    sizes = graph.shapes[layer.weight]
    outputs = left[layer.out]
    inputs = left[layer.weight, layer.in_axis]
    if shape.groups > 1:  # whole groups go, inputs and outputs alike
        share = (outputs, sizes[layer.out_axis])
        return replace(
            shape,
            in_channels=shape.in_channels * share[0] // share[1],
            out_channels=shape.out_channels * share[0] // share[1],
            groups=shape.groups * share[0] // share[1],
        )
    return replace(shape, in_channels=inputs, out_channels=outputs)

"""Which channel each element of each axis of each tensor of a traced module belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from deepseek_edge.compression.channels import Channels, Ids, fixed, has_channels
from deepseek_edge.compression.shapes import LayerShape
from deepseek_edge.compression.tracing import place_of

Labels = tuple[Ids, ...]
"""Of a tensor: for each axis, the channel of each element."""

Axis = tuple[str, int]
"""Name of a parameter or buffer, and one of its axes."""


@dataclass(frozen=True)
class Layer:
    """One call of a layer that has weights.

    Attributes:
        name: of the module, as in ``named_modules()``.
        op: for a person, e.g. "conv2d".
        weight: name of the parameter.
        out_axis, in_axis: of it.
        shape: None of an embedding, which multiplies nothing.
        norm: names of weight and running variance of a batch normalization that alone takes the
            output, and its epsilon.
    """

    name: str
    op: str
    weight: str
    out_axis: int
    in_axis: int
    shape: LayerShape | None
    norm: tuple[str, str, float] | None = None

    @property
    def out(self) -> Axis:
        """The axis whose channels are the layer's outputs."""
        return self.weight, self.out_axis


@dataclass(frozen=True)
class Call:
    """A node with its arguments by name.

    Attributes:
        place: the line of the user's code, as "file.py:12".
    """

    node: Node
    arguments: Mapping[str, Any]
    place: str

    @property
    def op(self) -> str:
        """The operation's name for a person, e.g. "conv2d"."""
        return str(self.node.target).removeprefix("aten.").partition(".")[0]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str) -> Any:
        """An argument that only some forms of an operation have."""
        return self.arguments.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output, a tensor."""
        return tuple(self.node.meta["val"].shape)


@dataclass
class Flow:
    """What is known so far, on the way through the graph in its order.

    Attributes:
        labels: of each node: of a tensor, or a list of several tensors'.
        parameters: name of the parameter or buffer that a node stands for.
    """

    channels: Channels = field(default_factory=Channels)
    labels: dict[Node, Labels | list[Labels]] = field(default_factory=dict)
    parameters: dict[Node, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def add_parameter(self, node: Node, name: str) -> None:
        """Give each axis of a parameter or buffer its channels, once for all its names."""
        earlier = next((one for one, other in self.parameters.items() if other == name), None)
        self.parameters[node] = name
        shape = node.meta["val"].shape
        self.labels[node] = (
            tuple(self.channels.new(size) for size in shape)
            if earlier is None
            else self.labels[earlier]
        )

    def of(self, value: object) -> Labels:
        """The labels of an argument that is a tensor."""
        assert isinstance(value, Node)
        found = self.labels[value]
        assert isinstance(found, tuple), f"{value} is several tensors"
        return found

    def pin(self, call: Call, labels: Labels, axes: range | tuple[int, ...], why: str) -> None:
        """Let the channels along some axes stay, since an operation needs them all."""
        for axis in axes:
            if has_channels(labels[axis]):
                self.channels.pin(labels[axis], f"{why} ({call.op} at {call.place})")

    def tie(self, call: Call, left: Ids, right: Ids) -> None:
        """Tie channels that an operation brings together."""
        why = f"{call.op} at {call.place} meets a tensor whose size is fixed"
        self.channels.tie(left, right, why)


Rule = Callable[[Flow, Call], Labels | list[Labels]]


def read_call(node: Node) -> Call:
    """A node's arguments by the names of the operation's schema, defaults filled in."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return Call(node, {}, place_of(node))
    schema = target._schema.arguments
    arguments = {one.name: one.default_value for one in schema if one.has_default_value()}
    arguments.update({one.name: value for one, value in zip(schema, node.args, strict=False)})
    return Call(node, {**arguments, **node.kwargs}, place_of(node))


def unlabelled(value: object) -> Labels | list[Labels]:
    """Labels of a node's value, all fixed: of a tensor, a list of tensors or no tensor."""
    if isinstance(value, torch.Tensor):
        return tuple(fixed(size) for size in value.shape)
    if isinstance(value, tuple | list):
        return [_of_tensor(one) for one in value]
    return ()


def _of_tensor(value: object) -> Labels:
    found = unlabelled(value)
    return found if isinstance(found, tuple) else ()

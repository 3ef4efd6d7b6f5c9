"""The graph that the back end rewrites: nodes in order, values with static shapes.

A ``Value`` is compared by identity: two values are the same only if they are the same object.
Passes build new nodes and point their outputs at the old values, so names survive.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from deepseek_edge.tensors import TensorSpec

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    Attributes:
        name: of the source graph where it has one; unique.
        dtype: a key of ``tensors.DTYPE_CODES``.
        shape: static.
        data: the elements if it is a constant.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Array | None = None

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape, without the data."""
        return TensorSpec(self.name, self.dtype, self.shape)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.spec.elements

    def __repr__(self) -> str:
        kind = "constant" if self.data is not None else "value"
        return f"<{kind} {self.name} {self.dtype}{list(self.shape)}>"


class Scratch(Value):
    """Memory of the thread that runs a step, for what lives within one call of its kernel."""


@dataclass(eq=False)
class Node:
    """One operator: ONNX's name and attributes, or one of ours where the passes made it.

    ``source`` is the name of the source graph's node, which reports and errors use.
    An absent optional input is None.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def value(self, index: int) -> Value:
        """Input ``index``, which must be present."""
        value = self.inputs[index]
        assert value is not None, f"{self.op} {self.source} has no input {index}"
        return value

    def optional(self, index: int) -> Value | None:
        """Input ``index``, or None if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can run."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]

    def producers(self) -> dict[Value, Node]:
        """The node that makes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, once for each reading input."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    readers.setdefault(value, []).append(node)
        return readers

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every reader of ``old``, and the graph's outputs, read ``new``."""
        for node in self.nodes:
            node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs = [new if value is old else value for value in self.outputs]

    def rewrite(self, rule: Callable[[Node], Iterable[Node] | None]) -> None:
        """Put ``rule(node)`` in the place of each node for which it is not None."""
        nodes: list[Node] = []
        for node in self.nodes:
            replacement = rule(node)
            nodes.extend([node] if replacement is None else replacement)
        self.nodes = nodes

    def remove_dead(self) -> None:
        """Drop nodes whose outputs nobody reads."""
        live = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if any(value in live for value in node.outputs):
                live.update(value for value in node.inputs if value is not None)
                kept.append(node)
        self.nodes = kept[::-1]


def constant(name: str, data: Array) -> Value:
    """A constant value; ``data`` is made contiguous."""
    return Value(name, str(data.dtype), tuple(data.shape), np.ascontiguousarray(data))

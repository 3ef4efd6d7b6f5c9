"""Writing nodes: what the rules that replace one operator by several are made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant


class Writer:
    """Appends nodes that stand for ``node``, and works out the shapes of what they make."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shape: tuple[int, ...],
        *,
        dtype: str | None = None,
        **attrs: Any,
    ) -> Value:
        """One node with one output; its dtype is that of its first input unless given."""
        first = inputs[0]
        assert first is not None
        name = f"{self.node.output.name}/{len(self.nodes)}"
        out = Value(name, dtype or first.dtype, shape)
        self.nodes.append(Node(op, list(inputs), [out], attrs, self.node.source))
        return out

    def number(self, value: float, dtype: str = "float32") -> Value:
        """A scalar constant."""
        return self.constant(np.asarray(value, dtype))

    def constant(self, data: Array) -> Value:
        """A constant."""
        return constant(f"{self.node.source}/constant", data)

    def elementwise(self, op: str, *inputs: Value, dtype: str | None = None, **attrs: Any) -> Value:
        """An operator that broadcasts its inputs."""
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        return self.add(op, inputs, shape, dtype=dtype, **attrs)

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The same elements in another shape."""
        if value.shape == shape:
            return value
        if value.data is not None:
            return constant(value.name, value.data.reshape(shape))
        return self.add("Reshape", [value], shape)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """Axes reordered."""
        if tuple(perm) == tuple(range(len(perm))):
            return value
        if value.data is not None:
            return constant(value.name, value.data.transpose(perm))
        shape = tuple(value.shape[axis] for axis in perm)
        return self.add("Transpose", [value], shape, perm=tuple(perm))

    def reduce(self, op: str, value: Value, axes: Sequence[int]) -> Value:
        """A reduction that keeps its axes as dimensions of size 1."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
        return self.add(op, [value], shape, axes=tuple(sorted(axes)), keepdims=1)

    def matmul(self, a: Value, b: Value) -> Value:
        """A product of matrices, or of batches of them."""
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.add("MatMul", [a, b], (*batch, a.shape[-2], b.shape[-1]))

    def slice(self, value: Value, axis: int, start: int, size: int) -> Value:
        """``size`` neighbours along an axis."""
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        if value.data is not None:
            taken = np.take(value.data, range(start, start + size), axis)
            return constant(value.name, taken)
        return self.add("Slice", [value], shape, axes=(axis,), starts=(start,), steps=(1,))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values one after another along an axis."""
        if len(values) == 1:
            return values[0]
        size = sum(value.shape[axis] for value in values)
        shape = (*values[0].shape[:axis], size, *values[0].shape[axis + 1 :])
        return self.add("Concat", values, shape, axis=axis)

    def done(self, value: Value, out: Value | None = None) -> list[Node]:
        """All nodes, the one that makes ``value`` making ``out`` (the node's output) instead."""
        out = out or self.node.output
        maker = next((node for node in self.nodes if node.output is value), None)
        if maker is None:
            self.nodes.append(Node("Reshape", [value], [out], {}, self.node.source))
            return self.nodes
        for node in self.nodes:
            node.inputs = [out if v is value else v for v in node.inputs]
        maker.outputs = [out]
        return self.nodes

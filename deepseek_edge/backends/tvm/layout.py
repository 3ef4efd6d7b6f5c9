"""Channels last: one layout for the whole graph, transposes only where nothing else works.

Every convolution, pooling and resize reads and writes NHWC. A transpose isn't carried out but
remembered: ``lazy[v] = (base, perm)`` says that ``v`` equals ``Transpose(base, perm)``.
Operators that don't care about the order of dimensions work on the bases and hand the
permutation on; a transpose node is made only for a reader that needs the exact order.
"""

from dataclasses import dataclass, field

import numpy as np

from deepseek_edge.backends.tvm.graph import Graph, Node, Value, constant
from deepseek_edge.backends.tvm.operators import is_elementwise, is_reduction
from deepseek_edge.errors import UnsupportedError

Perm = tuple[int, ...]
TO_LAST: Perm = (0, 2, 3, 1)
TO_FIRST: Perm = (0, 3, 1, 2)

SPATIAL = {
    "Conv",
    "IntegerConv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "Resize",
    "LRN",
}


def channels_last(graph: Graph) -> None:
    """Rewrite the graph in place so that spatial operators are NHWC."""
    pass_ = _Pass(graph)
    for node in graph.nodes:
        pass_.visit(node)
    graph.outputs = [pass_.exact(value) for value in graph.outputs]
    graph.nodes = pass_.nodes
    graph.remove_dead()


def permute(shape: tuple[int, ...], perm: Perm) -> tuple[int, ...]:
    """The shape of Transpose(x, perm) for x of this shape."""
    return tuple(shape[axis] for axis in perm)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(int(axis) for axis in np.argsort(perm))


@dataclass
class _Pass:
    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    lazy: dict[Value, tuple[Value, Perm]] = field(default_factory=dict)
    ready: dict[tuple[Value, Perm], Value] = field(default_factory=dict)
    dequantized: dict[Value, Node] = field(default_factory=dict)

    def visit(self, node: Node) -> None:
        if node.op == "DequantizeLinear":
            self.dequantized[node.output] = node
        if node.op in SPATIAL:
            self._spatial(node)
        elif node.op == "Transpose":
            self._transpose(node)
        elif node.op == "Reshape" and node.value(0) in self.lazy:
            self._reshape(node)
        elif is_reduction(node) or node.op in ("Softmax", "LogSoftmax"):
            self._along_axes(node)
        elif self._moves_with_axes(node):
            self._axes(node)
        elif is_elementwise(node) and self._permutation(node) is not None:
            self._elementwise(node)
        else:
            node.inputs = [None if v is None else self.exact(v) for v in node.inputs]
            self.nodes.append(node)

    def exact(self, value: Value) -> Value:
        """``value`` itself, its transpose carried out if it was only remembered."""
        if value not in self.lazy:
            return value
        base, perm = self.lazy[value]
        return self._materialise(base, perm, value)

    def ordered(self, value: Value, perm: Perm) -> Value:
        """A value that holds Transpose(value, perm)."""
        base, first = self.lazy.get(value, (value, tuple(range(len(value.shape)))))
        total = tuple(first[axis] for axis in perm)
        if base.data is not None:
            return constant(f"{base.name}/{total}", base.data.transpose(total))
        return self._materialise(base, total, None)

    def _materialise(self, base: Value, perm: Perm, out: Value | None) -> Value:
        if perm == tuple(range(len(perm))):
            return base
        key = (base, perm)
        if key not in self.ready:
            shape = permute(base.shape, perm)
            name = f"{base.name}/{''.join(map(str, perm))}"
            self.ready[key] = self._rearrange(base, perm, out or Value(name, base.dtype, shape))
        return self.ready[key]

    def _rearrange(self, base: Value, perm: Perm, out: Value) -> Value:
        """Emit the node that makes ``out`` = Transpose(base, perm)."""
        before = self.dequantized.get(base)
        if before is not None:
            # Integers are moved, not floats; others may want them in this order too.
            inputs: list[Value | None] = [self.ordered(before.value(0), perm)]
            self.nodes.append(Node(before.op, inputs, [out], before.attrs, before.source))
            return out
        # A transpose that only moves dimensions of size 1 moves no data.
        moved = [axis for axis in perm if base.shape[axis] != 1]
        op = "Reshape" if moved == sorted(moved) else "Transpose"
        attrs = {"perm": perm} if op == "Transpose" else {}
        self.nodes.append(Node(op, [base], [out], attrs, base.name))
        return out

    def remember(self, value: Value, perm: Perm, suffix: str = "nhwc") -> Value:
        """The base to compute instead of ``value``, which becomes Transpose(base, perm)."""
        shape = permute(value.shape, inverse(perm))
        base = Value(f"{value.name}/{suffix}", value.dtype, shape)
        self.lazy[value] = (base, perm)
        return base

    def _spatial(self, node: Node) -> None:
        x, rank = node.value(0), len(node.value(0).shape)
        if rank not in (3, 4):
            raise UnsupportedError(
                f"{node.op} (node {node.source!r}) has {rank - 2} spatial dimensions",
                hint="1 and 2 spatial dimensions are supported",
            )
        last = TO_LAST if rank == 4 else (0, 2, 1)
        first = TO_FIRST if rank == 4 else (0, 2, 1)
        reads_first = (
            node.op == "Conv"
            and rank == 4
            and x.shape[1] <= 4
            and x not in self.lazy
            and node.attrs.get("group", 1) == 1
        )
        # A convolution needs single input elements, so it can read NCHW as it is.
        node.attrs["channels_first_input"] = reads_first
        source = x if reads_first else self.ordered(x, last)
        out = self.remember(node.output, first)
        rest = [None if v is None else self.exact(v) for v in node.inputs[1:]]
        node.inputs, node.outputs = [source, *rest], [out, *node.outputs[1:]]
        self.nodes.append(node)

    def _transpose(self, node: Node) -> None:
        x = node.value(0)
        perm = tuple(node.attrs.get("perm") or reversed(range(len(x.shape))))
        base, first = self.lazy.get(x, (x, tuple(range(len(x.shape)))))
        self.lazy[node.output] = (base, tuple(first[axis] for axis in perm))

    def _permutation(self, node: Node) -> Perm | None:
        """The permutation that most of the node's large inputs share, if any has one."""
        rank = len(node.output.shape)
        perms = [
            self.lazy[v][1]
            for v in node.inputs
            if v in self.lazy and len(v.shape) == rank and v.elements > 1
        ]
        return max(set(perms), key=perms.count) if perms else None

    def _elementwise(self, node: Node) -> None:
        perm = self._permutation(node)
        assert perm is not None
        rank = len(perm)
        inputs: list[Value | None] = []
        for value in node.inputs:
            if value is None:
                inputs.append(None)
                continue
            whole = (
                value
                if len(value.shape) == rank
                else self._raise_rank(self.exact(value), rank, node)
            )
            inputs.append(self.ordered(whole, inverse(perm)))
        node.inputs, node.outputs = inputs, [self.remember(node.output, perm, "base")]
        self.nodes.append(node)

    def _raise_rank(self, value: Value, rank: int, node: Node) -> Value:
        shape = (1,) * (rank - len(value.shape)) + value.shape
        if value.data is not None:
            return constant(value.name, value.data.reshape(shape))
        view = Value(f"{value.name}/rank{rank}", value.dtype, shape)
        self.nodes.append(Node("Reshape", [value], [view], {}, node.source))
        return view

    def _along_axes(self, node: Node) -> None:
        """Reductions read neighbouring axes and softmax the last: transposed first if need be."""
        x = node.value(0)
        base, perm = self.lazy.get(x, (x, tuple(range(len(x.shape)))))
        axes = sorted(perm[axis] for axis in node.attrs["axes"])
        if not _are_neighbours(base.shape, axes, at_end=not is_reduction(node)):
            order = (*(axis for axis in range(len(perm)) if axis not in axes), *axes)
            base = self._materialise(base, order, None)
            perm = tuple(order.index(axis) for axis in perm)
            axes = list(range(len(perm) - len(axes), len(perm)))
        keeps = not is_reduction(node) or node.attrs["keepdims"]
        left = [axis for axis in perm if keeps or axis not in axes]
        order = tuple(sorted(left).index(axis) for axis in left)
        node.inputs[0] = base
        node.inputs[1:] = [None if v is None else self.exact(v) for v in node.inputs[1:]]
        node.attrs["axes"] = tuple(axes)
        if order != tuple(range(len(order))):
            node.outputs = [self.remember(node.output, order, "base")]
        self.nodes.append(node)

    def _moves_with_axes(self, node: Node) -> bool:
        """Operators that name axes, all of whose inputs share one remembered permutation."""
        if node.op not in ("Concat", "Slice", "Pad"):
            return False
        data = node.inputs if node.op == "Concat" else node.inputs[:1]
        perms = {self.lazy[v][1] if v in self.lazy else None for v in data}
        return None not in perms and len(perms) == 1

    def _axes(self, node: Node) -> None:
        perm = self.lazy[node.value(0)][1]
        if node.op == "Pad":
            self._pad(node, perm)
            return
        data = len(node.inputs) if node.op == "Concat" else 1
        node.inputs[:data] = [self.lazy[v][0] for v in node.inputs[:data] if v is not None]
        if node.op == "Concat":
            node.attrs["axis"] = perm[node.attrs["axis"] % len(perm)]
        else:
            node.attrs["axes"] = tuple(perm[axis] for axis in node.attrs["axes"])
        node.outputs = [self.remember(node.output, perm, "base")]
        self.nodes.append(node)

    def _pad(self, node: Node, perm: Perm) -> None:
        amounts = node.optional(1)
        rank = len(perm)
        if amounts is None or amounts.data is None or node.optional(3) is not None:
            node.inputs = [None if v is None else self.exact(v) for v in node.inputs]
            self.nodes.append(node)
            return
        back = inverse(perm)
        begin, end = amounts.data[:rank], amounts.data[rank:]
        moved = np.concatenate([begin[list(back)], end[list(back)]])
        node.inputs[:2] = [self.lazy[node.value(0)][0], constant(f"{amounts.name}/base", moved)]
        node.outputs = [self.remember(node.output, perm, "base")]
        self.nodes.append(node)

    def _reshape(self, node: Node) -> None:
        """Reshape the base if every group of merged or split dimensions stays together in it."""
        x, out = node.value(0), node.output
        base, perm = self.lazy[x]
        groups = _groups(x.shape, out.shape)
        base_order = []
        for group, _ in groups:
            axes = [perm[axis] for axis in group if x.shape[axis] != 1]
            if axes != list(range(axes[0], axes[0] + len(axes))) if axes else False:
                node.inputs = [self.exact(x)]
                self.nodes.append(node)
                return
            base_order.append(axes[0] if axes else -1)
        # Groups of size one go first: they can stand anywhere.
        order = sorted(range(len(groups)), key=lambda g: base_order[g])
        new_axes = [axis for g in order for axis in groups[g][1]]
        shape = tuple(out.shape[axis] for axis in new_axes)
        if new_axes == list(range(len(new_axes))):
            self.nodes.append(Node("Reshape", [base], [out], {}, node.source))
            return
        view = Value(f"{out.name}/base", out.dtype, shape)
        self.nodes.append(Node("Reshape", [base], [view], {}, node.source))
        self.lazy[out] = (view, inverse(tuple(new_axes)))


def _are_neighbours(shape: tuple[int, ...], axes: list[int], *, at_end: bool) -> bool:
    """True if only dimensions of size 1 lie between the sorted axes; ``at_end``: none after."""
    if at_end:
        return axes == list(range(len(shape) - len(axes), len(shape)))
    between = (axis for axis in range(axes[0], axes[-1]) if axis not in axes)
    return all(shape[axis] == 1 for axis in between)


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Cut both shapes into the smallest runs of dimensions with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        products = [1, 1]
        while not left or not right or products[0] != products[1]:
            wants_left = not left or (bool(right) and products[0] < products[1])
            if (wants_left or j >= len(after)) and i < len(before):
                left.append(i)
                products[0] *= before[i]
                i += 1
            elif j < len(after):
                right.append(j)
                products[1] *= after[j]
                j += 1
            else:
                break  # only dimensions of size 1 were left on one side
        groups.append((left, right))
    return groups

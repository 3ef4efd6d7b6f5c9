"""Cut the graph into steps: an anchor and the elementwise operators computed with its result.

A step has exactly one output that others read (an anchor with several outputs stays alone).
Elementwise operators follow their anchor into its step while everything they need is known
before the step runs; a chain of elementwise operators without an anchor is a step too.
Reshapes are no steps: they are views, resolved by the memory plan.
"""

from dataclasses import dataclass, field

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.backends.tvm.graph import Graph, Node, Value
from deepseek_edge.backends.tvm.operators import is_elementwise

# Anchors whose schedule finishes each output vector in registers.
FUSES_FOLLOWERS = {
    "IntegerConv",
    "IntegerMatMul",
    "Conv",
    "ConvTranspose",
    "MatMul",
    "MaxPool",
    "AveragePool",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "Resize",
    "LayerNormalization",
    "Softmax",
}
MAX_FOLLOWERS = 24  # bounds kernel size and the search
MAX_OPERANDS = 16


@dataclass
class FusedStep:
    """What one kernel computes.

    Attributes:
        anchor: the operator with a schedule of its own, or None for elementwise chains.
        followers: elementwise nodes in order; the last one's output is the step's.
        choice: what the schedule is told to do otherwise than it would.
    """

    anchor: Node | None
    followers: list[Node] = field(default_factory=list)
    choice: Choice = BY_MODEL

    @property
    def nodes(self) -> list[Node]:
        """All nodes in order."""
        return ([self.anchor] if self.anchor else []) + self.followers

    @property
    def outputs(self) -> list[Value]:
        """What the step writes to memory."""
        last = self.nodes[-1]
        return [value for value in last.outputs if value.name]

    @property
    def operands(self) -> list[Value]:
        """What the followers read besides the anchor's result, each once."""
        inside = {value for node in self.nodes for value in node.outputs}
        seen: dict[Value, None] = {}
        for node in self.followers:
            for value in node.inputs:
                if value is not None and value not in inside:
                    seen[value] = None
        return list(seen)


def fuse(graph: Graph) -> list[FusedStep]:
    """Steps in an order in which they can run; Reshape nodes belong to none."""
    grouped: set[Node] = set()
    position = {node: index for index, node in enumerate(graph.nodes)}
    steps: list[tuple[int, FusedStep]] = []
    search = _Search(graph, position)
    for node in graph.nodes:
        if node in grouped or node.op == "Reshape" or search.is_inline(node):
            continue
        step = FusedStep(None, [node]) if is_elementwise(node) else FusedStep(node)
        if is_elementwise(node) or (node.op in FUSES_FOLLOWERS and len(step.outputs) == 1):
            step.followers.extend(search.followers(node, grouped))
        step.followers = search.with_inline(step.followers)
        grouped.update(step.nodes)
        steps.append((max(position[n] for n in step.nodes), step))
    return [step for _, step in sorted(steps, key=lambda item: item[0])]


@dataclass
class _Search:
    graph: Graph
    position: dict[Node, int]

    def __post_init__(self) -> None:
        self.consumers = self.graph.consumers()
        self.producers = self.graph.producers()
        self.outputs = set(self.graph.outputs)

    def is_inline(self, node: Node) -> bool:
        """True for a DequantizeLinear that its only reader computes on the way."""
        readers = self.consumers.get(node.output, [])
        return (
            node.op == "DequantizeLinear"
            and node.output not in self.outputs
            and len(readers) == 1
            and is_elementwise(readers[0])
        )

    def with_inline(self, nodes: list[Node]) -> list[Node]:
        """The nodes, each behind the inline nodes that it reads."""
        ordered: list[Node] = []
        for node in nodes:
            before = [self.producers[v] for v in node.inputs if v in self.producers]
            ordered += self.with_inline([n for n in before if self.is_inline(n)])
            ordered.append(node)
        return list(dict.fromkeys(ordered))

    def followers(self, start: Node, grouped: set[Node]) -> list[Node]:
        """The longest run of elementwise nodes after ``start`` that ends in one value."""
        inside: list[Node] = [start]
        members = {start}
        best = 0
        while len(inside) <= MAX_FOLLOWERS:
            node = self._next(inside, members, grouped)
            if node is None:
                break
            inside.append(node)
            members.add(node)
            if self._leaks(inside, members) == [node.output] and self._can_end(start, node):
                best = len(inside) - 1
        return inside[1 : best + 1]

    def _can_end(self, start: Node, node: Node) -> bool:
        """True if a step may store this node's output."""
        # Softmax keeps its powers in the output's memory until it knows their sum.
        fits = start.op != "Softmax" or node.output.dtype == "float32"
        return fits and not self.is_inline(node)

    def _next(self, inside: list[Node], members: set[Node], grouped: set[Node]) -> Node | None:
        """The first elementwise node that reads the group and fits it."""
        shape = inside[0].output.shape
        readers = {
            reader for node in inside for reader in self.consumers.get(node.output, [])
        } - members
        for node in sorted(readers, key=self.position.__getitem__):
            fits = is_elementwise(node) and node.output.shape == shape and node not in grouped
            if (
                fits
                and self._operands(inside, node) <= MAX_OPERANDS
                and not self._waits_for(node, members)
            ):
                return node
        return None

    def _operands(self, inside: list[Node], node: Node) -> int:
        return len(FusedStep(None, self.with_inline([*inside, node])).operands)

    def _waits_for(self, node: Node, members: set[Node]) -> bool:
        """True if an operand of ``node`` is computed, outside the group, from the group."""
        first = min(self.position[member] for member in members)
        pending = [
            self.producers[value]
            for value in node.inputs
            if value is not None and value in self.producers
        ]
        seen: set[Node] = set()
        while pending:
            producer = pending.pop()
            if producer in members or producer in seen or self.position[producer] < first:
                continue
            seen.add(producer)
            inputs = [self.producers[v] for v in producer.inputs if v in self.producers]
            if any(source in members for source in inputs):
                return True
            pending.extend(inputs)
        return False

    def _leaks(self, inside: list[Node], members: set[Node]) -> list[Value]:
        """Values of the group that somebody outside reads."""
        return [
            node.output
            for node in inside
            if node.output in self.outputs
            or any(reader not in members for reader in self.consumers.get(node.output, []))
        ]

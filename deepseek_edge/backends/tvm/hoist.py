"""Elementwise operators move in front of transposes and reshapes, next to what they can join."""

from deepseek_edge.backends.tvm.graph import Graph, Node, Value
from deepseek_edge.backends.tvm.operators import is_elementwise


def hoist_unary(graph: Graph) -> None:
    """unary(move(x)) -> move(unary(x)), so that it can fuse with what made x.

    Unary are elementwise operators all of whose other inputs are single constants.
    """
    changed = True
    while changed:
        changed = False
        producers, consumers = graph.producers(), graph.consumers()
        for node in graph.nodes:
            others = [v for v in node.inputs if v is not None and (v.data is None)]
            scalars = all(
                v.elements == 1 for v in node.inputs if v is not None and v.data is not None
            )
            if not is_elementwise(node) or len(others) != 1 or not scalars:
                continue
            move = producers.get(others[0])
            if (
                move is None
                or move.op not in ("Reshape", "Transpose")
                or others[0] in graph.outputs
                or len(consumers[others[0]]) != 1
                or node.output.shape != others[0].shape
            ):
                continue
            _swap(graph, move, node)
            changed = True
            break
    graph.remove_dead()


def _swap(graph: Graph, move: Node, node: Node) -> None:
    before, moved = move.value(0), move.output
    inner = Value(f"{node.output.name}/before", node.output.dtype, before.shape)
    node.inputs = [before if value is moved else value for value in node.inputs]
    out = node.output
    node.outputs = [inner]
    graph.nodes.remove(move)
    place = graph.nodes.index(node)
    graph.nodes.insert(
        place + 1, Node(move.op, [inner, *move.inputs[1:]], [out], move.attrs, move.source)
    )

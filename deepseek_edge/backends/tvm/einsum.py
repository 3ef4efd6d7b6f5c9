"""Einsum of one or two operands, as transposes, products and sums."""

from math import prod

from deepseek_edge.backends.tvm.graph import Graph, Node, Value
from deepseek_edge.backends.tvm.writer import Writer
from deepseek_edge.errors import UnsupportedError


def einsum(graph: Graph, node: Node) -> list[Node] | None:
    """Einsum -> Transpose, Reshape, MatMul and ReduceSum."""
    del graph
    if node.op != "Einsum":
        return None
    equation = node.attrs["equation"].replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # by definition: the letters that occur once, sorted
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    repeats = any(len(set(term)) != len(term) for term in [*terms, out])
    if "." in equation or len(terms) > 2 or repeats:
        raise UnsupportedError(
            f"Einsum (node {node.source!r}) {equation!r}",
            hint="one or two operands without '...' or an index twice in a term are supported",
        )
    write = Writer(node)
    values = [value for value in node.inputs if value is not None]
    others = [set(out).union(*(terms[:i] + terms[i + 1 :])) for i in range(len(terms))]
    parts = [
        _summed(write, value, term, kept)
        for value, term, kept in zip(values, terms, others, strict=True)
    ]
    value, order = parts[0] if len(parts) == 1 else _product(write, parts, out)
    return write.done(write.transpose(value, [order.index(c) for c in out]))


def _summed(write: Writer, value: Value, term: str, kept: set[str]) -> tuple[Value, str]:
    """Without the indices that nobody else has."""
    gone = [axis for axis, c in enumerate(term) if c not in kept]
    if not gone:
        return value, term
    left = "".join(c for c in term if c in kept)
    shape = tuple(size for axis, size in enumerate(value.shape) if axis not in gone)
    return write.reshape(write.reduce("ReduceSum", value, gone), shape), left


def _product(write: Writer, parts: list[tuple[Value, str]], out: str) -> tuple[Value, str]:
    """One batched matrix product: (batch, rows, inner) x (batch, inner, columns)."""
    (a, a_term), (b, b_term) = parts
    sizes = dict(zip(a_term + b_term, a.shape + b.shape, strict=True))
    batch = [c for c in a_term if c in b_term and c in out]
    inner = [c for c in a_term if c in b_term and c not in out]
    rows = [c for c in a_term if c not in b_term]
    columns = [c for c in b_term if c not in a_term]

    def matrix(value: Value, term: str, first: list[str], second: list[str]) -> Value:
        ordered = write.transpose(value, [term.index(c) for c in (*batch, *first, *second)])
        shape = (*(sizes[c] for c in batch), size(first), size(second))
        return write.reshape(ordered, shape)

    def size(indices: list[str]) -> int:
        return prod(sizes[c] for c in indices)

    product = write.matmul(matrix(a, a_term, rows, inner), matrix(b, b_term, inner, columns))
    order = "".join((*batch, *rows, *columns))
    return write.reshape(product, tuple(sizes[c] for c in order)), order

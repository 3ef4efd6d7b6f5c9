"""float32 -> float16: how a float program keeps its activations on the GPU.

Only memory is narrower: kernels compute what they load in float32, products on tensor cores sum
in float32, and the graph's inputs and outputs stay as the source graph has them.
"""

from deepseek_edge.backends.tvm.graph import Graph, Value


def store_as_half(graph: Graph, roots: dict[Value, Value]) -> None:
    """Change the dtype of inner float32 values in place.

    Args:
        graph: after all passes.
        roots: views -> what they are views of; both have one dtype.
    """
    seen = [*graph.inputs, *graph.outputs]
    fixed = {roots.get(value, value) for value in seen} | set(seen)
    for node in graph.nodes:
        for value in node.outputs:
            root = roots.get(value, value)
            if value.dtype == "float32" and root not in fixed and value not in fixed:
                value.dtype = "float16"

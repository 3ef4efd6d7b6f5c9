"""What the graph is rewritten to before it is cut into steps, for tensor cores.

Runs behind channels_last: images are NHWC, but for what a convolution reads from an NCHW input.
"""

import numpy as np

from deepseek_edge.backends.tvm.graph import Graph, Node, Value, constant

_CONVOLUTIONS = ("Conv", "IntegerConv")
PACKED = 4  # channels that a few are filled up to: 8 bytes of half floats, 4 of int8


def for_tensor_cores(graph: Graph, *, is_half: bool) -> None:
    """All of this module, in place; ``is_half``: float layers use tensor cores too."""
    fold_strides(graph)
    pack_channels(graph, _CONVOLUTIONS if is_half else ("IntegerConv",))
    graph.remove_dead()


def fold_strides(graph: Graph) -> None:
    """A 1x1 convolution of a Slice with steps reads the image in steps itself.

    The CPU's kernels for it read every pixel; here pixels are gathered anyway.
    """
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.inputs[0] is not None else None
        if node.op not in _CONVOLUTIONS or source is None or source.op != "Slice":
            continue
        steps = _pixel_steps(source)
        weights = node.value(1).shape
        alone = len(consumers[source.output]) == 1 and source.output not in graph.outputs
        if steps is None or not alone or set(weights[2:]) != {1} or len(weights) != 4:
            continue
        if list(node.attrs.get("strides") or [1, 1]) != [1, 1] or any(node.attrs["pads"]):
            continue
        node.inputs[0] = source.value(0)
        node.attrs["strides"] = steps


def _pixel_steps(node: Node) -> list[int] | None:
    """The steps of a Slice of NHWC that leaves out lines and columns only."""
    x, out = node.value(0), node.output
    if len(x.shape) != 4 or x.shape[0] != out.shape[0] or x.shape[3] != out.shape[3]:
        return None
    starts, steps = [0] * 4, [1] * 4
    for axis, start, step in zip(
        node.attrs["axes"], node.attrs["starts"], node.attrs["steps"], strict=True
    ):
        starts[axis], steps[axis] = start, step
    sizes = [-(-size // step) for size, step in zip(x.shape, steps, strict=True) if step > 0]
    if any(starts) or steps[0] != 1 or steps[3] != 1 or tuple(sizes) != out.shape:
        return None
    return steps[1:3]


def pack_channels(graph: Graph, operators: tuple[str, ...]) -> None:
    """A convolution of three channels reads four, which copies of 4 or 8 bytes bring.

    A "Pack" node fills channels up with what stands for 0, and reads NCHW as it is.
    """
    producers = graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op in operators and _is_narrow(node):
            nodes.append(_pack(node, producers))
        nodes.append(node)
    graph.nodes = nodes


def _is_narrow(node: Node) -> bool:
    weights = node.value(1)
    return (
        weights.data is not None
        and len(weights.shape) == 4
        and weights.shape[1] < PACKED
        and node.attrs.get("group", 1) == 1
    )


def _pack(node: Node, producers: dict[Value, Node]) -> Node:
    """The node to put before ``node``, which is made to read it."""
    x, weights = node.value(0), node.value(1)
    first = bool(node.attrs.get("channels_first_input"))
    before = producers.get(x)
    if before is not None and before.op == "Transpose" and before.attrs["perm"] == (0, 2, 3, 1):
        x, first = before.value(0), True
    batch, height, width = (x.shape[0], *(x.shape[2:] if first else x.shape[1:3]))
    dtype = "int8" if node.op == "IntegerConv" else "float16"
    packed = Value(f"{node.output.name}/packed", dtype, (batch, height, width, PACKED))
    assert weights.data is not None
    room = [(0, 0), (0, PACKED - weights.shape[1]), (0, 0), (0, 0)]
    node.inputs[:2] = [packed, constant(weights.name, np.pad(weights.data, room))]
    node.attrs["channels_first_input"] = False
    fill = int(node.attrs["zero_point"]) if node.op == "IntegerConv" else 0
    return Node("Pack", [x], [packed], {"channels_first": first, "fill": fill}, node.source)

"""ConvTranspose whose kernel is its stride: a matrix product, then pixels take their places.

No two taps meet in one output pixel there, so each input pixel makes its own kh x kw block of
outputs. This is how segmentation and text detection nets scale up; the general case keeps its
own schedule. Runs before the integer pass, which then sees an ordinary MatMul.
"""

import numpy as np

from deepseek_edge.backends.tvm.graph import Graph, Node, Value, constant


def deconvolutions(graph: Graph) -> None:
    """Rewrite in place."""
    producers = graph.producers()
    graph.rewrite(lambda node: _rewrite(node, producers))
    graph.remove_dead()


def _rewrite(node: Node, producers: dict[Value, Node]) -> list[Node] | None:
    if node.op != "ConvTranspose" or len(node.output.shape) != 4:
        return None
    weights, bias = node.value(1), node.optional(2)
    dequantize = producers.get(weights)
    raw = dequantize.value(0) if dequantize is not None else weights
    if raw.data is None or (bias is not None and bias.data is None) or not _fills(node, raw):
        return None
    depth, channels, kernel_h, kernel_w = raw.shape
    matrix = raw.data.transpose(0, 2, 3, 1).reshape(depth, -1)
    nodes: list[Node] = []

    def make(op: str, inputs: list[Value | None], shape: tuple[int, ...], **attrs: object) -> Value:
        out = Value(f"{node.output.name}/{len(nodes)}", "float32", shape)
        nodes.append(Node(op, inputs, [out], attrs, node.source))
        return out

    right: Value = constant(f"{raw.name}/matrix", matrix)
    if dequantize is not None:
        if dequantize.op != "DequantizeLinear" or dequantize.value(1).data is None:
            return None
        right = _dequantized(right, dequantize, kernel_h * kernel_w, channels, nodes)
    batch, _, height, width = node.value(0).shape
    pixels = make("Transpose", [node.value(0)], (batch, height, width, depth), perm=[0, 2, 3, 1])
    blocks = make("MatMul", [pixels, right], (batch, height, width, matrix.shape[1]))
    if bias is not None and bias.data is not None:
        tiled = constant(f"{bias.name}/tiled", np.tile(bias.data, kernel_h * kernel_w))
        blocks = make("Add", [blocks, tiled], blocks.shape)
    apart = make("Reshape", [blocks], (batch, height, width, kernel_h, kernel_w, channels))
    placed = make(
        "Transpose",
        [apart],
        (batch, height, kernel_h, width, kernel_w, channels),
        perm=[0, 1, 3, 2, 4, 5],
    )
    image = make("Reshape", [placed], (batch, height * kernel_h, width * kernel_w, channels))
    nodes.append(Node("Transpose", [image], [node.output], {"perm": [0, 3, 1, 2]}, node.source))
    return nodes


def _fills(node: Node, weights: Value) -> bool:
    """True if the taps of neighbouring input pixels neither overlap nor leave gaps."""
    kernel = list(weights.shape[2:])
    height, width = node.value(0).shape[2:]
    return (
        node.attrs.get("group", 1) == 1
        and list(node.attrs.get("strides") or [1, 1]) == kernel
        and list(node.attrs.get("dilations") or [1, 1]) == [1, 1]
        and not any(node.attrs.get("pads") or ())
        and node.output.shape[1:] == (weights.shape[1], height * kernel[0], width * kernel[1])
    )


def _dequantized(matrix: Value, before: Node, taps: int, channels: int, nodes: list[Node]) -> Value:
    """The matrix behind a DequantizeLinear of its own, its scales repeated for each tap."""
    scales = before.value(1).data
    assert scales is not None
    per_column = np.tile(np.broadcast_to(scales.reshape(-1), (channels,)), taps)
    out = Value(f"{matrix.name}/float", "float32", matrix.shape)
    inputs: list[Value | None] = [matrix, constant(f"{matrix.name}/scales", per_column)]
    nodes.append(Node("DequantizeLinear", inputs, [out], {"axis": 1}, before.source))
    return out

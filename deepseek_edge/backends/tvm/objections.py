"""Why a layer of a Q/DQ graph is not computed on integers."""

from collections.abc import Iterator

import numpy as np

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.operators import LONGEST_PRODUCT
from deepseek_edge.backends.tvm.steps import parameters


def objections(node: Node, data: Node | None, weights: Node | None) -> Iterator[str]:
    """Why a layer can't be computed on integers; nothing if it can.

    Args:
        node: a Conv, Gemm or MatMul.
        data: what makes its first input; None for constants and graph inputs.
        weights: the same of its second.
    """
    if weights is None or weights.op != "DequantizeLinear":
        is_constant = node.value(1).data is not None
        yield "its weights are not quantized" if is_constant else "it multiplies two activations"
        return
    if weights.value(0).data is None:
        yield from _product_objections(node, data, weights)
        return
    if data is None or data.op != "DequantizeLinear" or parameters(data) is None:
        yield "its input is not quantized"
    elif data.value(0).dtype != "int8":
        yield "its input is not int8"
    if weights.value(0).dtype != "int8" or np.any(weights.value(0).data == -128):
        yield "its weights are not int8 in [-127, 127], which exact 16-bit pair sums need"
    bias = node.optional(2)
    if bias is not None and bias.data is None:
        yield "its bias is not a float32 constant"
    elif bias is not None and bias.elements != (bias.shape or (1,))[-1]:
        yield "its bias is not one number a column"
    factors = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    if node.op == "Gemm" and (factors != (1.0, 1.0) or node.attrs.get("transA")):
        yield "it scales or transposes its input"
    rank = len(weights.value(0).shape)
    channels = 0 if node.op == "Conv" or node.attrs.get("transB") else 1
    if node.op == "MatMul" and rank != 2:
        yield "its weights are not a matrix"
    elif len(weights.attrs["scales"]) > 1 and weights.attrs.get("axis", 1) % rank != channels:
        yield "its weights' scales are not one an output channel"


def _product_objections(node: Node, data: Node | None, other: Node) -> Iterator[str]:
    """Why a product of two activations, the second dequantized, can't be computed on integers."""
    if data is None or data.op != "DequantizeLinear" or data.value(0).data is not None:
        yield "it multiplies by an activation, and its first input is not a quantized one"
        return
    shapes = data.output.shape, other.output.shape
    if node.op != "MatMul" or min(map(len, shapes)) < 2:
        yield "it multiplies two activations otherwise than MatMul of matrices"
    elif shapes[0][-1] > LONGEST_PRODUCT:
        yield f"it multiplies two activations with sums of more than {LONGEST_PRODUCT} products"
    if any(n.value(0).dtype != "int8" or parameters(n) is None for n in (data, other)):
        yield "its inputs are not int8 per tensor"

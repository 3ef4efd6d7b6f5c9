"""Schedules: how each kind of step is computed. One function a kind; ``lower`` picks it."""

from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.schedules import (
    contraction,
    convolution,
    elementwise,
    movement,
    reduction,
    spatial,
    window,
)
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Target

# Schedules that compute followers in registers, and those that only move data.
_FUSING = {
    "AveragePool": window.pooling,
    "Conv": convolution.convolution,
    "IntegerConv": convolution.convolution,
    "IntegerMatMul": contraction.matmul,
    "ConvTranspose": spatial.conv_transpose,
    "LayerNormalization": reduction.layer_norm,
    "LogSoftmax": reduction.softmax,
    "MatMul": contraction.matmul,
    "MaxPool": window.pooling,
    "Resize": spatial.resize,
    "Softmax": reduction.softmax,
    "Upsample": spatial.resize,
}
_PLAIN = {
    "Concat": movement.concat,
    "Gather": movement.gather,
    "LRN": spatial.local_response_norm,
    "Pad": movement.pad,
    "Slice": movement.slice_,
    "Transpose": movement.transpose,
}


def lower(step: FusedStep, target: Target) -> Lowering:
    """Emit the kernel of one step.

    Raises:
        UnsupportedError: no schedule for the operator or its attributes, naming the node.
    """
    node = step.anchor
    if node is None:
        return elementwise.elementwise(Fusion(step), target)
    if node.op.startswith("Reduce"):
        return reduction.reduce(node, Fusion(step), target)
    if node.op in _FUSING:
        return _FUSING[node.op](node, Fusion(step), target)
    if node.op in _PLAIN:
        return _PLAIN[node.op](node, target)
    raise UnsupportedError(
        f"operator {node.op} (node {node.source!r}) is not supported",
        hint="docs/operators.md lists what is; export the model without it, or open an issue",
    )

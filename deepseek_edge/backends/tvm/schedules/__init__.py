"""Schedules: how each kind of step is computed. One function a kind; ``lower`` picks it."""

from collections.abc import Sequence

from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Value
from deepseek_edge.backends.tvm.operators import check_supported, is_reduction
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

MAX_TENSORS = 24  # DSE_MAX_KERNEL_TENSORS

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
}
_PLAIN = {
    "ArgMax": reduction.extreme_place,
    "ArgMin": reduction.extreme_place,
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
    for node in step.nodes:
        check_supported(node)
    lowering = _lower(step, target)
    check_tensors(step, lowering.tensors)
    return lowering


def check_tensors(step: FusedStep, tensors: Sequence[Value]) -> None:
    """Refuse a kernel of more tensors than the runtime passes.

    Raises:
        UnsupportedError: there are too many, naming the node.
    """
    if len(tensors) > MAX_TENSORS:
        raise UnsupportedError(
            f"{step.nodes[0].op} (node {step.nodes[0].source!r}) takes {len(tensors)} "
            f"tensors; a kernel can have {MAX_TENSORS}",
            hint="split it into several operators",
        )


def _lower(step: FusedStep, target: Target) -> Lowering:
    node = step.anchor
    if node is None:
        return elementwise.elementwise(Fusion(step, target), target)
    if node.op in _PLAIN:
        return _PLAIN[node.op](node, target)
    if is_reduction(node):
        return reduction.reduce(node, Fusion(step, target), target)
    return _FUSING[node.op](node, Fusion(step, target), target)

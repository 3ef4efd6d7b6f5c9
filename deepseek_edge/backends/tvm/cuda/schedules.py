"""How each kind of step is computed on a GPU. One function a kind; ``launch_of`` picks it."""

from deepseek_edge.backends.tvm.cuda import images, movement, products, rows
from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.launch import Board, Launch
from deepseek_edge.backends.tvm.cuda.threads import launch_threads
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.operators import check_supported, is_reduction
from deepseek_edge.backends.tvm.schedules import check_tensors
from deepseek_edge.backends.tvm.schedules.elementwise import collapse
from deepseek_edge.backends.tvm.schedules.kernel import Expr
from deepseek_edge.errors import UnsupportedError

MOST_ELEMENTS = 2**31 - 2**16  # with room for the last block's threads

_FUSING = {
    "AveragePool": images.pooling,
    "ConvTranspose": images.conv_transpose,
    "LayerNormalization": rows.layer_norm,
    "LogSoftmax": rows.softmax,
    "MaxPool": images.pooling,
    "Resize": images.resize,
    "Softmax": rows.softmax,
}
_PRODUCTS = {
    "Conv": products.convolution,
    "IntegerConv": products.convolution,
    "IntegerMatMul": products.matmul,
    "MatMul": products.matmul,
}
_PLAIN = {
    "ArgMax": rows.extreme_place,
    "ArgMin": rows.extreme_place,
    "Concat": movement.concat,
    "Gather": movement.gather,
    "LRN": images.local_response_norm,
    "Pack": movement.pack,
    "Pad": movement.pad,
    "Slice": movement.slice_,
    "Transpose": movement.transpose,
}


def launch_of(step: FusedStep, board: Board) -> Launch:
    """Emit the kernel of one step.

    Raises:
        UnsupportedError: no schedule for the operator or its attributes, naming the node.
    """
    for node in step.nodes:
        if node.op != "Pack" and not any(v and v.dtype == "float16" for v in node.inputs):
            check_supported(node)
    launch = _launch(step, board)
    large = next((v for v in launch.tensors if v.elements > MOST_ELEMENTS), None)
    if large is not None:
        raise UnsupportedError(
            f"{step.nodes[0].op} (node {step.nodes[0].source!r}): {large.name!r} has "
            f"{large.elements} elements; CUDA kernels count to {MOST_ELEMENTS}",
            hint="compile a smaller batch",
        )
    check_tensors(step, launch.tensors)
    return launch


def _launch(step: FusedStep, board: Board) -> Launch:
    node = step.anchor
    if node is None:
        return elementwise(DeviceFusion(step, board.target))
    if node.op in _PRODUCTS:
        return _PRODUCTS[node.op](node, step, board)
    if node.op in _PLAIN:
        return _PLAIN[node.op](node)
    fusion = DeviceFusion(step, board.target)
    if is_reduction(node):
        return rows.reduce(node, fusion)
    return _FUSING[node.op](node, fusion)


def elementwise(fusion: DeviceFusion) -> Launch:
    """Chains of elementwise operators without an anchor: a thread an element."""
    collapse(fusion)
    count = fusion.out.elements

    def body(tensors: movement.Tensors, number: Expr) -> None:
        fusion.take(tensors)
        fusion.finish_flat(None, number)

    return launch_threads(fusion.tensors, count, body, work=count * len(fusion.step.followers))

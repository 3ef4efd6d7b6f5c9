"""What one layer costs on a target: measured on this machine, else modelled.

Both are functions from a layer's shape to milliseconds, which pruning asks about many widths.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.artifacts import Step
from deepseek_edge.compression.shapes import LayerShape
from deepseek_edge.parity import sample_inputs
from deepseek_edge.pipeline.choosing import CompileProgram
from deepseek_edge.pipeline.precision import model_roof
from deepseek_edge.pipeline.workspace import work_directory
from deepseek_edge.profiling.comparison import compare_steps
from deepseek_edge.profiling.roofline import least_s
from deepseek_edge.target import Target

Cost = Callable[[LayerShape], float]

_FLOAT_BYTES = 4
_OPSET = 18
# Below this every width is measured, above only some, and what lies between is interpolated.
_FINEST = 32


def modelled_cost(target: Target) -> Cost:
    """Milliseconds of a layer by the target's roofline; where nothing is known of it, guessed.

    Outputs are counted in whole vector registers, as kernels compute them.
    """
    roof, lanes = model_roof(target), target.vector_bits // 32
    return cache(lambda shape: least_s(roof, layer_step(shape, lanes)) * 1e3)


def layer_step(shape: LayerShape, lanes: int = 1) -> Step:
    """The work of a layer: float32, each tensor read or written once.

    Args:
        shape: of the layer.
        lanes: of a vector register; a part of one takes as long as a whole one.
    """
    weights = shape.in_channels // shape.groups * shape.out_channels * math.prod(shape.kernel)
    inputs = shape.batch * shape.in_channels * math.prod(shape.size)
    outputs = shape.batch * shape.out_channels * math.prod(_output_size(shape))
    whole = -(-shape.out_channels // lanes) * lanes / shape.out_channels
    macs = round(shape.macs * whole)
    return Step(
        name="",
        op=shape.op,
        macs=macs,
        bytes_read=_FLOAT_BYTES * (weights + inputs),
        bytes_written=_FLOAT_BYTES * outputs,
        tasks=1,
        operations=2 * macs,
    )


def measured_cost(
    target: Target,
    compile_program: CompileProgram,
    *,
    told: Callable[[LayerShape], None] = lambda _shape: None,
) -> Cost:
    """Milliseconds of a layer, compiled alone and run on this machine.

    Each shape is measured once, in about a second. Wide layers are measured at powers of two, and
    interpolated between.

    Args:
        target: this machine's.
        compile_program: the back end.
        told: of each shape before it is measured.

    Returns:
        The function; it raises UnsupportedError for a layer that can't be compiled.
    """

    @cache
    def measure(shape: LayerShape) -> float:
        told(shape)
        return measure_layer(shape, target, compile_program)

    return cache(partial(interpolate, cost=measure))


def interpolate(shape: LayerShape, cost: Cost) -> float:
    """Linear between widths for which ``cost`` is asked."""
    if shape.groups == 1:
        return sum(
            share_in * share_out * cost(_wide(shape, width_in, width_out, 1))
            for width_in, share_in in _corners(shape.in_channels)
            for width_out, share_out in _corners(shape.out_channels)
        )
    if shape.groups == shape.in_channels == shape.out_channels:
        corners = _corners(shape.groups)
        return sum(share * cost(_wide(shape, width, width, width)) for width, share in corners)
    return cost(shape)


def _wide(shape: LayerShape, inputs: int, outputs: int, groups: int) -> LayerShape:
    return replace(shape, in_channels=inputs, out_channels=outputs, groups=groups)


def _corners(width: int) -> Iterator[tuple[int, float]]:
    """Measured widths around one, with their shares; itself if it is measured."""
    low = 1 << (width.bit_length() - 1)
    if width <= _FINEST or width == low:
        yield width, 1.0
        return
    yield low, 2.0 - width / low
    yield 2 * low, width / low - 1.0


def measure_layer(shape: LayerShape, target: Target, compile_program: CompileProgram) -> float:
    """Compile a layer alone and time it, in milliseconds; moving its input in and out not.

    Raises:
        UnsupportedError, ModelError: it can't be compiled.
        DeepSeekEdgeError: as ``Engine``.
    """
    graph = layer_graph(shape)
    with work_directory(None, "layer") as folder:
        program = compile_program(
            graph, target, batches=(1,), work_dir=folder, progress=lambda *_: None
        )
        entry = program.entries[0]
        inputs = sample_inputs(graph, entry.inputs, 0)
        (seconds,) = compare_steps([program.library], inputs)
    return 1e3 * sum(s for step, s in zip(entry.steps, seconds, strict=True) if step.macs)


def layer_graph(shape: LayerShape) -> onnx.ModelProto:
    """A model of one layer with random weights, bias and ReLU."""
    attributes: dict[str, Any] = {}
    spread = {"kernel_shape": shape.kernel, "strides": shape.stride, "dilations": shape.dilation}
    if shape.op == "linear":
        op, x = "MatMul", [shape.batch, *shape.size, shape.in_channels]
        weights = _noise(shape.in_channels, shape.out_channels)
    else:
        op = "Conv" if shape.op == "conv" else "ConvTranspose"
        x = [shape.batch, shape.in_channels, *shape.size]
        attributes = {**spread, "pads": shape.padding * 2, "group": shape.groups}
        channels = (shape.out_channels, shape.in_channels)
        rows, columns = channels if shape.op == "conv" else channels[::-1]
        weights = _noise(rows, columns // shape.groups, *shape.kernel)
    layer = helper.make_node(op, ["x", "w"], ["h"], name="layer", **attributes)
    return helper.make_model(
        helper.make_graph(
            [layer, helper.make_node("Relu", ["h"], ["y"], name="relu")],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(x))],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )


def _noise(*shape: int) -> NDArray[np.float32]:
    fan_in = math.prod(shape[1:])
    random = np.random.default_rng(0).standard_normal(shape) / math.sqrt(fan_in)
    return random.astype(np.float32)


def _output_size(shape: LayerShape) -> tuple[int, ...]:
    """Spatial axes of the output, those of transposed convolutions too."""
    if shape.op != "conv_transpose":
        return shape.output_size
    spread = zip(shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation, strict=True)
    return tuple((size - 1) * s + d * (k - 1) + 1 - 2 * p for size, k, s, p, d in spread)

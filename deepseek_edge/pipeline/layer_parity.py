"""Programs with float layers between their integer ones are judged layer by layer.

Float sums round in their own order, so a value beside a tie may become the next integer, and the
layers behind amplify that step: one of 49,152 values of one tensor left MiniLM 10 steps off. No
two executions agree end to end then. What can be asked is that each layer is right on the
integers that the program itself gave it. So the program is built again with its quantized
tensors as outputs, and the reference computes each of them from the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deepseek_edge.artifacts import Program
from deepseek_edge.errors import ParityError
from deepseek_edge.integer_form import integer_form
from deepseek_edge.parity import (
    Array,
    Reference,
    Tensors,
    check_graph,
    graph_inputs,
    output_steps,
)
from deepseek_edge.pipeline.placement import Run

# An integer may be the rounding of a number this far from the reference's: the float tolerance
# of parity is a quarter of a step of 255.
TIE_STEPS = 0.01

_OBSERVED = "observed/"


@dataclass(frozen=True)
class Call:
    """What a program made of some inputs.

    Attributes:
        entry: index of the program's entry.
    """

    entry: int
    inputs: Tensors
    outputs: Tensors


def is_mixed(program: Program) -> bool:
    """True if it has integer and float layers: any other must be right end to end."""
    return bool(program.layers.int8 and program.layers.float32)


def observable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The Q/DQ graph with an output more for each quantized activation: its dequantized values."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for number, node in enumerate(_quantizations(model)):
        name = f"{_OBSERVED}{number}"
        inputs = [node.output[0], *node.input[1:]]
        result.graph.node.append(helper.make_node("DequantizeLinear", inputs, [name], name=name))
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        result.graph.output.append(value)
    return onnx.shape_inference.infer_shapes(result)


def check_layers(model: onnx.ModelProto, observed: Run, calls: Sequence[Call]) -> int:
    """Check each quantized tensor, and the outputs, given the program's other integers.

    Args:
        model: the Q/DQ graph.
        observed: runs the program that was compiled from :func:`observable` of it.
        calls: of the program that was compiled from ``model`` itself.

    Returns:
        How many tensors of a call were checked.

    Raises:
        ParityError: an integer isn't what the reference rounds to, or rounds to within 1/100
            step of a tie; an output is wrong; or the two programs' outputs differ in a bit.
    """
    layers: dict[int, _Layers] = {}
    for call in calls:
        actual = observed(call.inputs, call.entry)
        _check_same(call.outputs, actual)
        if call.entry not in layers:
            layers[call.entry] = _Layers(model, call.inputs, actual)
        layers[call.entry].check(call.inputs, actual)
    return max((len(one.points) for one in layers.values()), default=0)


def _quantizations(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    ]


def _check_same(outputs: Tensors, again: Tensors) -> None:
    for name, value in outputs.items():
        if not np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f"):
            raise ParityError(
                f"parity failed: output {name!r} changes when quantized tensors are outputs too, "
                "so its layers can't be checked"
            )


@dataclass(frozen=True)
class _Point:
    """A quantized tensor.

    Attributes:
        unrounded: the reference's output in steps, before the zero point is added.
    """

    name: str
    scale: float
    zero_point: int
    unrounded: str


class _Layers:
    """The reference, cut at every quantized tensor."""

    def __init__(self, model: onnx.ModelProto, inputs: Tensors, observed: Tensors) -> None:
        """Of one entry: ``inputs`` and ``observed`` outputs have its shapes."""
        from deepseek_edge.backends.tvm import with_batch

        spec = graph_inputs(model)[0]
        batch = inputs[spec.name].shape[:1]
        self._model = with_batch(model, *batch) if batch != spec.shape[:1] else model
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        cut = integer_form(self._model)
        self.points = []
        outputs = {value.name for value in cut.graph.output}
        places: dict[str, str] = {}
        for number, (node, written) in enumerate(
            zip(_quantizations(cut), _quantizations(model), strict=True)
        ):
            name = f"{_OBSERVED}{number}"
            places[node.output[0]] = name
            zero = int(constants[written.input[2]].reshape(())) if len(written.input) > 2 else 0
            scale = float(constants[written.input[1]].reshape(()))
            self.points.append(_Point(name, scale, zero, node.input[0]))
            integers = (name, onnx.TensorProto.INT8, observed[name].shape)
            cut.graph.input.append(helper.make_tensor_value_info(*integers))
            if node.input[0] not in outputs:
                outputs.add(node.input[0])
                numbers = (node.input[0], onnx.TensorProto.FLOAT, None)
                cut.graph.output.append(helper.make_tensor_value_info(*numbers))
        for node in cut.graph.node:
            for place, value in enumerate(node.input):
                node.input[place] = places.get(value, value)
        self._reference = Reference(cut, as_written=True)

    def check(self, inputs: Tensors, actual: Mapping[str, Array]) -> None:
        """Compare one call."""
        integers = {point.name: _integers(actual[point.name], point) for point in self.points}
        found = self._reference.run({**inputs, **integers})
        for point in self.points:
            exact = found[point.unrounded].astype(np.float64) + point.zero_point
            error = np.abs(integers[point.name] - np.clip(exact, -128, 127)).max(initial=0.0)
            if not error <= 0.5 + TIE_STEPS:
                raise ParityError(
                    f"parity failed: {point.unrounded!r} is quantized {error:.2f} steps off "
                    "although its layer was given the program's own integers",
                    hint="this is a defect of the compiler, not of the model: report it with the "
                    "model; --dump DIR keeps what was generated",
                )
        expected = {value.name: found[value.name] for value in self._model.graph.output}
        check_graph([expected], [actual], scales=output_steps(self._model, [expected]))


def _integers(values: Array, point: _Point) -> Any:
    return (np.rint(values.astype(np.float64) / point.scale) + point.zero_point).astype(np.int8)

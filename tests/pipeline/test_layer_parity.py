"""A net of integer and float layers, compiled with the real back end."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepseek_edge.artifacts import Program
from deepseek_edge.backends.tvm import compile_program
from deepseek_edge.errors import ParityError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline.checking import CheckedProgram, check_program
from deepseek_edge.pipeline.layer_parity import Call, check_layers, observable
from deepseek_edge.pipeline.plan import PlannedTarget
from deepseek_edge.quantization import Quantizer
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from tests.quantization.graphs import residual, samples

pytestmark = pytest.mark.tvm

Build = Callable[[onnx.ModelProto], Program]
HOST = load_target("host")


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def compiled(model: onnx.ModelProto) -> Program:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return compile_program(
            model, HOST, batches=(1, 2), work_dir=folder, progress=lambda *_: None
        )

    return compiled


@pytest.fixture
def one(tmp_path: Path) -> PlannedTarget:
    return PlannedTarget(HOST, "host", tmp_path / "out.dse")


def mixed() -> onnx.ModelProto:
    """Its depthwise convolution is float, the others are integer."""
    quantized = Quantizer(residual()).calibrate(samples(8)).quantize()
    return quantized.keep_float({"b_node": "asked"}).model


def shifted(model: onnx.ModelProto, steps: float) -> onnx.ModelProto:
    """As if the compiler added so many output steps to the float layer's bias."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layer = next(node for node in model.graph.node if node.name == "b_node")
    behind = next(node for node in model.graph.node if node.op_type == "Clip")
    quantize = next(n for n in model.graph.node if n.input[0] == behind.output[0])
    scale = float(numpy_helper.to_array(constants[quantize.input[1]]).reshape(()))
    bias = constants[layer.input[2]]
    moved = numpy_helper.to_array(bias) + np.float32(steps * scale)
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    return model


def call(program: Program) -> Call:
    with Engine(program.library) as engine:
        return Call(0, samples(1)[0], engine.run(samples(1)[0]))


def test_every_quantized_tensor_is_checked(build: Build, one: PlannedTarget) -> None:
    model = mixed()
    observed = build(observable(model))
    quantizations = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert check_layers(model, observed, one, [call(build(model))]) == len(quantizations) >= 3


def test_a_layer_that_is_a_tenth_of_a_step_off_is_found(build: Build, one: PlannedTarget) -> None:
    wrong = shifted(mixed(), 0.1)
    with pytest.raises(ParityError, match=r"quantized 0\.\d+ steps off"):
        check_layers(mixed(), build(observable(wrong)), one, [call(build(wrong))])


def test_layers_of_another_program_say_nothing(build: Build, one: PlannedTarget) -> None:
    made = call(build(shifted(mixed(), 3)))
    with pytest.raises(ParityError, match="changes when quantized tensors are outputs too"):
        check_layers(mixed(), build(observable(mixed())), one, [made])


def check(model: onnx.ModelProto, one: PlannedTarget, build: Build) -> CheckedProgram:
    """Against a reference that amplified a tie into three steps everywhere."""
    exact = Reference(model)

    def run(inputs: Any) -> dict[str, Any]:
        outputs = exact.run(inputs)
        return {name: value + np.ptp(value) * 3 / 255 for name, value in outputs.items()}

    off: Any = SimpleNamespace(run=run)
    return check_program(build(model), one, model, off, lambda _: None, rebuild=build)


def test_a_mix_that_fails_end_to_end_is_judged_by_layers_and_that_is_said(
    build: Build, one: PlannedTarget
) -> None:
    checked = check(mixed(), one, build)
    assert len(checked.notes) == 1
    assert "layer by layer" in checked.notes[0]
    assert "steps off" in checked.notes[0]
    graph = checked.report.parity_graph
    assert graph is not None
    assert graph.samples == 6
    assert graph.max_steps is not None
    assert graph.max_steps > 2


def test_a_program_of_integer_layers_must_be_right_end_to_end(
    build: Build, one: PlannedTarget
) -> None:
    model = Quantizer(residual()).calibrate(samples(8)).quantize().model
    with pytest.raises(ParityError, match="steps off"):
        check(model, one, build)

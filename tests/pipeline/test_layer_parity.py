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
from deepseek_edge.backends.tvm.cuda import compile_cuda_program
from deepseek_edge.device.probes.nvidia_driver import Driver, Gpu
from deepseek_edge.errors import ParityError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline.checking import CheckedProgram, check_program
from deepseek_edge.pipeline.choosing import Builder, CompileProgram
from deepseek_edge.pipeline.gate import Job
from deepseek_edge.pipeline.gpu_programs import GpuInstruments, GpuPrograms, make_gpu_programs
from deepseek_edge.pipeline.layer_parity import Call, check_layers, observable
from deepseek_edge.pipeline.placement import open_program
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.quantization import Quantizer
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target
from tests.backends.tvm.cuda.emulation import driver, emulate
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
    with open_program(observed, one.target, "host") as run:
        count = check_layers(model, run, [call(build(model))])
    assert count == len(quantizations) >= 3


def test_a_layer_that_is_a_tenth_of_a_step_off_is_found(build: Build, one: PlannedTarget) -> None:
    wrong = shifted(mixed(), 0.1)
    observed = build(observable(wrong))
    with (
        open_program(observed, one.target, "host") as run,
        pytest.raises(ParityError, match=r"quantized 0\.\d+ steps off"),
    ):
        check_layers(mixed(), run, [call(build(wrong))])


def test_layers_of_another_program_say_nothing(build: Build, one: PlannedTarget) -> None:
    made = call(build(shifted(mixed(), 3)))
    observed = build(observable(mixed()))
    with (
        open_program(observed, one.target, "host") as run,
        pytest.raises(ParityError, match="changes when quantized tensors are outputs too"),
    ):
        check_layers(mixed(), run, [made])


def check(model: onnx.ModelProto, one: PlannedTarget, build: Build) -> CheckedProgram:
    return check_program(build(model), one, model, off(model), lambda _: None, rebuild=build)


def off(model: onnx.ModelProto) -> Any:
    """A reference that amplified a tie into three steps everywhere."""
    exact = Reference(model)

    def run(inputs: Any) -> dict[str, Any]:
        outputs = exact.run(inputs)
        return {name: value + np.ptp(value) * 3 / 255 for name, value in outputs.items()}

    return SimpleNamespace(run=run)


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


def emulated(model: onnx.ModelProto, target: Target, *, work_dir: Path, **how: Any) -> Program:
    """Compiled for the GPU, which has these kernels, in emulation, until it is given others."""
    program = compile_cuda_program(model, target, work_dir=work_dir, **how)
    driver().fake_reset(13000, 90)
    driver().fake_kernels(str(emulate(work_dir)).encode())
    return program


def wrong(model: onnx.ModelProto, *arguments: Any, **how: Any) -> Program:
    return emulated(shifted(model, 0.1), *arguments, **how)


def on_the_gpu(model: onnx.ModelProto, folder: Path, cuda: CompileProgram) -> GpuPrograms:
    """As a compile for host-cuda makes it where there is such a GPU."""
    target = load_target("host-cuda")
    origin: Any = SimpleNamespace(reference=off(model))
    job = Job(
        CompileRequest(model),
        PlannedTarget(target, "host", folder / "out.dse"),
        origin,
        Builder(compile_program, target, (1,), folder, lambda *_: None),
        Stopwatch(),
        lambda _: None,
    )
    report = SimpleNamespace(program=SimpleNamespace(id="cpu-int8"))
    passed: Any = SimpleNamespace(
        compiled=SimpleNamespace(graph=model, quantized=None),
        checked=SimpleNamespace(report=report),
    )
    here = Driver("13.0", (Gpu("NVIDIA H100", "sm_90"),), None)
    return make_gpu_programs(job, passed, GpuInstruments(lambda: cuda, lambda: here))


def test_a_mix_on_the_gpu_is_judged_by_layers_too(tmp_path: Path) -> None:
    made = on_the_gpu(mixed(), tmp_path, emulated)
    assert driver().fake_graph_launches() > 0
    (checked,) = made.programs
    assert checked.report.verified == "gpu:NVIDIA H100"
    (note,) = made.notes
    assert note.startswith("cuda-int8: right layer by layer: each of 6 quantized tensors")


def test_a_layer_of_a_mix_that_is_wrong_on_the_gpu_is_found(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"quantized 0\.\d+ steps off"):
        on_the_gpu(mixed(), tmp_path, wrong)

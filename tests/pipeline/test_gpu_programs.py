from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_edge import capabilities
from deepseek_edge.artifacts import Program
from deepseek_edge.bundle import open_bundle
from deepseek_edge.device.probes.nvidia_driver import Driver, Gpu
from deepseek_edge.errors import MissingToolError, ParityError, UnsupportedError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline import CompileRequest, compile_model
from deepseek_edge.pipeline.checking import CheckedProgram
from deepseek_edge.pipeline.choosing import Builder
from deepseek_edge.pipeline.gate import Passed
from deepseek_edge.pipeline.gpu_programs import GpuInstruments, GpuPrograms, make_gpu_programs
from deepseek_edge.pipeline.running import open_program_of
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.report import CompileReport, ProgramReport
from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.target import load_target
from tests.backends.tensorrt.test_deferred import quantized
from tests.quantization.graphs import residual, samples
from tests.tiny_model import TinyBackend, describe, tiny_onnx

pytestmark = pytest.mark.tvm


class Cuda:
    """Stands in for NVRTC and a GPU: a library for the CPU, said to be for a GPU."""

    def __init__(self, error: float = 0.0, refusal: str | None = None) -> None:
        self.backend, self.refusal = TinyBackend(error=error), refusal
        self.precisions: list[str | None] = []

    def __call__(self, *arguments: Any, precision: str | None, **options: Any) -> Program:
        self.precisions.append(precision)
        if self.refusal is not None:
            raise UnsupportedError(self.refusal)
        program = self.backend(*arguments, **options)
        named = {"id": f"cuda-{precision}", "precision": precision or "int8"}
        return Program(**(vars(program) | named))


def compile_tiny(
    folder: Path, cuda: Cuda, driver: Driver | None = None, **changes: Any
) -> CompileReport:
    path = folder / "tiny.onnx"
    onnx.save(tiny_onnx(), path)
    fields: dict[str, Any] = {
        "model": str(path),
        "output": folder / "out.dse",
        "targets": ("jetson-orin",),
    }
    (report,) = compile_model(
        CompileRequest(**(fields | changes)),
        compile_program=TinyBackend(),
        gpu=GpuInstruments(cuda=lambda: cuda, driver=lambda: driver),
    ).reports
    return report


@pytest.mark.emulated
def test_a_gpus_programs_come_before_the_cpus(tmp_path: Path) -> None:
    report = compile_tiny(tmp_path, Cuda())
    found = [(one.program.id, one.program.gpu, one.verified) for one in report.programs]
    assert found == [
        ("tensorrt-float32", "sm_87", None),
        ("cuda-float32", "sm_87", None),
        ("cpu-float32", None, "qemu"),
    ]
    assert report.notes == ()
    with open_bundle(report.bundle) as bundle:
        assert str(bundle.manifest.tools.nvrtc).startswith("11.8.")
        assert [program.id for program in bundle.manifest.programs] == [id for id, _, _ in found]
        with open_program_of(bundle, "qemu") as program:
            assert program.record.id == "cpu-float32"
            assert len(program.passed_over) == 2


def test_a_board_builds_its_engine_from_what_the_bundle_brings(tmp_path: Path) -> None:
    report = compile_tiny(tmp_path, Cuda(), precision="float16")
    with open_bundle(report.bundle) as bundle:
        bundle.extract(tmp_path / "board")
        golden = {tensor.direction: tensor for tensor in bundle.manifest.golden}
        given = bundle.read(golden["input"].file)
    folder = tmp_path / "board" / "programs" / "tensorrt-float16"
    recipe = read_recipe(folder)
    assert recipe.fallback == ("cuda-float16", "cpu-float32")
    assert [tensor.file.read() for tensor in recipe.inputs] == [given]
    (graph,) = recipe.graphs
    assert graph.precision == "float16"
    model = onnx.load_from_string(graph.file.read())
    assert {onnx.TensorProto.FLOAT16} == {one.data_type for one in model.graph.initializer}
    (output,) = graph.outputs
    reference = np.frombuffer(bundle_output(report, golden["output"].file), "<f4")
    value = np.frombuffer(output.file.read(), "<f4")
    np.testing.assert_allclose(value, reference, atol=output.tolerance / 20)
    assert (folder / "dse_build.py").read_bytes().startswith(b'"""')


def bundle_output(report: CompileReport, file: str) -> bytes:
    with open_bundle(report.bundle) as bundle:
        return bundle.read(file)


def programs_of(folder: Path, graph: onnx.ModelProto, model: onnx.ModelProto) -> GpuPrograms:
    """What Orin's GPU gets of a model and its Q/DQ graph, without a CUDA program."""
    (folder / "model.so").write_bytes(b"")
    cpu = describe(folder / "model.so", (1,), ("x", "y"))
    (inputs,) = samples(1, seed=9)
    outputs = Reference(graph).run(inputs)
    target, cuda = load_target("jetson-orin"), Cuda(refusal="no CUDA here")
    job: Any = SimpleNamespace(
        request=CompileRequest("residual.onnx", ("jetson-orin",)),
        one=SimpleNamespace(target=target, place=None),
        origin=SimpleNamespace(model=model, reference=Reference(residual())),
        build=Builder(cuda, target, (1,), folder, lambda *_: None),
        clock=Stopwatch(),
        narrate=lambda _line: None,
    )
    compiled: Any = SimpleNamespace(graph=graph, quantized=graph, program=cpu)
    checked = CheckedProgram(ProgramReport(cpu, None, None, None), inputs, outputs)
    instruments = GpuInstruments(cuda=lambda: cuda, driver=lambda: None)
    return make_gpu_programs(job, Passed(compiled, checked, None, ()), instruments)


def test_a_graph_that_tensorrt_refuses_leaves_the_other_one(tmp_path: Path) -> None:
    found = programs_of(tmp_path, quantized("asymmetric"), residual())
    assert [one.report.program.id for one in found.programs] == ["tensorrt-float16"]
    recipe = read_recipe(tmp_path / "tensorrt")
    assert [graph.precision for graph in recipe.graphs] == ["float16"]
    note = found.notes[-1]
    assert note.startswith("no int8 graph for TensorRT: QuantizeLinear (node 'x/quantized'):")
    assert note.endswith("; float16 is left")


def test_a_float_graph_that_tensorrt_refuses_leaves_int8(tmp_path: Path) -> None:
    whole = residual()
    whole.functions.add()
    found = programs_of(tmp_path, quantized("symmetric"), whole)
    assert [one.report.program.id for one in found.programs] == ["tensorrt-int8"]
    assert "no float16 graph for TensorRT: a graph with functions" in found.notes[-1]


def test_without_a_graph_for_tensorrt_its_program_is_missing(tmp_path: Path) -> None:
    whole = residual()
    whole.functions.add()
    found = programs_of(tmp_path, quantized("asymmetric"), whole)
    assert found.programs == ()
    note = found.notes[-1]
    assert note.startswith("no TensorRT program: TensorRT takes no graph of residual: int8: ")
    assert note.endswith("; cpu-float32 takes over")


@pytest.mark.parametrize(
    ("asked", "floats"), [(None, "float32"), ("float32", "float32"), ("float16", "float16")]
)
def test_floats_are_as_asked_and_exact_by_default(
    asked: str | None, floats: str, tmp_path: Path
) -> None:
    cuda = Cuda()
    report = compile_tiny(tmp_path, cuda, precision=asked)
    assert cuda.precisions == [floats]
    assert report.programs[0].program.precision == floats


def test_what_cuda_cannot_compile_is_left_to_the_next_program(tmp_path: Path) -> None:
    report = compile_tiny(tmp_path, Cuda(refusal="Loop (node 'a')"))
    assert [one.program.id for one in report.programs] == ["tensorrt-float32", "cpu-float32"]
    assert report.notes == ("no CUDA program: Loop (node 'a'); cpu-float32 takes over",)


def test_the_cpu_program_alone_is_made_if_that_is_asked_for(tmp_path: Path) -> None:
    cuda = Cuda()
    report = compile_tiny(tmp_path, cuda, cpu_only=True)
    assert [one.program.id for one in report.programs] == ["cpu-float32"]
    assert cuda.precisions == []


def test_with_the_gpu_here_its_program_is_run_and_judged(tmp_path: Path) -> None:
    here = Driver("13.0", (Gpu("NVIDIA H100", "sm_90"),), None)
    report = compile_tiny(tmp_path, Cuda(), here, targets=("host-cuda",))
    # There is no TensorRT for this target.
    assert [one.program.id for one in report.programs] == ["cuda-float32", "cpu-float32"]
    assert report.programs[0].verified == "gpu:NVIDIA H100"
    assert report.programs[0].parity_graph is not None
    with pytest.raises(ParityError, match="output 'y' is off by"):
        compile_tiny(tmp_path, Cuda(error=0.05), here, targets=("host-cuda",))


def test_half_floats_may_be_farther_off(tmp_path: Path) -> None:
    here = Driver("13.0", (Gpu("NVIDIA H100", "sm_90"),), None)
    changes = {"targets": ("host-cuda",), "precision": "float16"}
    report = compile_tiny(tmp_path, Cuda(error=0.01), here, **changes)
    parity = report.programs[0].parity_graph
    assert parity is not None
    assert 1e-3 < parity.max_abs < 2e-2
    with pytest.raises(ParityError, match="1e-03 is allowed"):
        compile_tiny(tmp_path, Cuda(error=0.01), here, **(changes | {"precision": "float32"}))


def test_a_missing_compiler_is_found_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = capabilities._version
    gone = "nvidia-cuda-nvrtc-cu11"
    monkeypatch.setattr(
        capabilities, "_version", lambda name: None if name == gone else known(name)
    )
    cuda = Cuda()
    with pytest.raises(MissingToolError, match=f"{gone} is needed for sm_72") as refused:
        compile_tiny(tmp_path, cuda, targets=("jetson-xavier",))
    assert "--cpu-only" in str(refused.value.hint)
    assert cuda.precisions == []


def test_float16_is_refused_where_there_is_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="float16 is not supported by this version for host"):
        compile_tiny(tmp_path, Cuda(), targets=("host",), precision="float16")

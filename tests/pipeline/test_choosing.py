from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_edge.artifacts import Entry, KeptFloat, Layers, Program, Step
from deepseek_edge.errors import ModelError, ParityError, UsageError
from deepseek_edge.integer_form import is_quantized
from deepseek_edge.pipeline import CompileRequest, compile_model, quantizing
from deepseek_edge.pipeline.choosing import Builder, Clocks, choose_precision, named
from deepseek_edge.pipeline.quantizing import Compiled
from deepseek_edge.quantization import QuantConfig, QuantizedModel, Quantizer
from deepseek_edge.report import Bandwidth
from deepseek_edge.target import load_target
from deepseek_edge.tensors import TensorSpec
from tests.quantization.graphs import residual, samples

LAYERS = ("a_node", "b_node", "c_node", "y_node")


@pytest.fixture(scope="module")
def quantized() -> QuantizedModel:
    config = QuantConfig(rounding="nearest", equalization=False)
    return Quantizer(residual(), config).calibrate(samples(8)).quantize()


def build_nothing(model: onnx.ModelProto, target: Any, *, work_dir: Path, **_: Any) -> Program:
    """Says what a back end would; each layer does 1000 multiply-accumulates."""
    steps = tuple(
        Step(n.name, n.op_type, 1000, 40, 40, 1, 2000, 4 if "/dequantized" in n.input[1] else 1)
        for n in model.graph.node
        if n.op_type in ("Conv", "Gemm")
    )
    count = sum(step.lane_macs == 4 for step in steps)
    kept = tuple(KeptFloat(s.name, "of the back end") for s in steps if s.lane_macs == 1)
    return Program(
        id="cpu",
        backend="tvm",
        precision="int8" if count else "float32",
        library=work_dir / "model.so",
        entries=(Entry("batch1", (TensorSpec("x", "float32", (1, 3, 12, 12)),), (), steps),),
        features=(),
        size_bytes=0,
        code_bytes=0,
        weights_bytes=0,
        arena_bytes=0,
        layers=Layers(4, count, 0, 4 - count, 0.5, kept if count else ()),
    )


def choose(
    quantized: QuantizedModel,
    folder: Path,
    *,
    target: str = "host",
    int8_ms: Sequence[float] = (1, 1, 1, 1),
    calls_ms: Sequence[float] = (3, 2, 1),
) -> tuple[Compiled, list[list[str]]]:
    """With 2 ms for each layer in float; also the programs whose calls were timed."""
    timed: list[list[str]] = []

    def calls(libraries: Sequence[Path], inputs: Any) -> list[float]:
        assert inputs["x"].shape == (1, 3, 12, 12)
        timed.append([path.parent.name for path in libraries])
        return [ms / 1e3 for ms in calls_ms[: len(libraries)]]

    def steps(libraries: Sequence[Path], inputs: Any) -> list[list[float]]:
        del inputs
        assert [path.parent.name for path in libraries] == ["float32", "int8"]
        return [[2e-3] * 4, [ms / 1e3 for ms in int8_ms]]

    clocks = Clocks(calls, steps, lambda target, threads: [Bandwidth(float("inf"), 1e12)])
    builder = Builder(build_nothing, load_target(target), (1,), folder, lambda *_: None)
    found = choose_precision(residual(), quantized, builder, lambda _: None, clocks)
    return found, timed


def test_what_is_slower_in_int8_is_compiled_in_float(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    found, timed = choose(quantized, tmp_path, int8_ms=(1, 5, 1, 1))
    assert timed == [["float32", "int8", "mixed"]]
    assert found.program.library.parent.name == "mixed"
    assert found.quantized is not None
    assert found.quantized.layers == ("a_node", "c_node", "y_node")
    assert found.program.layers.kept_float == (
        KeptFloat("b_node", "int8 5.000 ms, float 2.000 ms"),
    )
    assert found.notes == (
        "auto, measured: mixed, of float32 3.000 ms, int8 2.000 ms, mixed 1.000 ms",
    )


def test_a_mix_that_is_slower_than_int8_is_dropped(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    found, _ = choose(quantized, tmp_path, int8_ms=(1, 5, 1, 1), calls_ms=(3, 1, 2))
    assert found.program.library.parent.name == "int8"
    assert found.graph == quantized.model
    assert found.program.layers.kept_float == ()


def test_float_is_shipped_as_it_was_given_if_it_is_fastest(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    found, _ = choose(quantized, tmp_path, int8_ms=(1, 5, 1, 1), calls_ms=(1, 2, 3))
    assert (found.graph, found.quantized) == (residual(), None)
    assert [one.name for one in found.program.layers.kept_float] == list(LAYERS)
    assert all("ms" in one.reason for one in found.program.layers.kept_float)


def test_nothing_is_mixed_where_int8_wins_or_loses_everywhere(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    for int8_ms in ((1, 1, 1, 1), (3, 3, 3, 3)):
        _, timed = choose(quantized, tmp_path, int8_ms=int8_ms)
        assert timed == [["float32", "int8"]]


def test_another_machine_is_modelled(quantized: QuantizedModel, tmp_path: Path) -> None:
    found, timed = choose(quantized, tmp_path, target="raspberry-pi-5")
    assert timed == []
    assert found.program.precision == "int8"
    assert found.notes[0].startswith("auto, modelled: int8, of float32 ")


def test_a_mix_that_fails_its_parity_is_replaced_and_that_is_said(
    quantized: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = choose(quantized, tmp_path, int8_ms=(1, 5, 1, 1))
    said: list[str] = []

    def check(compiled: Compiled, *_: Any) -> Any:
        if compiled.program.library.parent.name == "mixed":
            raise ParityError("output 'y' is 6 steps off")
        return "checked"

    monkeypatch.setattr(quantizing, "check_against_origin", check)
    one: Any = SimpleNamespace(target=SimpleNamespace(id="host"))
    origin: Any = None
    kept, checked = quantizing.check_best(found, one, origin, said.append)
    assert str(checked) == "checked"
    assert kept.program.library.parent.name == "int8"
    assert kept.notes[1].endswith("output 'y' is 6 steps off")
    assert said == [f"host: {kept.notes[1]}"]
    with pytest.raises(ParityError):
        quantizing.check_best(replace(found, otherwise=None), one, origin, said.append)


def test_nodes_without_a_name_get_the_one_that_their_layer_has() -> None:
    model = residual()
    for node in model.graph.node:
        node.name = ""
    first = next(iter(named(model).graph.node))
    assert first.name == Quantizer(model).calibrate(samples(8)).quantize().layers[0] == "a"
    assert model.graph.node[0].name == ""


def request(folder: Path, model: onnx.ModelProto, **changes: Any) -> CompileRequest:
    fields: dict[str, Any] = {
        "model": model,
        "precision": "auto",
        "output": folder / "m.dse",
    } | changes
    return CompileRequest(**fields)


def test_auto_needs_data_and_a_float_model(quantized: QuantizedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="INT8 needs data") as refused:
        compile_model(request(tmp_path, residual()), compile_program=build_nothing)
    assert "--calib" in (refused.value.hint or "")
    assert is_quantized(quantized.model)
    with pytest.raises(ModelError, match="nothing to calibrate or to choose"):
        compile_model(request(tmp_path, quantized.model), compile_program=build_nothing)


@pytest.mark.tvm
def test_a_real_compile_gives_a_checked_bundle_and_says_what_it_chose(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    np.savez(path, x=np.concatenate([sample["x"] for sample in samples(32)]))
    result = compile_model(request(tmp_path, residual(), calibration=str(path)))
    (report,) = result.reports
    (checked,) = report.programs
    assert checked.verified == "host"
    assert checked.parity_graph is not None
    by_layers = any("layer by layer" in note for note in report.notes)
    assert checked.parity_graph.within == 1.0 or by_layers
    assert report.notes[0].startswith("auto, measured: ")
    layers = checked.program.layers
    assert layers.total == layers.int8 + layers.float32 == 4
    assert len(layers.kept_float) == layers.float32

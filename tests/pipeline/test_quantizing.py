from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_edge.errors import InputError, ModelError, UsageError
from deepseek_edge.export import fix_shapes
from deepseek_edge.integer_form import is_quantized
from deepseek_edge.pipeline import CompileRequest, compile_model
from deepseek_edge.pipeline.given import Given
from deepseek_edge.pipeline.plan import model_name
from deepseek_edge.pipeline.quantizing import check_precision, prepare_calibration
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.target import load_target
from tests.quantization.graphs import residual, samples


@pytest.fixture
def data(tmp_path: Path) -> str:
    return save(tmp_path / "calibration.npz", seed=0)


def save(path: Path, seed: int, **arrays: Any) -> str:
    """Sixteen samples of the residual model's input."""
    x = np.concatenate([sample["x"] for sample in samples(16, seed)])
    np.savez(path, x=x, **arrays)
    return str(path)


COARSE = QuantConfig(observer="percentile", float_budget=0.01)


def request(**changes: Any) -> CompileRequest:
    fields: dict[str, Any] = {"model": residual(), "precision": "int8"} | changes
    return CompileRequest(**fields)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, UsageError, "INT8 needs data"),
        ({"calibration": "no-such-data"}, UsageError, "no data set"),
        ({"calibration": "imagenet-foolbox-20"}, UsageError, "is for evaluation"),
        ({"calibration": "DATA", "evaluation": "DATA"}, UsageError, "share 16 samples"),
        ({"calibration": "ZEROS"}, InputError, "everywhere"),
        ({"calibration": "DATA", "precision": "float32"}, UsageError, "is for INT8"),
        ({"precision": "float32", "quantization": COARSE}, UsageError, "need data"),
        ({"calibration": "DATA", "samples": 0}, UsageError, "at least one sample"),
    ],
)
def test_int8_that_cannot_be_right_is_refused_before_the_compiler_runs(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    labels = np.zeros(16, np.int64)
    np.savez(tmp_path / "zeros.npz", x=np.zeros((16, 3, 12, 12), np.float32))
    places = {"DATA": save(tmp_path / "d.npz", 0, labels=labels), "ZEROS": tmp_path / "zeros.npz"}
    changes = {
        key: str(places.get(str(v), v)) if isinstance(v, str) else v for key, v in changes.items()
    }

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the back end was called")

    output = tmp_path / "out.dse"
    with pytest.raises(error, match=message):
        compile_model(request(output=output, **changes), compile_program=never)
    assert not output.exists()


def test_data_for_a_quantized_graph_is_refused(data: str) -> None:
    quantized = Quantizer(residual()).calibrate(samples(8)).quantize().model
    assert is_quantized(quantized) and not is_quantized(residual())
    for changes in ({"calibration": data}, {"precision": "auto"}, {"precision": "float32"}):
        with pytest.raises(ModelError, match="quantized already"):
            check_precision(request(**changes), quantized)
    check_precision(request(), quantized)
    assert prepare_calibration(request(), Given(quantized), None) is None


def test_a_target_without_zero_points_gets_a_graph_without_them(data: str) -> None:
    model = fix_shapes(residual(), {})
    calibration = prepare_calibration(request(calibration=data, samples=9), Given(model), None)
    assert calibration is not None and len(calibration.samples) == 9
    points = {}
    for name in ("host", "raspberry-pi-5", "jetson-orin"):
        target = load_target(name)
        graph = calibration.quantized_for(target).model
        found = [t for t in graph.graph.initializer if t.name.endswith("/zero_point")]
        points[target.qdq.zero_point] = any(onnx.numpy_helper.to_array(t).any() for t in found)
        if target.qdq.zero_point:
            host = calibration.quantized_for(load_target("host")).model
            assert graph is host
    assert points == {True: True, False: False}


def test_options_of_quantization_reach_the_quantizer(data: str) -> None:
    asked = request(calibration=data, quantization=COARSE)
    calibration = prepare_calibration(asked, Given(fix_shapes(residual(), {})), None)
    assert calibration is not None
    found = calibration.quantized_for(load_target("host"))
    assert found.table.observer == "percentile"
    assert [kept.name for kept in found.kept_float] == ["y_node"]


@pytest.mark.tvm
def test_int8_is_compiled_verified_and_compared_with_the_float_model(
    tmp_path: Path, data: str
) -> None:
    labels = np.arange(16) % 5
    evaluation = save(tmp_path / "evaluation.npz", 1, labels=labels)
    asked = request(calibration=data, evaluation=evaluation, output=tmp_path / "out.dse")
    (report,) = compile_model(asked).reports
    (checked,) = report.programs
    assert checked.verified == "host" and checked.program.precision == "int8"
    assert checked.parity_graph is not None and checked.parity_graph.max_steps in (0, 1, 2)
    assert checked.parity_graph.within >= 0.999
    assert checked.parity_float is not None and checked.parity_float.samples == 8
    assert 20 < checked.parity_float.sqnr_db < 60
    assert checked.program.layers.int8 == 4
    assert [error.name[0] for error in checked.layer_errors] == ["a", "b", "c", "y"]
    # The last layer's output is the model's.
    assert checked.layer_errors[-1].sqnr_db == pytest.approx(checked.parity_float.sqnr_db, abs=3)
    assert report.time_s["quantize"] > 0
    assert report.accuracy is not None and report.accuracy.samples == 16


def test_a_graph_names_its_bundle() -> None:
    assert model_name(residual()) == "small"

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepseek_edge.cli.main import main
from tests.quantization.graphs import residual, samples


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and data for it."""
    onnx.save(residual(), tmp_path / "m.onnx")
    for name, count in (("data", 12), ("few", 3)):
        x = np.concatenate([sample["x"] for sample in samples(count)])
        np.savez(tmp_path / f"{name}.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_and_then_a_graph(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "m.onnx", "--calib", "data.npz", "-o", "t.json"]) == 0
    assert capsys.readouterr().out == "t.json: 6 tensors, 12 samples, minmax\n"
    assert main(["quantize", "m.onnx", "--table", "t.json", "-o", "q.onnx"]) == 0
    assert capsys.readouterr().out.startswith("q.onnx: 4 layers int8, ")
    onnx.checker.check_model(onnx.load(folder / "q.onnx"), full_check=True)
    table = json.loads((folder / "t.json").read_text())
    assert set(table) == {
        "schema", "graph_sha256", "dataset_sha256", "samples", "observer", "tensors",
    }  # fmt: skip
    assert set(table["tensors"]["x"]) == {"min", "max", "scale", "zero_point"}


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["m.onnx", "--calib", "data.npz", "--samples", "8", "--format", "json"]
    assert main(["calibrate", *arguments, "-o", "t.json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["table"], found["samples"], found["tensors"]) == ("t.json", 8, 6)
    assert main(["quantize", *arguments, "-o", "q.onnx"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["graph"], found["layers_int8"], found["kept_float"]) == ("q.onnx", 4, [])
    assert found["size_bytes"] == (folder / "q.onnx").stat().st_size


@pytest.mark.usefixtures("folder")
def test_a_table_without_data_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "m.onnx", "--calib", "data.npz", "-o", "t.json"]) == 0
    for more, is_told in (([], True), (["--calib", "data.npz"], False)):
        capsys.readouterr()
        assert main(["quantize", "m.onnx", "--table", "t.json", *more, "-o", "q.onnx"]) == 0
        assert ("weights round to nearest" in capsys.readouterr().err) == is_told


@pytest.mark.usefixtures("folder")
def test_a_budget_keeps_layers_float_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["m.onnx", "--calib", "data.npz", "--observer", "percentile"]
    assert main(["quantize", *arguments, "--float-budget", "0.01", "-o", "q.onnx"]) == 0
    out = capsys.readouterr().out
    assert "3 layers int8" in out and "y_node: float, int8 in this layer alone leaves" in out


@pytest.mark.usefixtures("folder")
def test_few_samples_are_narrated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "m.onnx", "--calib", "few.npz", "-o", "t.json"]) == 0
    assert "warning: calibrated on 3 samples only" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "m.onnx", "-o", "q.onnx"], "INT8 needs the ranges of real activations"),
        (
            ["quantize", "m.onnx", "--table", "a", "--float-budget", "0.1", "-o", "q.onnx"],
            "which layers cost accuracy shows on data",
        ),
        (
            ["quantize", "m.onnx", "--calib", "data.npz", "--float-budget", "2", "-o", "q.onnx"],
            "a budget of 2.0 can't be meant",
        ),
        (["quantize", "m.onnx", "--table", "no.json", "-o", "q.onnx"], "no.json is no calibration"),
        (
            ["calibrate", "m.onnx", "--calib", "imagenet-foolbox-20", "-o", "t.json"],
            "imagenet-foolbox-20 is for evaluation",
        ),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import cpu, cpu_row
from benchmarks.cpu_table import plot, summary, table
from benchmarks.machine import describe_machine
from benchmarks.peers import OURS, PeerError, Source
from deepseek_edge.errors import UsageError
from deepseek_edge.target import load_target
from tests.tiny_model import TinyBackend, tiny_onnx


def row(model: str, threads: int, ratio: float | None, **changes: Any) -> cpu_row.Row:
    made = cpu_row.failed_row("float32", threads, {OURS: "", "openvino": "", "ncnn": "no layer"})
    ours = None if ratio is None else 2 * ratio
    peers = {"openvino": 2.0, "ncnn": None}
    return {"model": model, **made, "ours_ms": ours, "peers_ms": peers, "ratio": ratio, **changes}


def test_geometric_means_are_of_each_group_and_of_all_ratios() -> None:
    rows = [row("resnet-18", 1, 0.5), row("resnet-50", 1, 2.0), row("resnet-18", 2, 0.25)]
    means = cpu.geometric_means([*rows, row("resnet-50", 2, None)])
    assert means == {"float32-t1": 1.0, "float32-t2": 0.25, "all": pytest.approx(0.63, abs=1e-3)}
    assert cpu.geometric_means([]) == {}


def test_a_row_takes_the_place_of_the_cells_former_one() -> None:
    rows = cpu.add_row([row("resnet-50", 1, 0.5), row("resnet-18", 1, 0.5)], row("resnet-50", 1, 3))
    assert [(one["model"], one["ratio"]) for one in rows] == [("resnet-18", 0.5), ("resnet-50", 3)]


def test_noise_is_pooled_over_outputs_whatever_their_shape() -> None:
    exact = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.float32)}
    ones = np.ones(2, np.float32)
    assert cpu_row.signal_to_noise_db(exact, [ones, ones]) == cpu_row.EQUAL_DB
    assert cpu_row.signal_to_noise_db(exact, [ones, 1.1 * ones]) == pytest.approx(23.0, abs=0.05)


@pytest.mark.parametrize(
    "outputs",
    [[], [np.ones(3, np.float32)], [np.array([np.nan, 1.0], np.float32)]],
    ids=["none", "another size", "NaN"],
)
def test_outputs_that_can_not_be_compared_are_refused(outputs: list[Any]) -> None:
    with pytest.raises(PeerError):
        cpu_row.signal_to_noise_db({"a": np.ones((1, 2), np.float32)}, outputs)


def test_sides_that_work_are_timed_and_the_others_have_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_row, "LOG", tmp_path / "log")
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx(), graph)
    program = TinyBackend()(
        tiny_onnx(), load_target("host"), batches=(1,), work_dir=tmp_path, progress=lambda *_: None
    )
    files: Mapping[str, Path | str] = {
        OURS: program.library,
        "onnxruntime": graph,
        "ncnn": "no layer",
    }
    checked = cpu_row.check(Source(graph, graph))
    found = cpu_row.measure_cell(checked, files, "float32", 1, {})
    assert found["ours_ms"] > 0 < found["peers_ms"]["onnxruntime"]
    assert found["peers_ms"]["ncnn"] is None
    assert found["reasons"] == {"ncnn": "no layer"}
    assert found["best_peer"] == "onnxruntime"
    ratio = found["ours_ms"] / found["peers_ms"]["onnxruntime"]
    assert found["ratio"] == pytest.approx(ratio, abs=1e-3)
    assert found["sqnr_db"][OURS] > cpu_row.INEXACT_DB["float32"]
    assert found["inexact"] == []
    assert "only 1 peers ran it" in found["doubts"]


def test_a_model_that_can_not_be_made_has_its_reason_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cpu, "make_graph", lambda model: "no such package")
    arguments = ["--models", "resnet-18", "--threads", "1", "--peers", "onnxruntime"]
    cpu.main([*arguments, "--precision", "float32", "--json", "cpu.json"])
    cpu.main([*arguments, "--precision", "int8", "--json", "cpu.json", "--keep"])
    report = json.loads(Path("cpu.json").read_text())
    assert [one["precision"] for one in report["rows"]] == ["float32", "int8"]
    assert report["rows"][0]["reasons"][OURS] == "no such package"
    assert report["rows"][0]["ratio"] is None
    assert report["versions"]["onnxruntime"]["onnxruntime"]
    assert report["geomean"] == {}


def test_rows_of_another_machine_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps({"machine": {"cpu": "another"}, "rows": []}))
    with pytest.raises(UsageError, match="another machine"):
        cpu.kept_rows(file)
    file.write_text("[]")
    with pytest.raises(UsageError, match="no file"):
        cpu.kept_rows(file)


@pytest.mark.parametrize(
    "arguments",
    [["--threads", "0"], ["--threads", "two"], ["--models", "vgg"], ["--python", "ncnn=nowhere"]],
)
def test_arguments_that_mean_nothing_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cpu.main([*arguments, "--json", "cpu.json"])
    assert arguments[0] in capsys.readouterr().err


def test_the_summary_has_a_column_for_each_setting() -> None:
    lines = list(summary([row("resnet-18", 1, 0.5), row("minilm-128", 1, 2.0)]))
    assert lines[0].endswith("| float32, 1 thread |")
    assert lines[2] == "| resnet-18 | 0.50 |"
    assert lines[-1] == "| **geometric mean** | **1.00** |"


def test_the_fastest_is_bold_and_the_inexact_are_marked() -> None:
    lines = list(table([row("resnet-18", 1, 0.5, inexact=["openvino"])]))
    assert lines[0] == "**float32, 1 thread**: 0.50 of the best peer's time"
    assert "| resnet-18 | **1.00** | 2.00\\* | - | 0.50 |" in lines


def test_the_same_rows_give_the_same_plot(tmp_path: Path) -> None:
    rows = [row("resnet-18", 1, 0.5), row("resnet-18", 2, None), row("resnet-50", 2, 1.5)]
    for name in ("a.svg", "b.svg"):
        plot(rows, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "resnet-50" in (tmp_path / "a.svg").read_text()


def test_a_machine_is_described_by_its_kernel() -> None:
    text = "processor\t: 0\nmodel name\t: Example 9\ncpu family\t: 26\nflags\t\t: fpu hypervisor\n"
    machine = describe_machine(f"{text}\n{text}")
    assert machine["cpu"] == "Example 9"
    assert machine["cpu_family"] == "26"
    assert machine["is_virtual"] is True
    assert machine["features"] == load_target("host").features

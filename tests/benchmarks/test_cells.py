import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks import cell as one_cell
from benchmarks import cells
from benchmarks.cell import Cell, Row, cell_of, failed_row
from benchmarks.cells_table import page
from deepseek_edge.errors import UsageError
from deepseek_edge.pipeline import CompileRequest, CompileResult, compile_model
from tests.tiny_model import TinyBackend, tiny_onnx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/cells.json"
PAGE = ROOT / "docs/cells.md"
REQUIRED = {
    "model",
    "target",
    "precision",
    "ok",
    "verified",
    "parity_graph",
    "parity_float",
    "time_s",
    "size_bytes",
    "reason",
}


def tiny_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float = 0.0) -> Row:
    """The row of the tiny model, by the real pipeline with a back end of one layer."""

    def compile_tiny(request: CompileRequest) -> CompileResult:
        return compile_model(request, compile_program=TinyBackend(error))

    monkeypatch.setattr("deepseek_edge.pipeline.compile_model", compile_tiny)
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx(), graph)
    return one_cell.make_row(Cell("tiny", "host", "float32"), graph)


def test_a_model_for_every_target_is_a_cell() -> None:
    chosen = cells.select_cells(["resnet-50"], ["float32"])
    assert [c.target for c in chosen] == [
        "host",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "jetson-orin",
        "android-arm64",
    ]


def test_an_empty_part_of_a_selector_stands_for_all() -> None:
    of_board = cells.select_cells([":jetson-orin"], ["float32"])
    assert {c.target for c in of_board} == {"jetson-orin"}
    assert {"resnet-50", "minilm-128"} <= {c.model for c in of_board}
    assert not any(c.model.startswith("light-") for c in of_board)


def test_a_light_graph_is_for_the_host_unless_a_board_is_named() -> None:
    assert cells.select_cells(["light-squeezenet"], ["float32"]) == [
        Cell("light-squeezenet", "host", "float32")
    ]
    assert cells.select_cells(["light-squeezenet:jetson-orin"], ["float32"]) == [
        Cell("light-squeezenet", "jetson-orin", "float32")
    ]


def test_a_named_precision_wins_over_the_option() -> None:
    chosen = cells.select_cells(["resnet-18:host:int8", "resnet-18:host"], ["float32"])
    assert [c.precision for c in chosen] == ["int8", "float32"]


@pytest.mark.parametrize("selector", ["resnet", "resnet-18:pi", "resnet-18:host:int3", "a:b:c:d"])
def test_a_selector_that_names_nothing_is_refused(selector: str) -> None:
    with pytest.raises(UsageError, match="is no cell"):
        cells.select_cells([selector], ["float32"])


def test_ci_has_six_cells_on_four_targets() -> None:
    chosen = cells.select_cells(cells.CI, ["float32"])
    assert len(chosen) == 6
    assert len({c.target for c in chosen}) == 4


def test_a_right_program_is_a_row_with_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tiny_row(tmp_path, monkeypatch)
    assert row.keys() == failed_row(cell_of(row), "").keys() >= REQUIRED
    assert row["ok"] is True
    assert row["verified"] == "host"
    assert row["reason"] is None
    assert row["parity_graph"]["max_abs"] < 1e-6
    assert row["size_bytes"] > row["weights_bytes"] == 144
    json.dumps(row, allow_nan=False)


def test_a_wrong_program_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tiny_row(tmp_path, monkeypatch, error=0.5)
    assert row["ok"] is False
    assert row["verified"] is None
    assert "parity failed: output 'y' is off" in row["reason"]


def test_an_unsupported_precision_is_a_row_with_its_reason(tmp_path: Path) -> None:
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx(), graph)
    row = one_cell.make_row(Cell("tiny", "host", "w4a16"), graph)
    assert row["ok"] is False
    assert "w4a16" in row["reason"]


def test_a_reason_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    graph = tmp_path / "broken.onnx"
    graph.write_bytes(b"\x00")
    row = one_cell.make_row(Cell("broken", "host", "float32"), graph)
    assert "broken.onnx" in row["reason"]
    assert str(tmp_path) not in row["reason"]


def test_a_process_that_dies_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os, signal; print('half done', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
    run = cells._python
    monkeypatch.setattr(cells, "_python", lambda arguments, limit_s: run(["-c", code], limit_s))
    row = cells.run_cell(Cell("m", "host", "float32"), Path("m.onnx"))
    assert row["reason"] == "the process was killed by signal 11; last line: half done"
    assert (tmp_path / "build/cells/m-host-float32.log").read_text() == "half done\n"


def test_a_process_that_hangs_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = cells._python
    code = "import time; time.sleep(60)"
    monkeypatch.setattr(cells, "_python", lambda arguments, limit_s: run(["-c", code], limit_s))
    row = cells.run_cell(Cell("m", "host", "float32"), Path("m.onnx"), timeout_s=0.5)
    assert row["reason"] == "it did not end within 0.5 s"


def test_a_model_that_cannot_be_made_fails_its_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: dict[str, Path | str] = {"good": Path("good.onnx"), "bad": "no such package"}
    monkeypatch.setattr(cells, "make_graph", lambda model, precision: graphs[model])
    run = cells.run_cell

    def run_cell(cell: Cell, graph: Path | str, **options: object) -> Row:
        if graph == Path("good.onnx"):
            return {**failed_row(cell, ""), "ok": True}
        return run(cell, graph)

    monkeypatch.setattr(cells, "run_cell", run_cell)
    told: list[Row] = []
    rows = cells.run_cells(
        [Cell("bad", "host", "float32"), Cell("good", "host", "float32")],
        jobs=2,
        timed=False,
        timeout_s=1,
        finished=told.append,
    )
    assert [row["ok"] for row in rows] == [False, True]
    assert len(told) == 2


def test_rows_keep_one_order_and_one_row_a_cell(tmp_path: Path) -> None:
    file = tmp_path / "deep/cells.json"
    late, early = Cell("resnet-50", "host", "float32"), Cell("rapidocr-cls", "host", "float32")
    for cell, reason in ((late, "first"), (early, ""), (late, "second")):
        cells.add_row(file, failed_row(cell, reason))
    rows = cells.read_rows(file)
    assert list(rows) == [early, late]
    assert rows[late]["reason"] == "second"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cells.json"
    file.write_text('{"rows": 3}')
    with pytest.raises(UsageError, match="no file of cells"):
        cells.read_rows(file)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Cells that were run, by a stand-in: those of ResNet-18 fail."""
    ran: list[Cell] = []

    def run_cells(chosen: list[Cell], *, finished: object, **_: object) -> list[Row]:
        assert callable(finished)
        rows = [{**failed_row(c, "broken"), "ok": c.model != "resnet-18"} for c in chosen]
        rows = [
            row | ({"parity_graph": {"max_abs": 0.0}, "time_s": 1} if row["ok"] else {})
            for row in rows
        ]
        for row in rows:
            finished(row)
        ran.extend(chosen)
        return rows

    monkeypatch.setattr(cells, "run_cells", run_cells)
    return ran


def test_rows_that_a_file_has_are_kept_unless_asked_for(tmp_path: Path, made: list[Cell]) -> None:
    command = ["--json", str(tmp_path / "cells.json"), "--only", "resnet-18:host", "resnet-50:host"]
    for options, count in (([], 2), ([], 0), (["--retry"], 1), (["--force"], 2)):
        made.clear()
        assert cells.main([*command, *options]) == 0
        assert len(made) == count


def test_ci_fails_if_a_cell_fails(made: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cells.main(["--ci"]) == 0
    monkeypatch.setattr(cells, "CI", ("resnet-18:host",))
    assert cells.main(["--ci"]) == 1


def test_a_page_shows_errors_failures_and_times() -> None:
    good = Cell("resnet-18", "host", "float32")
    bad = Cell("resnet-18", "jetson-orin", "float32")
    latency = {
        "threads": 2,
        "ours_ms": 10.0,
        "onnxruntime_ms": 20.0,
        "ours_best_ms": 9.0,
        "onnxruntime_best_ms": 15.0,
        "ratio": 0.5,
        "ratio_min": 0.4,
        "ratio_max": 0.6,
        "load_average": 0.1,
        "doubts": [],
    }
    figures = dict.fromkeys(("macs", "size_bytes", "code_bytes", "arena_bytes", "steps"), 2_000_000)
    row = failed_row(good, "") | figures | {"ok": True, "verified": "host", "latency": [latency]}
    row |= {"parity_graph": {"max_abs": 1.5e-6}, "parity_float": {"cosine": 1.0}}
    row |= {"codegen_s": 3.0, "parity_s": 1.0}
    text = page([row, failed_row(bad, "Loop | node 3")])
    assert "1 of 2 cells are right" in text
    assert "| resnet-18 | 1.5e-06 | **failed** |" in text
    assert "| resnet-18 | jetson-orin | Loop \\| node 3 |" in text
    assert "| resnet-18 | 2 | 10.00 | 20.00 | 0.50 | 0.40 to 0.60 | 9.00 : 15.00 | 0.60 |" in text


def test_the_page_in_docs_is_of_the_rows_in_results() -> None:
    assert PAGE.read_text("utf-8") == page(list(cells.read_rows(RESULTS).values()))


def test_without_a_file_the_command_says_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cells"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--json FILE" in done.stderr

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import jetson, jetson_bundle
from benchmarks.jetson import engine_row, engine_rows, kept_rows, report, try_engine
from benchmarks.jetson_bundle import bundle_rows, program_row
from deepseek_edge.backends.tensorrt import EngineFile
from deepseek_edge.errors import UsageError
from tests.backends.tensorrt.fake_trt import FakeTensorRT, Parsed
from tests.quantization.graphs import residual

KEYS = ["model", "target", "program", "ok", "engine_bytes", "float_engine_bytes", "sm", "reason"]
KEYS += ["weights_bytes", "float_weights_bytes"]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every model is a small one, quantized into a cache of its own."""
    path = tmp_path / "residual.onnx"
    path.write_bytes(residual().SerializeToString())
    monkeypatch.setattr(jetson, "model_path", lambda name: path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def engine(data: bytes, weights_bytes: int) -> EngineFile:
    return EngineFile(data, "int8", "8.6", "tensorrt_rtx 1", "0" * 64, None, (), weights_bytes)


def test_a_row_has_the_promised_keys() -> None:
    row = engine_row("m", "int8", "8.6", engine(b"12", 1), engine(b"12345", 4))
    assert list(row) == KEYS
    assert (row["ok"], row["engine_bytes"], row["float_engine_bytes"]) == (True, 2, 5)
    assert (row["weights_bytes"], row["float_weights_bytes"], row["reason"]) == (1, 4, None)
    failed = engine_row("m", "int8", "8.6", "why", engine(b"12345", 4))
    assert list(failed) == KEYS
    assert (failed["ok"], failed["engine_bytes"], failed["reason"]) == (False, None, "why")
    assert failed["float_engine_bytes"] == 5


def test_each_model_has_a_row_for_each_precision_and_gpu(small: Path) -> None:
    rows = list(engine_rows("resnet-18", FakeTensorRT(name="tensorrt_rtx", plan=b"12345")))
    assert [(row["sm"], row["program"].removeprefix("tensorrt-rtx-")) for row in rows] == [
        (sm, program)
        for sm in ("8.6", "8.9")
        for program in ("float32", "float16", "int8", "int8-float16")
    ]
    assert all(row["ok"] for row in rows), rows
    assert all(row["float_engine_bytes"] == 5 for row in rows)


def test_a_graph_that_becomes_no_engine_has_the_reason(small: Path) -> None:
    error = Parsed("ErrorCode.UNSUPPORTED_NODE", "no", 0, node_name="/a", node_operator="Foo")
    built = try_engine(residual(), "float32", "float32", "8.6", FakeTensorRT(errors=(error,)))
    assert built == "TensorRT refuses Foo (node '/a'): no"


def test_a_model_that_cannot_be_made_has_rows_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> Path:
        raise UsageError("no such package")

    monkeypatch.setattr(jetson, "model_path", fail)
    rows = list(engine_rows("resnet-18", None))
    assert len(rows) == 8
    assert {row["reason"] for row in rows} == {"no such package"}


def test_rows_of_other_models_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "jetson.json"
    assert kept_rows(path, ["resnet-18"]) == []
    rows: list[dict[str, Any]] = [{"model": "resnet-50"}, {"model": "resnet-18"}]
    path.write_text(json.dumps(report(rows)))
    assert kept_rows(path, ["resnet-18"]) == [{"model": "resnet-50"}]
    # In the order of the issue, not of the run.
    assert [row["model"] for row in json.loads(path.read_text())["rows"]] == [
        "resnet-18",
        "resnet-50",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [1]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(UsageError, match="no file of this benchmark"):
        kept_rows(tmp_path / "x", [])


def test_committed_engines_kept_their_weights_in_int8() -> None:
    path = Path(jetson.__file__).parent / "results" / "jetson.json"
    rows = json.loads(path.read_bytes())["rows"]
    assert {row["model"] for row in rows} == set(jetson.NAMES)
    assert [row["reason"] for row in rows if not row["ok"]] == []
    engines = [row for row in rows if row["program"] == "tensorrt-rtx-int8"]
    judged = [row for row in engines if row["model"] in ("resnet-18", "resnet-50", "opennsfw")]
    assert len(judged) == 6
    for row in judged:
        assert row["weights_bytes"] <= 0.27 * row["float_weights_bytes"]
    for row in judged:
        # OpenNSFW's weights are few beside 51 kernels.
        most = 0.55 if row["model"] == "opennsfw" else 0.45
        assert row["engine_bytes"] <= most * row["float_engine_bytes"]


@pytest.mark.tvm
def test_a_bundle_has_three_programs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetson_bundle, "TARGETS", ("jetson-xavier",))
    rows = list(bundle_rows("resnet-18", small))
    assert [(row["target"], row["program"], row["sm"]) for row in rows] == [
        ("jetson-xavier", program, sm)
        for program, sm in (("tensorrt-int8", "7.2"), ("cuda-int8", "7.2"), ("cpu-int8", None))
    ]
    assert all(row["ok"] and row["reason"] is None and row["program_bytes"] for row in rows)
    assert all(set(KEYS[:8]) <= set(row) for row in rows)


def test_a_program_that_is_missing_has_the_note_about_it() -> None:
    row = program_row("m", "jetson-orin", "cuda", "no CUDA program: Loop; cpu-int8 takes over")
    assert (row["ok"], row["program"]) == (False, "cuda")
    assert row["reason"] == "no CUDA program: Loop; cpu-int8 takes over"

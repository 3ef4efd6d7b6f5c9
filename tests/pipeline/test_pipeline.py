import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepseek_edge.bundle import open_bundle
from deepseek_edge.datasets import load_dataset
from deepseek_edge.errors import (
    AccuracyError,
    ModelError,
    OutputError,
    ParityError,
    UnsupportedError,
    UsageError,
)
from deepseek_edge.evaluation import Evaluated
from deepseek_edge.pipeline import (
    CompileRequest,
    CompileResult,
    checking,
    compile_model,
    evaluating,
)
from deepseek_edge.pipeline.running import (
    check_golden_run,
    choose_entry,
    open_program_of,
    profile_bundle,
)
from deepseek_edge.report import compile_json
from deepseek_edge.task_metrics import load_metric
from tests.tiny_model import IN, OUT, TinyBackend, parameters, tiny_onnx


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx("N"), path)
    return path


def compile_tiny(
    path: Path, backend: TinyBackend | None = None, **changes: object
) -> CompileResult:
    fields = {"model": str(path), "output": path.parent / "out-{target}.dse"} | changes
    return compile_model(
        CompileRequest(**fields),  # type: ignore[arg-type]
        compile_program=backend or TinyBackend(),
    )


def test_a_compile_is_run_and_packed(model: Path) -> None:
    result = compile_tiny(model)
    (report,) = result.reports
    (checked,) = report.programs
    assert checked.verified == "host"
    assert checked.parity_graph is not None
    assert (checked.parity_graph.samples, checked.parity_graph.within) == (3, 1.0)
    assert report.size_bytes == report.bundle.stat().st_size
    assert report.time_s["total"] >= report.time_s["codegen"] > 0
    with open_bundle(report.bundle) as bundle, open_program_of(bundle, "host") as program:
        assert bundle.manifest.model.name == "tiny"
        x = np.random.default_rng(0).standard_normal((1, IN)).astype(np.float32)
        weights, bias = parameters()
        expected = np.maximum(x @ weights.T + bias, 0)
        np.testing.assert_allclose(program.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


def test_every_entry_is_checked(model: Path) -> None:
    result = compile_tiny(model, batches=(1, 4))
    graph = result.reports[0].programs[0].parity_graph
    assert graph is not None
    assert graph.samples == 6


def test_a_program_that_computes_something_else_is_refused(model: Path) -> None:
    with pytest.raises(ParityError, match="output 'y' is off by"):
        compile_tiny(model, TinyBackend(error=0.05))
    assert not (model.parent / "out-host.dse").exists()


def test_an_error_inside_the_tolerance_is_reported(model: Path) -> None:
    checked = compile_tiny(model, TinyBackend(error=0.0001)).reports[0].programs[0]
    assert checked.parity_graph is not None
    assert checked.parity_float is not None
    assert 1e-6 < checked.parity_graph.max_abs < 1e-3
    assert 60 < checked.parity_float.sqnr_db < 110


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first = compile_tiny(model).reports[0].bundle.read_bytes()
    other = tmp_path / "elsewhere"
    other.mkdir()
    again = compile_tiny(model, output=other / "again.dse", dump=other / "dump").reports[0].bundle
    assert again.read_bytes() == first


def test_golden_tensors_are_the_artifacts_own(model: Path) -> None:
    bundle_path = compile_tiny(model, TinyBackend(error=0.0001)).reports[0].bundle
    with open_bundle(bundle_path) as bundle, open_program_of(bundle, "host") as program:
        check_golden_run(bundle, program)
        golden = {tensor.direction: tensor for tensor in bundle.manifest.golden}
        x = np.frombuffer(bundle.read(golden["input"].file), "<f4").reshape(1, IN)
        y = np.frombuffer(bundle.read(golden["output"].file), "<f4").reshape(1, OUT)
        np.testing.assert_array_equal(program.run({"x": x})["y"], y)
        assert golden["output"].tolerance == pytest.approx(1e-3 * (y.max() - y.min()))


def test_a_program_that_differs_from_its_golden_outputs_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_path = compile_tiny(model).reports[0].bundle
    with open_bundle(bundle_path) as bundle, open_program_of(bundle, "host") as program:
        right = program.run
        wrong = {name: value + 0.1 for name, value in right({"x": np.ones((1, IN), "f4")}).items()}
        monkeypatch.setattr(type(program), "run", lambda *_: wrong)
        with pytest.raises(ParityError, match="golden output 'y' differs"):
            check_golden_run(bundle, program)


@pytest.mark.emulated
def test_arm_and_android_programs_run_under_emulation(model: Path) -> None:
    result = compile_tiny(model, targets=("raspberry-pi-4", "android-arm64"), require_run=True)
    for report in result.reports:
        assert report.programs[0].verified == "qemu"
        assert report.programs[0].parity_graph is not None
        assert report.programs[0].parity_graph.samples == 1
    with open_bundle(result.reports[0].bundle) as bundle:
        with pytest.raises(UnsupportedError, match="aarch64"), open_program_of(bundle, "host"):
            pass
        with open_program_of(bundle, "qemu") as program:
            check_golden_run(bundle, program)


def test_without_an_emulator_a_bundle_is_packed_unverified(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TinyBackend()
    monkeypatch.setenv("PATH", str(model.parent))
    report = compile_tiny(model, backend, targets=("raspberry-pi-4",)).reports[0]
    (checked,) = report.programs
    assert (checked.verified, checked.parity_graph, checked.parity_float) == (None, None, None)
    with open_bundle(report.bundle) as bundle:
        assert bundle.manifest.programs[0].verified is None
        assert {tensor.direction for tensor in bundle.manifest.golden} == {"input", "output"}


def test_refusals_come_before_the_compiler_runs(model: Path) -> None:
    backend = TinyBackend()
    for error, changes in (
        (UnsupportedError, {"precision": "w4a16"}),
        (UsageError, {"precision": "int8"}),
        (UsageError, {"calibration": "skimage-photos"}),
        (UsageError, {"evaluation": "no-such-data"}),
        (UsageError, {"shapes": {"nobody": (1,)}}),
        (OutputError, {"output": model / "below-a-file.dse"}),
        (ModelError, {"model": __file__}),
    ):
        with pytest.raises(error):
            compile_tiny(model, backend, **changes)
    assert backend.calls == []


def labelled(tmp_path: Path, *, wrong: int = 0) -> str:
    """Ten samples labelled with what the model says, but for the first ``wrong`` ones."""
    x = np.random.default_rng(5).standard_normal((10, IN)).astype(np.float32)
    weights, bias = parameters()
    labels = (np.maximum(x @ weights.T + bias, 0)).argmax(axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % OUT
    path = tmp_path / "data.npz"
    np.savez(path, x=x, labels=labels)
    return str(path)


def test_accuracy_is_measured_on_the_float_model_and_on_the_artifact(model: Path) -> None:
    result = compile_tiny(model, evaluation=labelled(model.parent, wrong=2), max_drop_pp=0.0)
    accuracy = result.reports[0].accuracy
    assert accuracy is not None
    assert (accuracy.metric, accuracy.samples) == ("top1", 10)
    assert (accuracy.float, accuracy.compiled, accuracy.drop_pp) == (80.0, 80.0, 0.0)
    # No sample changed: Bonett and Price's interval with 0 and 0 of 10.
    assert accuracy.ci_pp == pytest.approx(23.098, abs=1e-3)
    (rung,) = result.reports[0].ladder
    assert (rung.name, rung.measured_on, rung.is_kept) == ("as given", "host", True)


def test_a_gate_that_is_missed_leaves_no_bundle(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = load_metric("top1")
    scores = iter(
        [Evaluated(metric, (1.0,) * 9 + (0.0,)), Evaluated(metric, (1.0,) * 8 + (0.0,) * 2)]
    )
    monkeypatch.setattr(evaluating, "evaluate", lambda *_: next(scores))
    with pytest.raises(
        AccuracyError, match=r"loses 10\.00 pp of top1 \(90\.00 to 80\.00 %\)"
    ) as error:
        compile_tiny(model, evaluation=labelled(model.parent), max_drop_pp=9.9)
    assert (error.value.exit_code, error.value.rows) == (1, ())
    assert not (model.parent / "out-host.dse").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": "fashion-mnist-train"}, "for calibration"),
        ({"batches": (4,)}, "one sample at a time"),
        ({"metric": "top7"}, "no metric top7"),
        ({"shapes": {"x": (2, IN)}}, r"takes \[2, 8\]"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    model: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(labelled(model.parent))
    if "evaluation" in changes:
        calibration = dataclasses.replace(dataset, split="calibration")
        monkeypatch.setattr(evaluating, "load_dataset", lambda _: calibration)
    backend = TinyBackend()
    with pytest.raises(UsageError, match=message):
        compile_tiny(model, backend, **({"evaluation": dataset.id} | changes))
    assert backend.calls == []


def test_dump_keeps_what_was_generated(model: Path, tmp_path: Path) -> None:
    compile_tiny(model, dump=tmp_path / "dump")
    kept = {path.name for path in (tmp_path / "dump" / "host").iterdir()}
    assert {"program.c", "kernels.o", "model.so"} <= kept


def test_a_page_shows_what_was_measured(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    result = compile_tiny(model, html=page)
    profile = result.chapters[0].profile
    assert profile is not None
    assert f"{profile.latency_ms.p50:.2f} ms" in page.read_text()


def test_progress_and_narration_are_told(model: Path) -> None:
    lines: list[str] = []
    stages: list[tuple[str, int, int]] = []
    compile_model(
        CompileRequest(model=str(model), output=model.parent / "o.dse"),
        compile_program=TinyBackend(),
        narrate=lines.append,
        progress=lambda *event: stages.append(event),
    )
    assert lines[0] == "model tiny, precision as the graph, batch 1"
    assert stages == [("kernels", 0, 1), ("kernels", 1, 1)]


def test_an_interrupt_leaves_no_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = set(model.parent.iterdir())
    monkeypatch.setattr(checking, "compare_float", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_tiny(model)
    assert set(model.parent.iterdir()) == before


def test_a_profile_of_a_bundle_checks_it_first(model: Path) -> None:
    with open_bundle(compile_tiny(model).reports[0].bundle) as bundle:
        report = profile_bundle(bundle, threads=1, queries=100, check=True)
    assert (report.program, report.latency_ms.n) == ("cpu-float32", 100)


def test_the_entry_is_chosen_by_the_shapes_of_the_inputs(model: Path) -> None:
    entries = compile_tiny(model, batches=(1, 4)).reports[0].programs[0].program.entries
    assert choose_entry(entries, {"x": np.zeros((4, IN), np.float32)}) == 1
    assert choose_entry(entries, {"x": np.zeros((3, IN), np.float32)}) == 0


def test_a_result_is_json(model: Path) -> None:
    found = json.loads(json.dumps(compile_json(compile_tiny(model).reports), allow_nan=False))
    assert found["bundle"].endswith("out-host.dse")

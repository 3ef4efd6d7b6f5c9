from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_edge.artifacts import Accuracy, Layers
from deepseek_edge.cli.main import main
from deepseek_edge.datasets import load_dataset
from deepseek_edge.errors import AccuracyError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline import CompileRequest, compile_model, gate
from deepseek_edge.pipeline.evaluating import Judges, evaluation_on
from deepseek_edge.pipeline.gate import Job, Passed, pass_gate
from deepseek_edge.pipeline.plan import PlannedTarget
from deepseek_edge.pipeline.quantizing import Calibration, Origin
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.quantization import QuantizedModel
from deepseek_edge.recipe import PruneSection, Recipe
from deepseek_edge.target import load_target
from tests.pipeline.hot_pixel import brightness, images, save


def accuracy(drop_pp: float) -> Accuracy:
    return Accuracy("top1", 64, 100.0, 100.0 - drop_pp, drop_pp, 1.0)


class Bench:
    """A job with a real origin and a back end that compiles nothing, and what was asked of it."""

    def __init__(self, folder: Path, losses: Callable[[int], float], **changes: Any) -> None:
        self.made: list[QuantizedModel | None] = []
        self.said: list[str] = []
        self.losses = losses
        model = brightness()
        reference = Reference(model)
        path = save(folder / "calibration.npz", x=images(128, 0, hot=True)["x"])
        data = load_dataset(path)
        samples = [data.sample(index) for index in range(128)]
        calibration = Calibration(model, data, samples, **changes.pop("calibration", {}))
        evaluation = save(folder / "evaluation.npz", **images(64, 1))
        place = changes.pop("place", "host")
        fields: dict[str, Any] = {"precision": "int8", "max_drop_pp": 1.0} | changes
        build: Any = SimpleNamespace(progress=lambda *_: None)
        self.judges = Judges(evaluation_on(load_dataset(evaluation), "top1", model, reference))
        self.job = Job(
            CompileRequest(model, evaluation=evaluation, **fields),
            PlannedTarget(load_target("host"), place, folder / "out.dse"),
            Origin(model, reference, calibration),
            build,
            Stopwatch(),
            self.said.append,
        )

    def make(self, job: Job, quantized: QuantizedModel | None, number: int) -> Any:
        assert job is self.job
        self.made.append(quantized)
        program = SimpleNamespace(layers=Layers(2, 2, 0, 0, 0.75))
        compiled = SimpleNamespace(program=program, quantized=quantized, graph=job.origin.model)
        return compiled, SimpleNamespace(number=number)

    def measure(self, request: Any, evaluation: Any, checked: Any, *_: Any, **__: Any) -> Any:
        assert evaluation is self.judges.evaluation
        return accuracy(self.losses(checked.number)), ("measured",)

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Passed:
        monkeypatch.setattr(gate, "measure_accuracy", self.measure)
        return pass_gate(self.job, self.judges, self.make)


def test_the_first_way_that_keeps_the_promise_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: [5.0, 0.5][number])
    passed = bench.run(monkeypatch)
    assert [rung.name for rung in passed.ladder] == ["minmax", "percentile"]
    assert [rung.is_kept for rung in passed.ladder] == [False, True]
    assert passed.accuracy == accuracy(0.5) == passed.ladder[-1].accuracy
    assert passed.ladder[-1].int8_macs_share == 0.75
    assert bench.made[1] is passed.compiled.quantized
    assert [one.table.observer for one in bench.made if one] == ["minmax", "percentile"]
    # The outlier weighs so much that least squared error takes it in: nothing new to compile.
    assert bench.said[1:4] == [
        "host: too much; next: mse",
        "host: it changes nothing",
        "host: too much; next: percentile",
    ]


def test_a_loss_of_exactly_what_is_allowed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(Bench(tmp_path, lambda number: 1.0).run(monkeypatch).ladder) == 1


def test_without_a_gate_nothing_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: 50.0, max_drop_pp=None)
    passed = bench.run(monkeypatch)
    assert (passed.ladder, passed.accuracy, passed.notes) == ((), accuracy(50.0), ("measured",))


def test_if_no_way_keeps_the_promise_the_error_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: 9.0 - number)
    with pytest.raises(AccuracyError) as refused:
        bench.run(monkeypatch)
    error = refused.value
    assert error.message == "host loses 7.00 pp of top1 (100.00 to 93.00 %), 1.0 pp are allowed"
    assert str(error).splitlines() == [error.message, *error.rows]
    assert [row.split("  ")[0] for row in error.rows[1:]] == [
        "minmax",
        "percentile",
        "percentile, up to 2% in float",
    ]
    assert "9.00" in error.rows[1]
    assert "[qat]" in str(error.hint)
    # The layers that stay float are those that cost most, as many as the budget allows.
    assert [len(one.layers) for one in bench.made if one] == [2, 2, 1]


def test_a_model_that_is_compiled_as_it_is_has_one_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: 5.0)
    bench.job = replace(bench.job, origin=replace(bench.job.origin, calibration=None))
    with pytest.raises(AccuracyError, match=r"loses 5\.00 pp") as refused:
        bench.run(monkeypatch)
    assert refused.value.rows == ()
    assert bench.made == [None]


def test_who_prunes_is_told_to_prune_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, lambda number: 5.0, recipe=Recipe(prune=PruneSection(0.5)))
    bench.job = replace(bench.job, origin=replace(bench.job.origin, calibration=None))
    with pytest.raises(AccuracyError) as refused:
        bench.run(monkeypatch)
    assert "prune less" in str(refused.value.hint)


def test_where_running_is_slow_ways_are_tried_on_the_graph_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: 0.0, place="qemu")
    passed = bench.run(monkeypatch)
    measured = [(rung.name, rung.measured_on, rung.is_kept) for rung in passed.ladder]
    assert measured == [
        ("minmax", "onnxruntime", False),
        ("percentile", "onnxruntime", True),
        ("percentile", "qemu", True),
    ]
    # Every image looks dark: three of four classes are lost.
    assert passed.ladder[0].accuracy.drop_pp == 75.0
    assert passed.ladder[0].int8_macs_share == 1.0
    assert len(bench.made) == 1


def test_with_data_to_choose_on_the_evaluation_is_used_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, lambda number: 5.0)
    assert bench.judges.evaluation is not None
    validation = replace(
        bench.judges.evaluation,
        dataset=replace(bench.judges.evaluation.dataset, id="held out"),
    )
    bench.judges = replace(bench.judges, validation=validation)
    with pytest.raises(AccuracyError, match=r"5\.00 pp") as refused:
        bench.run(monkeypatch)
    assert [row.split()[-2:] for row in refused.value.rows[1:]] == [
        ["held", "out"],
        ["held", "out"],
        ["host,", str(tmp_path / "evaluation.npz")],
    ]
    assert len(bench.made) == 1


def retold(quantized: QuantizedModel) -> QuantizedModel:
    """Another graph that computes the same."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized.model)
    model.doc_string = "trained"
    return replace(quantized, model=model)


def test_training_is_tried_last_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[QuantizedModel] = []

    def fine_tune(quantized: QuantizedModel, progress: Any) -> QuantizedModel:
        trained.append(quantized)
        return retold(quantized)

    bench = Bench(tmp_path, lambda number: 4.0 - number, calibration={"fine_tune": fine_tune})
    passed = bench.run(monkeypatch)
    assert [rung.name for rung in passed.ladder] == [
        "minmax",
        "percentile",
        "percentile, up to 2% in float",
        "percentile, trained",
    ]
    assert len(trained) == 1 and len(trained[0].layers) == 2


def test_training_that_was_asked_for_is_the_first_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine_tune(quantized: QuantizedModel, progress: Any) -> QuantizedModel:
        return retold(quantized)

    asked = {"fine_tune": fine_tune, "trains_first": True}
    bench = Bench(tmp_path, lambda number: 2.0 - number, calibration=asked)
    passed = bench.run(monkeypatch)
    assert [rung.name for rung in passed.ladder] == [
        "minmax, trained",
        "minmax, trained, up to 2% in float",
    ]
    assert bench.made[1] is not None
    assert [kept.name for kept in bench.made[1].kept_float] == ["y_node"]


@pytest.mark.tvm
def test_the_ladder_rescues_a_model_that_minimum_and_maximum_break(tmp_path: Path) -> None:
    calibration = save(tmp_path / "c.npz", x=images(128, 0, hot=True)["x"])
    evaluation = save(tmp_path / "e.npz", **images(200, 1))
    request = CompileRequest(
        brightness(),
        precision="int8",
        calibration=calibration,
        evaluation=evaluation,
        max_drop_pp=0.5,
        output=tmp_path / "out.dse",
    )
    (report,) = compile_model(request).reports
    assert [(rung.name, rung.is_kept) for rung in report.ladder] == [
        ("minmax", False),
        ("percentile", True),
    ]
    assert report.ladder[0].accuracy.drop_pp == 75.0
    assert report.accuracy is not None and report.accuracy.drop_pp <= 0.5
    assert report.accuracy == report.ladder[-1].accuracy
    assert report.programs[0].program.layers.int8 == 2
    assert report.bundle.exists()


@pytest.mark.tvm
def test_a_spoiled_model_is_refused_with_exit_code_1_and_no_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Calibrated on images a thousand times too dark: all ranges are too small, however taken.
    calibration = save(tmp_path / "c.npz", x=images(64, 0, scale=1e-3)["x"])
    evaluation = save(tmp_path / "e.npz", **images(40, 1))
    onnx.save(brightness(), tmp_path / "m.onnx")
    options = ["--precision", "int8", "--calib", calibration, "--eval", evaluation]
    output = tmp_path / "out.dse"
    arguments = ["compile", str(tmp_path / "m.onnx"), "--target", "host", *options]
    assert main([*arguments, "-o", str(output)]) == 0
    output.unlink()
    capsys.readouterr()
    assert main([*arguments, "--max-drop", "1", "-o", str(output)]) == 1
    told = capsys.readouterr()
    assert not output.exists()
    assert told.out == ""
    lines = told.err[told.err.index("error: ") :].splitlines()
    assert lines[0].startswith("error: host loses ") and lines[0].endswith("1.0 pp are allowed")
    assert lines[1].split() == ["tried", "lost", "+/-", "int8", "measured", "on"]
    tried = [line.split("  ")[1] for line in lines[2:-2]]
    assert len(tried) >= 2 and len(set(tried)) == len(tried)
    assert lines[-1].startswith("hint: raise --max-drop")
    assert np.load(calibration)["x"].max() < 0.002

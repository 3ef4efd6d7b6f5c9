from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.artifacts import Accuracy, Agreement
from deepseek_edge.datasets import load_dataset
from deepseek_edge.evaluation import Evaluated, evaluate
from deepseek_edge.pipeline import CompileRequest, accuracy, compile_model
from deepseek_edge.pipeline.accuracy import RunSample, describe_agreement
from deepseek_edge.pipeline.evaluating import Evaluation
from deepseek_edge.report import CompileReport
from tests.pipeline.hot_pixel import brightness, images, save
from tests.tiny_model import IN, OUT, TinyBackend, parameters, tiny_onnx

COUNT, LEAST = 40, 16


def classify(inputs: Any, shift: int = 0) -> dict[str, Any]:
    """Three classes by the number in the sample; moved on by ``shift``."""
    x = int(inputs["x"][0, 0])
    return {"y": np.eye(3, dtype=np.float32)[[(x + shift) % 3]]}


def graph(inputs: Any) -> dict[str, Any]:
    """Wrong about the first ten samples."""
    return classify(inputs, int(inputs["x"][0, 0] < 10))


class Program:
    """Computes what a graph does, but for rounding and one sample; knows what it was asked."""

    def __init__(
        self, of: Callable[[Any], dict[str, Any]], *, wrong: int | None = None, rounding: float = 0
    ) -> None:
        self.of, self.wrong, self.rounding = of, wrong, np.float32(rounding)
        self.asked: list[int] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        x = int(inputs["x"][0, 0])
        self.asked.append(x)
        right = self.of(inputs)["y"]
        return {"y": (np.roll(right, 1) if x == self.wrong else right) + self.rounding}


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    """The float model is right about all of 40 samples."""
    x = np.arange(COUNT, dtype=np.float32)[:, None]
    dataset = load_dataset(save(tmp_path / "d.npz", x=x, labels=np.arange(COUNT) % 3))
    return Evaluation(dataset, evaluate(classify, dataset, "top1"))


def judge_by_part(
    evaluation: Evaluation,
    run: RunSample,
    of: RunSample,
    *,
    of_graph: Accuracy | None = None,
    is_promise: bool = False,
    told: list[str] | None = None,
) -> Accuracy:
    lines: list[str] = [] if told is None else told
    return accuracy.judge_by_part(
        evaluation, run, of, of_graph, is_promise=is_promise, tell=lines.append
    )


def described(found: Accuracy) -> str:
    return describe_agreement(found)


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "EMULATED_EVALUATION_S", 0.0)


@pytest.mark.usefixtures("no_time")
def test_a_graph_that_its_program_equals_is_judged_on_all_samples(evaluation: Evaluation) -> None:
    program = Program(graph)
    found = judge_by_part(evaluation, program.run, graph)
    assert (found.samples, found.compiled, found.drop_pp) == (COUNT, 75.0, 25.0)
    assert found.agreement == Agreement(samples=LEAST, equal=LEAST, same=LEAST)
    assert len(set(program.asked)) == len(program.asked) == LEAST
    assert sorted(program.asked) != list(range(LEAST)), "they are drawn from the whole set"
    assert described(found) == (
        "top1 of 40 samples is that of the graph in onnxruntime; 16 of them were run under QEMU "
        "too: all outputs equal"
    )


@pytest.mark.usefixtures("no_time")
def test_rounding_that_changes_no_result_is_told(evaluation: Evaluation) -> None:
    found = judge_by_part(evaluation, Program(graph, rounding=1e-6).run, graph)
    assert (found.samples, found.compiled) == (COUNT, 75.0)
    assert found.agreement == Agreement(samples=LEAST, equal=0, same=LEAST)
    assert described(found).endswith(": 0 with equal outputs, all with the same result")


@pytest.mark.usefixtures("no_time")
def test_a_program_with_one_other_result_is_judged_by_what_it_ran(evaluation: Evaluation) -> None:
    first = Program(classify)
    judge_by_part(evaluation, first.run, classify)
    program = Program(classify, wrong=first.asked[3])
    found = judge_by_part(evaluation, program.run, classify)
    assert program.asked == first.asked
    # One of 16, although the graph is right about all 40.
    assert (found.samples, found.float, found.compiled) == (LEAST, 100.0, 93.75)
    assert found.agreement == Agreement(samples=LEAST, equal=LEAST - 1, same=LEAST - 1)
    assert "different results for 1 of 16 samples" in described(found)


@pytest.mark.usefixtures("no_time")
def test_the_float_models_results_are_those_of_the_same_samples(evaluation: Evaluation) -> None:
    first = Program(classify)
    judge_by_part(evaluation, first.run, classify)
    # The float model is wrong about two samples that are run, and all that are not.
    right = set(first.asked[2:])
    scores = tuple(float(index in right) for index in range(COUNT))
    evaluation = Evaluation(evaluation.dataset, Evaluated(evaluation.of_float.metric, scores))
    found = judge_by_part(evaluation, Program(classify, wrong=first.asked[0]).run, classify)
    assert (found.float, found.compiled, found.drop_pp) == (87.5, 93.75, -6.25)


@pytest.mark.usefixtures("no_time")
def test_a_promise_that_the_graph_cant_vouch_for_is_kept_on_all_samples(
    evaluation: Evaluation,
) -> None:
    first = Program(classify)
    judge_by_part(evaluation, first.run, classify)
    program, told = Program(classify, wrong=first.asked[3]), list[str]()
    found = judge_by_part(evaluation, program.run, classify, is_promise=True, told=told)
    assert sorted(program.asked) == list(range(COUNT))
    assert (found.samples, found.compiled, found.agreement) == (COUNT, 97.5, None)
    (line,) = told
    assert line.startswith("the program and its graph differ in 1 of 16 samples: all 40 are run")


@pytest.mark.usefixtures("no_time")
def test_what_is_known_of_the_graph_is_not_run_again(evaluation: Evaluation) -> None:
    known, counted = evaluation.judge(graph), Program(graph)
    found = judge_by_part(evaluation, Program(graph).run, counted.run, of_graph=known)
    assert len(counted.asked) == LEAST
    assert replace(found, agreement=None) == known


def test_with_time_for_all_samples_nothing_stands_in_for_the_program(
    evaluation: Evaluation,
) -> None:
    program = Program(classify, wrong=5)
    found = judge_by_part(evaluation, program.run, classify)
    assert sorted(program.asked) == list(range(COUNT))
    assert (found.samples, found.compiled, found.agreement) == (COUNT, 97.5, None)


def compile_tiny(tmp_path: Path, backend: TinyBackend, **changes: Any) -> CompileReport:
    x = np.random.default_rng(5).standard_normal((10, IN)).astype(np.float32)
    weights, bias = parameters()
    labels = np.maximum(x @ weights.T + bias, 0).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % OUT
    evaluation = save(tmp_path / "data.npz", x=x, labels=labels)
    fields: dict[str, Any] = {"evaluation": evaluation, "output": tmp_path / "out.dse"}
    request = CompileRequest(tiny_onnx(), targets=("arm64",), **(fields | changes))
    return compile_model(request, compile_program=backend).reports[0]


@pytest.mark.emulated
def test_what_takes_too_long_under_emulation_must_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "EMULATED_EVALUATION_S", 0.01)
    report = compile_tiny(tmp_path, TinyBackend())
    assert report.accuracy is None
    assert report.notes[0].startswith("accuracy was not measured: that takes about ")
    assert "--max-drop" in report.notes[0]


@pytest.mark.emulated
@pytest.mark.parametrize("error", [0.0, 0.0001])
def test_a_gate_says_what_was_run_under_emulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setattr(accuracy, "EMULATED_EVALUATION_S", 0.01)
    monkeypatch.setattr(accuracy, "LEAST_EMULATED", 2)
    report = compile_tiny(tmp_path, TinyBackend(error=error), max_drop_pp=0.0)
    found = report.accuracy
    assert found is not None and found.agreement is not None
    assert (found.samples, found.float, found.compiled) == (10, 80.0, 80.0)
    assert (found.agreement.samples, found.agreement.same) == (2, 2)
    assert found.agreement.equal < 2 or error == 0.0
    (rung,) = report.ladder
    assert (rung.measured_on, rung.is_kept) == ("onnxruntime and qemu", True)
    assert report.notes == (described(found),)


@pytest.mark.emulated
@pytest.mark.tvm
def test_an_int8_program_equals_its_graph_on_every_sample_that_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "EMULATED_EVALUATION_S", 0.01)
    request = CompileRequest(
        brightness(),
        targets=("raspberry-pi-4",),
        precision="int8",
        calibration=save(tmp_path / "c.npz", x=images(64, 0)["x"]),
        evaluation=save(tmp_path / "e.npz", **images(400, 1)),
        max_drop_pp=0.5,
        output=tmp_path / "out.dse",
    )
    (report,) = compile_model(request).reports
    assert report.accuracy is not None
    assert report.accuracy.samples == 400
    assert report.accuracy.agreement == Agreement(samples=16, equal=16, same=16)

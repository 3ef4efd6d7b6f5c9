import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from benchmarks import latency
from benchmarks.interleaved import compare, take_turns
from deepseek_edge.errors import UsageError
from deepseek_edge.target import load_target
from tests.tiny_model import TinyBackend, tiny_onnx


def steady(
    name: str, milliseconds: float, log: list[tuple[str, int]]
) -> Callable[[int], list[float]]:
    def turn(calls: int) -> list[float]:
        log.append((name, calls))
        # The first call of a turn finds the other side's data in the caches.
        return [milliseconds + 100.0] + [milliseconds] * (calls - 1)

    return turn


def test_sides_take_turns_and_the_first_call_is_dropped() -> None:
    log: list[tuple[str, int]] = []
    ours, theirs, calls = take_turns(steady("a", 2.0, log), steady("b", 10.0, log), rest_s=0.0)
    assert [name for name, _ in log] == ["a", "b"] * (len(log) // 2)
    assert calls == 10  # a tenth of a second of the slower
    assert {count for _, count in log[2:]} == {calls + 1}
    assert ours == [[2.0] * calls] * len(ours)
    assert theirs == [[10.0] * calls] * len(ours)


@pytest.mark.parametrize(("milliseconds", "rounds", "calls"), [(0.001, 15, 500), (500.0, 5, 3)])
def test_short_and_long_calls_stay_inside_the_budget(
    milliseconds: float, rounds: int, calls: int
) -> None:
    turn = steady("a", milliseconds, [])
    ours, _, counted = take_turns(turn, turn, rest_s=0.0)
    assert (len(ours), counted) == (rounds, calls)


def test_a_program_is_compared_with_onnxruntime(tmp_path: Path) -> None:
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_onnx(), graph)
    program = TinyBackend()(
        tiny_onnx(), load_target("host"), batches=(1,), work_dir=tmp_path, progress=lambda *_: None
    )
    found = compare(program.library, graph, 1)
    assert found.threads == 1
    assert found.ours_ms > 0 < found.onnxruntime_ms
    assert found.ratio_min <= found.ratio <= found.ratio_max


def test_a_machine_is_described_by_its_kernel() -> None:
    text = "processor\t: 0\nmodel name\t: Example 9\ncpu family\t: 26\nflags\t\t: fpu hypervisor\n"
    machine = latency.describe_machine(f"{text}\n{text}")
    assert machine["cpu"] == "Example 9"
    assert machine["cpu_family"] == "26"
    assert machine["is_virtual"] is True
    assert machine["features"] == load_target("host").features


@pytest.mark.parametrize("text", ["", "0", "two", "1,,2"])
def test_threads_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--threads"):
        latency.parse_threads(text)
    assert latency.parse_threads("1,2") == (1, 2)


def test_a_model_that_fails_has_its_reason_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency, "make_graph", lambda model: "no such package")
    latency.main(["--models", "resnet-18", "--json", "latency.json"])
    report = json.loads((tmp_path / "latency.json").read_text())
    assert report["rows"][0]["reason"] == "no such package"
    assert report["versions"]["onnxruntime"]
    assert len(report["load_average_at_start"]) == 3

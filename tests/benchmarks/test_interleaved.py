from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from benchmarks.interleaved import compare, take_turns
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
    sides = [steady("a", 2.0, log), steady("b", 10.0, log), steady("c", 2.0, log)]
    found = take_turns(sides, rest_s=0.0)
    assert [name for name, _ in log] == ["a", "b", "c"] * (len(log) // 3)
    # A tenth of a second each, and the one that is dropped.
    assert set(log[3:]) == {("a", 51), ("b", 11), ("c", 51)}
    assert found == [[[2.0] * 50] * 15, [[10.0] * 10] * 15, [[2.0] * 50] * 15]


@pytest.mark.parametrize(("milliseconds", "rounds", "calls"), [(0.001, 15, 500), (500.0, 5, 3)])
def test_short_and_long_calls_stay_inside_the_budget(
    milliseconds: float, rounds: int, calls: int
) -> None:
    turn = steady("a", milliseconds, [])
    ours, _ = take_turns([turn, turn], rest_s=0.0)
    assert (len(ours), len(ours[0])) == (rounds, calls)


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

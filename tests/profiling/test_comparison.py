from pathlib import Path

import numpy as np
import pytest

from deepseek_edge.profiling.comparison import compare_calls, compare_steps
from deepseek_edge.target import load_target
from tests.tiny_model import IN, TinyBackend, tiny_onnx


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        TinyBackend()(
            tiny_onnx(),
            load_target("host"),
            batches=(1,),
            work_dir=tmp_path_factory.mktemp("tiny"),
            progress=lambda *_: None,
        ).library
        for _ in range(2)
    ]


def test_each_program_has_a_time_and_each_step_too(libraries: list[Path]) -> None:
    inputs = {"x": np.ones((1, IN), dtype=np.float32)}
    calls = compare_calls(libraries, inputs, threads=1)
    assert len(calls) == 2
    assert all(seconds > 0 for seconds in calls)
    steps = compare_steps(libraries, inputs, threads=1)
    assert [len(seconds) for seconds in steps] == [1, 1]
    assert all(seconds[0] >= 0 for seconds in steps)

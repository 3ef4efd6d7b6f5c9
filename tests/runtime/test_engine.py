import os
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from deepseek_edge.device import host
from deepseek_edge.errors import DeepSeekEdgeError, InputError, ModelError, UnsupportedError
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from deepseek_edge.tensors import TensorSpec
from tests.linear_program import build, expected, random_input


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("linear"), load_target("host"))


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("entry", "batch"), [(0, 1), (1, 4)])
def test_outputs_equal_numpy(library: Path, threads: int, entry: int, batch: int) -> None:
    with Engine(library, threads=threads) as engine:
        for seed in range(5):
            inputs = random_input(batch, seed)
            outputs = engine.run(inputs, entry)
            assert {name: value.tolist() for name, value in outputs.items()} == {
                name: value.tolist() for name, value in expected(inputs).items()
            }


def test_an_engine_describes_itself(library: Path) -> None:
    with Engine(library, threads=1) as engine:
        assert engine.entries == ("batch1", "batch4", "tally")
        assert engine.inputs(1) == (TensorSpec("x", "float32", (4, 256)),)
        assert engine.outputs(0)[1] == TensorSpec("z", "float32", ())
        assert engine.steps(1) == (("/fc/Gemm", "Gemm"), ("/relu/Relu", "Relu"))


def test_outputs_outlive_the_next_run_and_the_engine(library: Path) -> None:
    with Engine(library, threads=1) as engine:
        first = engine.run(random_input(1, 0))["y"]
        kept = first.copy()
        engine.run(random_input(1, 1))
    assert (first == kept).all()


def test_a_timed_run_gives_the_same_outputs_and_a_time_for_each_step(library: Path) -> None:
    inputs = random_input(4)
    with Engine(library, threads=2) as engine:
        outputs, step_ns = engine.run_timed(inputs, entry=1)
        assert (outputs["y"] == expected(inputs)["y"]).all()
        assert step_ns.shape == (2,)
        assert step_ns[0] > step_ns[1] > 0


def test_timing_repeats_the_run_that_often(library: Path) -> None:
    with Engine(library, threads=2) as engine:
        durations = engine.time(7, entry=2)
        assert durations.shape == (7,)
        assert (durations > 0).all()
        assert set(engine.run({}, entry=2)["counts"].tolist()) == {8}


def test_an_input_need_not_be_contiguous(library: Path) -> None:
    x = random_input(4)["x"]
    outputs = host.run(library, {"x": np.asfortranarray(x)}, entry=1, threads=1)
    assert (outputs["y"] == expected({"x": x})["y"]).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"the inputs given are \[\]"),
        ({"x": np.zeros((1, 256), np.float32), "w": np.zeros(1)}, r"\['w', 'x'\]"),
        ({"x": np.zeros((256,), np.float32)}, r"input 'x' is float32 of shape \(256,\)"),
        ({"x": np.zeros((1, 256))}, "input 'x' is float64"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    library: Path, inputs: dict[str, np.ndarray], message: str
) -> None:
    with Engine(library, threads=1) as engine, pytest.raises(InputError, match=message):
        engine.run(MappingProxyType(inputs))


def test_a_wrong_entry_and_a_closed_engine_are_refused(library: Path) -> None:
    with Engine(library, threads=1) as engine, pytest.raises(InputError, match="the program has 3"):
        engine.inputs(3)
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.run(random_input(1))


def test_more_threads_than_the_runtime_has_are_refused(library: Path) -> None:
    with pytest.raises(DeepSeekEdgeError, match="257 threads: 0 to 256 are possible"):
        Engine(library, threads=257)


def test_a_cpu_without_a_needed_feature_is_refused_by_name(tmp_path: Path) -> None:
    library = build(tmp_path, load_target("host"), features="sse2 avxvnniint16 avx2")
    with pytest.raises(UnsupportedError, match="this CPU lacks the feature 'avxvnniint16'"):
        Engine(library)


def test_a_feature_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    library = build(tmp_path, load_target("host"), features="dotprod2")
    with pytest.raises(UnsupportedError, match="can't check the CPU feature 'dotprod2'"):
        Engine(library)


def test_the_features_of_this_cpu_are_found(tmp_path: Path) -> None:
    target = load_target("host")
    library = build(tmp_path, target, features=" ".join(target.features))
    Engine(library).close()


@pytest.mark.parametrize("content", [None, b"", b"not a library" * 400])
def test_a_file_that_is_no_compiled_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.so"):
        Engine(path)


def test_a_file_put_in_the_place_of_an_open_one_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    old = build(tmp_path / "old", load_target("host"))
    new = build(tmp_path / "new", load_target("host"), features="dotprod2")
    with Engine(old):
        new.replace(old)
        with pytest.raises(UnsupportedError, match="dotprod2"):
            Engine(old)


def test_closing_gives_everything_back(library: Path) -> None:
    def held() -> tuple[int, int, bool]:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        return len(os.listdir("/proc/self/fd")), threads, "model.so" in maps  # noqa: PTH208

    before = held()
    with Engine(library, threads=4):
        assert held() != before
    assert held() == before

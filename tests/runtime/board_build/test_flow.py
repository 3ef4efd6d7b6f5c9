"""The deferred build end to end on a stand-in for the board, with a fake builder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.engine_build import pack_timing_cache
from deepseek_edge.errors import (
    DeepSeekEdgeError,
    DeviceError,
    MissingToolError,
    UnsupportedError,
)
from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.runtime.board_build.flow import DeferredBuild, Outcome
from deepseek_edge.runtime.board_build.store import EngineStore
from tests.runtime.board_build.samples import make_folder
from tests.runtime.board_build.stand_in import NANO, StandIn, StandInRunner


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bundle") / "folder")


class Place:
    """A board with the folder on it."""

    def __init__(self, source: Path, tmp_path: Path) -> None:
        self.folder = tmp_path / "folder"
        self.folder.mkdir()
        for path in source.iterdir():
            (self.folder / path.name).write_bytes(path.read_bytes())
        self.store = EngineStore(self.folder / "engines")
        self.board = StandIn(tmp_path / "gpu")
        self.steps: list[str] = []

    def ensure(self, **options: Any) -> Outcome:
        self.board.builds.clear()
        self.steps.clear()
        recipe = read_recipe(self.folder)
        build = DeferredBuild(recipe, self.store, lambda: self.board, self.steps.append)
        return build.ensure(**options)

    @property
    def record(self) -> dict[str, Any]:
        record = self.store.read_record()
        assert record is not None
        return record

    def become(self, **identity: str) -> None:
        self.board.is_ = dataclasses.replace(self.board.is_, **identity)


@pytest.fixture
def place(source: Path, tmp_path: Path) -> Place:
    return Place(source, tmp_path)


def test_the_first_start_builds_both_and_keeps_the_faster(place: Place) -> None:
    outcome = place.ensure()
    assert (outcome.action, outcome.program) == ("built", "tensorrt-int8")
    assert place.board.builds == ["int8", "float16"]
    assert Path(str(outcome.engine)).read_bytes() == place.store.read_engine(place.record)
    assert outcome.reason == "int8 0.400 ms, float16 0.600 ms (medians, measured in turns)"
    assert place.steps == [
        "locked",
        "noted",
        "built int8",
        "built float16",
        "checked int8",
        "checked float16",
        "measured",
        "engine written",
        "committed",
    ]


def test_the_record_says_what_was_measured(place: Place) -> None:
    place.ensure()
    record = place.record
    assert record["precision"] == "int8"
    assert record["key"]["gpu"] == NANO.gpu
    assert record["built"] == "2026-11-27T00:00:00+00:00"
    trials = {trial["precision"]: trial for trial in record["trials"]}
    assert trials["float16"]["median_ms"] == 0.6
    assert trials["int8"]["max_abs"] <= 1
    assert trials["int8"]["failure"] is None


def test_only_the_winner_and_its_record_stay_on_the_disk(place: Place) -> None:
    place.ensure()
    names = {path.name for path in place.store.folder.iterdir()}
    engine = place.record["engine"]["file"]
    assert names == {"engine.json", engine, "build.lock", "timing.cache", "layers.json"}


def test_the_winners_layers_are_kept(place: Place) -> None:
    place.board.durations_ns = {"int8": 700_000, "float16": 600_000}
    place.ensure()
    layers = json.loads((place.store.folder / "layers.json").read_text())
    assert layers == {"Layers": [{"Name": "float16"}]}


def test_a_second_start_builds_nothing(place: Place) -> None:
    first = place.ensure()
    opened = place.board.opened
    second = place.ensure()
    assert (second.action, second.engine) == ("reused", first.engine)
    assert place.board.builds == []
    assert place.board.opened == opened
    assert place.steps == []


def test_float16_serves_where_int8_is_slower(place: Place) -> None:
    place.board.durations_ns = {"int8": 700_000, "float16": 600_000}
    outcome = place.ensure()
    assert outcome.program == "tensorrt-float16"
    assert outcome.reason.startswith("float16 0.600 ms, int8 0.700 ms")


def test_an_engine_that_answers_wrongly_never_serves(place: Place) -> None:
    place.board.wrong = ("int8",)
    outcome = place.ensure()
    assert outcome.program == "tensorrt-float16"
    assert "int8: its outputs are wrong: output 'y' is off by" in outcome.reason
    # Alone it needs no measuring.
    assert place.record["trials"][1]["median_ms"] is None


def test_if_all_are_wrong_the_next_program_takes_over(place: Place) -> None:
    place.board.wrong = ("int8", "float16")
    outcome = place.ensure()
    assert (outcome.action, outcome.program, outcome.engine) == ("fallback", "cuda-int8", None)
    assert not outcome.has_engine
    assert place.store.read_record() is None


def test_one_graph_that_cannot_be_built_leaves_the_other(place: Place) -> None:
    place.board.broken = {"int8": UnsupportedError("TensorRT refuses Foo (node '/a')")}
    outcome = place.ensure()
    assert outcome.program == "tensorrt-float16"
    assert outcome.reason == (
        "the only one that can serve (int8: TensorRT refuses Foo (node '/a'))"
    )


def test_what_tensorrt_cannot_build_is_not_tried_at_every_start(place: Place) -> None:
    refusal = UnsupportedError("TensorRT refuses Foo (node '/a')")
    place.board.broken = {"int8": refusal, "float16": refusal}
    first = place.ensure()
    assert first.program == "cuda-int8"
    assert "Foo (node '/a')" in first.reason
    second = place.ensure()
    assert place.board.builds == []
    assert second.reason.startswith("it failed before: int8: TensorRT refuses Foo")
    place.board.broken = {}
    assert place.ensure(retry=True).action == "built"


def test_a_failure_that_may_pass_is_tried_again(place: Place) -> None:
    failure = DeepSeekEdgeError("TensorRT built no engine: out of memory")
    place.board.broken = {"int8": failure, "float16": failure}
    assert place.ensure().action == "fallback"
    place.board.broken = {}
    assert place.ensure().action == "built"


def test_too_little_memory_is_refused_before_building(place: Place) -> None:
    place.board.free_bytes = 900 << 20
    outcome = place.ensure()
    assert (outcome.action, outcome.program) == ("fallback", "cuda-int8")
    assert place.board.builds == []
    assert "add swap" in outcome.reason
    place.board.swap_bytes = 1 << 30
    again = place.ensure()
    assert again.action == "built"
    assert any("swap will be used" in note for note in again.notes)


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("no NVIDIA driver can be used here"),
        DeviceError("there is no GPU"),
        MissingToolError("TensorRT for Python is not installed"),
    ],
)
def test_without_a_gpu_or_tensorrt_the_next_program_takes_over(
    place: Place, error: DeepSeekEdgeError
) -> None:
    def fail() -> Any:
        raise error

    outcome = DeferredBuild(read_recipe(place.folder), place.store, fail).ensure()
    assert (outcome.action, outcome.program) == ("fallback", "cuda-int8")
    assert outcome.reason == str(error)


def test_without_other_programs_none_takes_over(place: Place) -> None:
    table = json.loads((place.folder / "recipe.json").read_text())
    (place.folder / "recipe.json").write_text(json.dumps({**table, "fallback": []}))
    place.board.wrong = ("int8", "float16")
    assert place.ensure().program is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu", "Orin (AGX)"), ("sm", "7.2"), ("tensorrt", "TensorRT 10.7.0")],
)
def test_an_engine_of_another_gpu_or_version_is_never_opened(
    place: Place, field: str, value: str
) -> None:
    old = place.ensure().engine
    place.become(**{field: value})
    place.board.opened = 0
    place.board.broken = {"int8": UnsupportedError("no"), "float16": UnsupportedError("no")}
    assert place.ensure().action == "fallback"
    assert place.board.opened == 0
    place.board.broken = {}
    outcome = place.ensure(retry=True)
    assert outcome.action == "built"
    assert outcome.engine != old


def test_after_a_system_update_the_old_engine_serves_until_the_new_one_is_built(
    place: Place,
) -> None:
    old = place.ensure()
    place.become(system="L4T 36.5.0")
    serving = place.ensure()
    assert (serving.action, serving.engine) == ("serving-old", old.engine)
    assert serving.reason == "system was L4T 36.4.3, is L4T 36.5.0"
    assert place.board.builds == []
    rebuilt = place.ensure(rebuild=True)
    assert rebuilt.action == "built"
    assert place.record["key"]["system"] == "L4T 36.5.0"
    assert place.ensure().action == "reused"


def test_an_old_engine_that_no_longer_loads_is_replaced_at_once(place: Place) -> None:
    place.ensure()
    place.become(system="L4T 36.5.0")
    for path in place.board.folder.iterdir():
        path.unlink()
    outcome = place.ensure()
    assert outcome.action == "built"
    cache, *_ = [note for note in outcome.notes if "timing cache" in note]
    assert outcome.notes == ("not used: TensorRT doesn't take this engine", cache)


def test_an_old_engine_that_answers_wrongly_is_replaced_at_once(place: Place) -> None:
    place.ensure()
    place.become(system="L4T 36.5.0")
    place.board.wrong = ("int8",)
    assert place.ensure().program == "tensorrt-float16"


def test_a_failed_rebuild_leaves_the_old_engine(place: Place) -> None:
    old = place.ensure()
    place.become(system="L4T 36.5.0")
    failure = DeepSeekEdgeError("out of memory")
    place.board.broken = {"int8": failure, "float16": failure}
    assert place.ensure(rebuild=True).action == "fallback"
    assert place.ensure().engine == old.engine


def test_another_graph_never_runs_the_old_engine(place: Place, tmp_path: Path) -> None:
    place.ensure()
    table = json.loads((place.folder / "recipe.json").read_text())
    graph = (place.folder / "graph-fp16.onnx").read_bytes()
    (place.folder / "graph.onnx").write_bytes(graph)
    table["graphs"]["int8"]["sha256"] = table["graphs"]["float16"]["sha256"]
    (place.folder / "recipe.json").write_text(json.dumps(table))
    assert place.ensure().action == "built"


def test_a_damaged_engine_is_not_opened_but_built_again(place: Place) -> None:
    outcome = place.ensure()
    path = Path(str(outcome.engine))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    place.board.opened = 0
    again = place.ensure()
    assert again.action == "built"
    assert "SHA-256 differs" in again.notes[0]
    # Only the two that were built now.
    assert place.board.opened == 2


def test_a_damaged_graph_is_not_given_to_tensorrt(place: Place) -> None:
    (place.folder / "graph.onnx").write_bytes(b"something else")
    outcome = place.ensure()
    assert place.board.builds == ["float16"]
    assert "graph.onnx is damaged" in outcome.reason


def test_damaged_golden_tensors_verify_nothing(place: Place) -> None:
    (place.folder / "input.bin").write_bytes(b"\0" * 10)
    outcome = place.ensure()
    assert outcome.action == "fallback"
    assert "input.bin is damaged" in outcome.reason


def test_the_timing_cache_is_used_again(place: Place) -> None:
    place.ensure()
    assert place.board.given_caches == [b"", b"times"]
    place.ensure(rebuild=True)  # nothing to rebuild
    place.become(gpu="Orin (AGX)")
    place.ensure()
    # Of another GPU: not given to TensorRT, measured anew.
    assert place.board.given_caches[2:] == [b"", b"times"]


def test_a_damaged_timing_cache_is_not_given_to_tensorrt(place: Place) -> None:
    origin = f"{NANO.gpu}, {NANO.sm}, {NANO.tensorrt}, {NANO.system}"
    packed = pack_timing_cache(b"good times", origin)
    place.store.write_cache(packed)
    place.ensure()
    assert place.board.given_caches[0] == b"good times"
    (place.store.folder / "engine.json").unlink()
    place.store.write_cache(packed[:-1] + b"?")
    place.board.given_caches.clear()
    outcome = place.ensure()
    assert outcome.action == "built"
    assert place.board.given_caches[0] == b""
    assert "timing cache is damaged" in outcome.notes[0]


def test_a_full_disk_is_a_reason_and_not_a_crash(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def no_space(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    outcome = place.ensure()
    assert calls
    assert (outcome.action, outcome.program) == ("fallback", "cuda-int8")
    assert "No space left" in outcome.reason
    monkeypatch.undo()
    # It ended, so it doesn't count as killed.
    assert place.store.read_attempt() is None
    assert place.ensure().action == "built"


def test_a_gpu_that_is_lost_while_timing_is_a_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(self: StandInRunner, repetitions: int) -> list[int]:
        raise DeviceError("the GPU failed")

    monkeypatch.setattr(StandInRunner, "time", lose)
    outcome = place.ensure()
    assert (outcome.action, outcome.reason) == ("fallback", "the GPU failed")
    monkeypatch.undo()
    assert place.ensure().action == "built"


def test_layers_that_are_not_said_are_no_obstacle(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: StandInRunner) -> str:
        raise UnsupportedError("no inspector")

    monkeypatch.setattr(StandInRunner, "layer_information", refuse)
    outcome = place.ensure()
    assert outcome.action == "built"
    assert outcome.notes[0] == "int8: no layer information: no inspector"


def test_a_process_that_is_building_makes_others_use_the_next_program(place: Place) -> None:
    with place.store.lock(0) as is_mine:
        assert is_mine
        outcome = place.ensure()
    assert outcome.action == "fallback"
    assert outcome.reason == "another process is building the engine"
    assert place.board.builds == []


def test_what_another_process_built_meanwhile_is_reused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ensure()
    record = place.record
    seen = [None, record]
    monkeypatch.setattr(EngineStore, "read_record", lambda self: seen.pop(0))
    outcome = place.ensure(wait_s=1)
    assert seen == []
    assert outcome.action == "reused"
    assert place.board.builds == []

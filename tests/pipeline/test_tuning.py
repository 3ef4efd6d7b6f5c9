from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from deepseek_edge.artifacts import Entry, Layers, Program, Step
from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.backends.tvm.tuning import TunableStep, features_digest, schedules_digest
from deepseek_edge.errors import OutputError, UnsupportedError, UsageError
from deepseek_edge.pipeline import CompileRequest
from deepseek_edge.pipeline.choosing import Builder
from deepseek_edge.pipeline.plan import make_plan
from deepseek_edge.pipeline.quantizing import Compiled
from deepseek_edge.pipeline.tuning import Instruments, tune
from deepseek_edge.pipeline.tuning_database import Database, read_database, write_database
from deepseek_edge.target import load_target
from tests.tiny_model import tiny_onnx

HIGH, WIDE, LONG = Choice(rows=12), Choice(vectors=4), Choice(unroll=8)
STEPS = (
    TunableStep("a", "a convolution, twice", (0, 2), (HIGH, WIDE, LONG)),
    TunableStep("b", "a product", (1,), (WIDE,)),
)
# Milliseconds of a step by what is chosen for it; 10 in any other case.
MS = {
    ("a", HIGH): (8.0, 8.0),
    ("a", Choice(rows=12, vectors=4)): (5.0, 9.0),  # fast once, then not
    ("a", Choice(rows=12, unroll=8)): (6.0, 6.0),
    ("b", WIDE): (9.8, 9.8),  # within the margin
}


@dataclass
class Bench:
    """A machine on which a trial takes 10 s, and steps take what ``MS`` says."""

    folder: Path
    minutes: float = 5.0
    tuned_ms: Sequence[float] = (25.0, 25.0)
    interrupt_at: int = -1
    built: list[Mapping[str, Choice]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.chosen: dict[Path, Mapping[str, Choice]] = {}
        self.calls_ms: Iterator[float] = iter(self.tuned_ms)
        self.round = 0

    @property
    def file(self) -> Path:
        return self.folder / "db.json"

    def compile(self, _: Any, __: Any, *, work_dir: Path, **options: Any) -> Program:
        choices = options.get("choices", {})
        if len(self.built) == self.interrupt_at:
            raise KeyboardInterrupt
        self.built.append(choices)
        self.chosen[work_dir] = choices
        self.now_s += 10
        return program(work_dir)

    def steps(self, libraries: Sequence[Path], _: Any) -> list[list[float]]:
        self.round += 1
        return [self.seconds(self.chosen[path.parent]) for path in libraries]

    def seconds(self, choices: Mapping[str, Choice]) -> list[float]:
        found = [0.01] * 3
        for step in STEPS:
            ms = MS.get((step.key, choices.get(step.key, BY_MODEL)), (10.0, 10.0))
            for place in step.places:
                found[place] = ms[self.round % 2] / 1e3
        return found

    def calls(self, libraries: Sequence[Path], _: Any) -> list[float]:
        assert [path.parent.name for path in libraries] == [self.folder.name, "tuned"]
        return [0.03, next(self.calls_ms) / 1e3]

    def tune(self) -> Compiled:
        builder = Builder(
            self.compile,
            load_target("host"),
            (1,),
            self.folder,
            lambda *event: self.progress.append(event),
        )
        untuned = Compiled(onnx.ModelProto(), None, program(self.folder), ("first",))
        self.chosen[self.folder] = {}
        return tune(
            replace(untuned, graph=tiny_onnx(1)),
            builder,
            minutes=self.minutes,
            database=self.file,
            narrate=self.told.append,
            instruments=Instruments(lambda *_: STEPS, self.calls, self.steps, lambda: self.now_s),
        )


def program(folder: Path) -> Program:
    steps = tuple(Step(name, "Conv", 1000, 40, 40, 1) for name in "xyz")
    layers = Layers(3, 0, 0, 3, None)
    entry = Entry("batch1", (), (), steps)
    return Program("cpu", "tvm", "float32", folder / "model.so", (entry,), (), 0, 0, 0, 0, layers)


def empty() -> Database:
    host = load_target("host")
    return Database("host", features_digest(host), schedules_digest())


def found_by(bench: Bench) -> Database:
    return read_database(bench.file, empty(), bench.told.append)


def test_what_wins_twice_by_more_than_the_margin_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tuned = bench.tune()
    best = Choice(rows=12, unroll=8)
    assert bench.built == [
        {"a": HIGH, "b": WIDE},
        {"a": Choice(rows=12, vectors=4)},  # on top of what won before
        {"a": best},
        {"a": best},
    ]
    entries = found_by(bench).entries
    assert (entries["a"].choice, entries["b"].choice) == (best, BY_MODEL)
    assert (entries["a"].ms, entries["a"].default_ms, entries["a"].measured) == (6.0, 10.0, 3)
    assert entries["a"].description == "a convolution, twice"
    assert tuned.program.library == tmp_path / "tuned" / "model.so"
    assert tuned.notes == (
        "first",
        "tuning: 25.000 ms tuned, 30.000 ms untuned, 1 kinds of steps changed",
    )
    assert tuned.is_tuned
    assert tuned.otherwise is not None
    assert tuned.otherwise.program.library == tmp_path / "model.so"


@pytest.mark.parametrize("tuned_ms", [(31.0, 31.0), (25.0, 30.0), (31.0, 25.0)])
def test_a_tuned_program_that_loses_once_is_not_shipped(
    tmp_path: Path, tuned_ms: Sequence[float]
) -> None:
    kept = Bench(tmp_path, tuned_ms=tuned_ms).tune()
    assert kept.program.library == tmp_path / "model.so"
    assert kept.notes[0] == "first"
    assert kept.notes[1].startswith("tuning: the untuned program is kept")


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Bench(tmp_path, interrupt_at=1)
    with pytest.raises(KeyboardInterrupt):
        first.tune()
    assert found_by(first).entries["a"].measured == 1
    second = Bench(tmp_path)
    second.tune()
    assert second.built[0] == {"a": Choice(rows=12, vectors=4)}
    assert not any("warning" in line for line in second.told)


def test_no_trial_begins_that_would_not_end_in_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, minutes=25 / 60)
    bench.tune()
    assert found_by(bench).entries["a"].measured == 2
    assert bench.told[-2] == "host: 1 choices are left to try: --tune goes on with them"
    assert bench.progress == [("tune (seconds)", s, 26) for s in (0, 10, 26)]


def test_no_minutes_use_what_is_known_and_try_nothing(tmp_path: Path) -> None:
    Bench(tmp_path).tune()
    bench = Bench(tmp_path, minutes=0)
    assert bench.tune().program.library.parent.name == "tuned"
    assert bench.built == [{"a": Choice(rows=12, unroll=8)}]
    (tmp_path / "other").mkdir()
    nothing = Bench(tmp_path / "other", minutes=0)
    assert nothing.tune().notes[1].startswith("tuning: nothing faster found")
    assert not nothing.file.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"[]", b'{"schema": 2}', b'{"a": ' * 10000, b"x" * 100],
)
def test_garbage_is_told_of_and_stays_until_something_is_found(
    tmp_path: Path, content: bytes
) -> None:
    bench = Bench(tmp_path, minutes=0)
    bench.file.write_bytes(content)
    bench.tune()
    assert f"warning: {bench.file} is no tuning database" in bench.told[0]
    assert bench.file.read_bytes() == content
    Bench(tmp_path).tune()
    assert found_by(bench).entries["a"].measured == 3


@pytest.mark.parametrize("choice", [{"rows": 10**6}, {"rows": 0}, {"filtering": "F9"}])
def test_a_choice_out_of_bounds_is_garbage(tmp_path: Path, choice: dict[str, object]) -> None:
    Bench(tmp_path).tune()
    bench = Bench(tmp_path)
    text = bench.file.read_text()
    (name, value), *_ = choice.items()
    was = {"rows": '"rows": 12', "filtering": '"filtering": null'}[name]
    new = f'"{name}": {value}' if isinstance(value, int) else f'"{name}": "{value}"'
    assert was in text
    bench.file.write_text(text.replace(was, new))
    assert found_by(bench) == empty()
    assert "is no tuning database" in bench.told[-1]


@pytest.mark.parametrize("foreign", ["features_sha256", "schedules_sha256"])
def test_entries_of_another_machine_or_version_are_counted_and_ignored(
    tmp_path: Path, foreign: str
) -> None:
    Bench(tmp_path).tune()
    bench = Bench(tmp_path)
    write_database(bench.file, replace(found_by(bench), **{foreign: "0" * 64}))  # type: ignore[arg-type]
    assert found_by(bench) == empty()
    assert "2 entries are for another" in bench.told[-1]


def test_a_write_that_fails_leaves_the_old_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bench(tmp_path).tune()
    bench = Bench(tmp_path)
    before = bench.file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space"):
        write_database(bench.file, empty())
    assert bench.file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["db.json"]


def request(folder: Path, **options: Any) -> CompileRequest:
    return CompileRequest(tiny_onnx(1), output=folder / "o.dse", **options)


def test_a_board_is_not_tuned_on_another_machine(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="raspberry-pi-4 is for cortex-a72") as error:
        make_plan(request(tmp_path, targets=("raspberry-pi-4",), tune_minutes=1.0))
    assert error.value.hint is not None
    assert "leave --tune out" in error.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"tune_minutes": -1.0},
        {"tune_minutes": float("nan")},
        {"tune_minutes": float("inf")},
        {"tune_minutes": 1.0, "batches": (1, 4)},
        {"tune_database": Path("db.json")},
    ],
)
def test_tuning_that_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--tune"):
        make_plan(request(tmp_path, **options))


@pytest.mark.parametrize("content", ["\x08 a model", '{"schema": 1, "tensors": {}}'])
def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other"
    file.write_text(content)
    with pytest.raises(UsageError, match="is no tuning database"):
        make_plan(request(tmp_path, tune_minutes=1.0, tune_database=file))


def test_a_database_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        make_plan(request(tmp_path, tune_minutes=1.0, tune_database=tmp_path / "file" / "db.json"))

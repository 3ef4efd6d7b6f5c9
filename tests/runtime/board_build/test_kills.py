"""Builds that are killed at every step, and builders that meet: in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.runtime.board_build.decisions import MOST_DEATHS
from deepseek_edge.runtime.board_build.store import EngineStore
from tests.runtime.board_build.samples import make_folder

STEPS = (
    *("locked", "noted", "built int8", "built float16", "checked int8", "checked float16"),
    *("measured", "engine written", "committed"),
)
# Two for each file (itself and its folder): a note, two timing caches, the engine, its layers, its
# record.
FLUSHES = tuple(f"fsync {number}" for number in range(1, 13))


class Driver:
    """The process that forks builds."""

    def __init__(self, folder: Path, builder: str) -> None:
        self.folder, self.builder = folder, builder
        self.store = EngineStore(folder / "engines")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.board_build.drive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, stop: str | None = None) -> int:
        job = {
            "folder": str(self.folder),
            "gpu": str(self.folder.parent / "gpu"),
            "builder": self.builder,
            "stop": stop,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.read()["pid"])

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def start_and_stop(self, step: str) -> int:
        pid = self.start(step)
        assert self.read() == {"stopped": step}
        return pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self.read() == {"outcome": None, "status": -signal.SIGKILL}

    def build(self) -> dict[str, Any]:
        self.start()
        ended = self.read()
        assert ended["status"] == 0
        outcome: dict[str, Any] = ended["outcome"]
        return outcome

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bundle") / "folder")


def copy(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def shared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One driver, since starting it costs more than a build."""
    driver = Driver(copy(source, tmp_path_factory.mktemp("board") / "folder"), "fake")
    yield driver
    driver.close()


@pytest.fixture
def driver(shared: Driver, source: Path, tmp_path: Path) -> Driver:
    shared.folder = copy(source, tmp_path / "folder")
    shared.store = EngineStore(shared.folder / "engines")
    return shared


@pytest.fixture
def rtx(source: Path, tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(copy(source, tmp_path / "folder"), "rtx")
    yield driver
    driver.close()


def check_whole(store: EngineStore) -> bool:
    """What the record names, if there is one, is whole; True if there is one."""
    record = store.read_record()
    if record is None:
        assert not (store.folder / "engine.json").exists()
        return False
    assert len(store.read_engine(record)) == record["engine"]["size_bytes"]
    return True


def check_killed_at(driver: Driver, step: str) -> None:
    driver.kill(driver.start_and_stop(step))
    is_there = check_whole(driver.store)
    outcome = driver.build()
    assert outcome["action"] == ("reused" if is_there else "built")
    assert check_whole(driver.store)
    again = driver.build()
    assert (again["action"], again["builds"]) == ("reused", [])
    if outcome["action"] == "built":
        names = {path.name for path in driver.store.folder.iterdir()}
        assert len([name for name in names if name.endswith(".engine")]) == 1
        assert not any(name.endswith(".tmp") for name in names)


@pytest.mark.parametrize("step", [*STEPS, *FLUSHES])
def test_a_build_that_is_killed_leaves_no_half_engine(driver: Driver, step: str) -> None:
    check_killed_at(driver, step)


def test_there_are_no_more_steps_than_these(driver: Driver) -> None:
    driver.start(f"fsync {len(FLUSHES) + 1}")
    assert driver.read()["status"] == 0


@pytest.mark.parametrize("step", ["built int8", FLUSHES[-1]])
def test_a_rebuild_that_is_killed_leaves_the_old_engine(driver: Driver, step: str) -> None:
    driver.build()
    path = driver.store.folder / "engine.json"
    record = json.loads(path.read_text())
    old = json.dumps({**record, "key": {**record["key"], "sm": "7.2"}})
    path.write_text(old)
    driver.kill(driver.start_and_stop(step))
    # The last flush is that of the folder: the new record is there, whole.
    assert (path.read_text() == old) == (step == "built int8")
    assert check_whole(driver.store)


def test_builds_that_are_killed_again_and_again_are_given_up(driver: Driver) -> None:
    for _ in range(MOST_DEATHS):
        driver.kill(driver.start_and_stop("built int8"))
    outcome = driver.build()
    assert (outcome["action"], outcome["program"]) == ("fallback", "cuda-int8")
    assert f"{MOST_DEATHS} builds were killed" in outcome["reason"]
    assert outcome["builds"] == []


def test_while_one_process_builds_another_uses_the_next_program(
    driver: Driver, source: Path
) -> None:
    pid = driver.start_and_stop("built int8")
    other = Driver(driver.folder, "fake")
    try:
        outcome = other.build()
        assert outcome["action"] == "fallback"
        assert outcome["reason"] == "another process is building the engine"
        os.kill(pid, signal.SIGCONT)
        assert driver.read()["outcome"]["action"] == "built"
        assert other.build()["action"] == "reused"
    finally:
        other.close()


@pytest.mark.tensorrt_rtx
def test_real_engines_are_built_once_and_survive_kills(rtx: Driver) -> None:
    for step in ("built int8", "engine written"):
        rtx.kill(rtx.start_and_stop(step))
        assert not check_whole(rtx.store)
    outcome = rtx.build()
    assert (outcome["action"], outcome["program"]) == ("built", "tensorrt-int8")
    assert outcome["builds"] == ["int8", "float16"]
    assert Path(outcome["engine"]).read_bytes()[:4] == b"vtrt"
    again = rtx.build()
    assert (again["action"], again["builds"]) == ("reused", [])

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_edge.errors import ModelError, OutputError
from deepseek_edge.runtime.board_build.store import EngineStore

HOLDER = """
import sys, time
from pathlib import Path
from deepseek_edge.runtime.board_build.store import EngineStore
with EngineStore(Path(sys.argv[1])).lock(0) as is_mine:
    print(is_mine, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def committed(store: EngineStore, engine: bytes = b"engine") -> dict[str, object]:
    record: dict[str, object] = {"engine": store.write_engine(engine), "precision": "int8"}
    store.commit(record)
    return record


def test_an_engine_is_read_back(store: EngineStore) -> None:
    record = committed(store)
    assert store.read_record() == record
    assert store.read_engine(record) == b"engine"


def test_without_a_record_there_is_no_engine(store: EngineStore) -> None:
    store.write_engine(b"engine")
    assert store.read_record() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff"])
def test_a_damaged_record_is_none(store: EngineStore, text: str) -> None:
    (store.folder / "engine.json").write_text(text, "latin-1")
    assert store.read_record() is None


def test_a_damaged_engine_is_not_handed_out(store: EngineStore) -> None:
    record = committed(store)
    path = store.folder / str(record["engine"]["file"])  # type: ignore[index]
    for data in (b"engin", b"enginf", b"", b"engine "):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="SHA-256 differs"):
            store.read_engine(record)
    path.unlink()
    with pytest.raises(ModelError, match="can't be read"):
        store.read_engine(record)


@pytest.mark.parametrize(
    "record", [{}, {"engine": None}, {"engine": {"file": "../x", "sha256": "0"}}, {"engine": {}}]
)
def test_a_record_that_names_no_engine_is_refused(
    store: EngineStore, record: dict[str, object]
) -> None:
    with pytest.raises(ModelError, match="damaged"):
        store.read_engine(record)


def test_cleaning_keeps_what_the_record_names(store: EngineStore) -> None:
    committed(store, b"old")
    record = committed(store, b"new")
    store.write_engine(b"never committed")
    (store.folder / "x.engine.1.tmp").write_bytes(b"half")
    store.note_attempt("key", 1, None)
    store.clean()
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"engine.json", "attempt.json", record["engine"]["file"]}  # type: ignore[index]


def test_one_process_builds_at_a_time(store: EngineStore) -> None:
    command = [sys.executable, "-c", HOLDER, str(store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "True\n"
            with store.lock(0.3) as is_mine:
                assert not is_mine
            holder.kill()
            # The kernel gives the lock of a killed process back.
            with store.lock(10) as is_mine:
                assert is_mine
        finally:
            holder.kill()
    with store.lock(0) as is_mine:
        assert is_mine


def test_notes_of_attempts_are_read_back_and_forgotten(store: EngineStore) -> None:
    assert store.read_attempt() is None
    store.note_attempt("key", 2, "why")
    assert store.read_attempt() == {"key": "key", "deaths": 2, "failure": "why"}
    store.forget_attempt()
    store.forget_attempt()
    assert store.read_attempt() is None


def test_a_full_disk_leaves_what_was_there(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = committed(store)
    failed = []

    def no_space(descriptor: int) -> None:
        failed.append(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OutputError, match="No space left"):
        store.write_engine(b"another")
    assert failed
    monkeypatch.undo()
    assert store.read_engine(record) == b"engine"
    assert [path.name for path in store.folder.iterdir() if ".tmp" in path.name] == []


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't write") as refusal:
        EngineStore(tmp_path / "file" / "engines")
    assert "--state" in str(refusal.value.hint)


def test_a_record_is_plain_json(store: EngineStore) -> None:
    committed(store)
    assert json.loads((store.folder / "engine.json").read_text("ascii"))["precision"] == "int8"

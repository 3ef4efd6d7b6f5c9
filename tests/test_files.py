import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_edge.errors import OutputError
from deepseek_edge.files import atomic_directory, atomic_path, write_atomic

LIMIT_BYTES = 1 << 16
# The kernel itself refuses to write beyond the limit; without SIGXFSZ it says so by EFBIG.
LIMITED = f"""
import resource, signal, sys
from pathlib import Path
from deepseek_edge.errors import OutputError
from deepseek_edge.files import atomic_directory, write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, {LIMIT_BYTES}))
"""


def run_limited(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_new_file_holds_the_data_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"data")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"data")]


def test_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_reader_of_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        write_atomic(tmp_path / "a", b"new")
        assert (reader.read(), (tmp_path / "a").read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_interrupted_block_leaves_the_old_file_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_file_beyond_the_limit_is_refused_and_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    code = """
try:
    write_atomic(Path("a"), bytes(1 << 17))
except OutputError as error:
    print(error.__cause__.errno, error.hint)
"""
    assert run_limited(code, tmp_path).startswith(f"{errno.EFBIG} the file is larger")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_folder_with_a_file_beyond_the_limit_is_refused_and_removed(tmp_path: Path) -> None:
    code = """
try:
    with atomic_directory(Path("new")) as folder:
        write_atomic(folder / "fits", bytes(10))
        (folder / "does not").write_bytes(bytes(1 << 17))
except OutputError as error:
    print(error.__cause__.errno)
"""
    assert run_limited(code, tmp_path) == f"{errno.EFBIG}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_full_disk_is_an_output_error_with_a_hint(tmp_path: Path) -> None:
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with (
        full,
        pytest.raises(OutputError, match="No space left") as caught,
        atomic_path(tmp_path / "a"),
    ):
        full.write(b"data")
    assert caught.value.hint is not None and "free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("missing/a", "does not exist"),
        ("file/a", "is a file, not a folder"),
        ("folder", "a folder of this name"),
        ("n" * 300, "shorter name"),
        ("/proc/a", "does not exist"),
    ],
)
def test_impossible_place_is_an_output_error_with_a_hint(
    tmp_path: Path, path: str, hint: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write_atomic(tmp_path / path, b"data")
    assert caught.value.hint is not None and hint in caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_forbidden_folder_is_an_output_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # The tests may run as root, whom permissions don't stop.
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError) as caught:
        write_atomic(tmp_path / "a", b"data")
    assert caught.value.hint is not None and "another output folder" in caught.value.hint


def test_error_of_reading_in_the_block_is_not_called_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_folder_appears_when_the_block_ends(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "folder"
    if exists:
        folder.mkdir()
    with atomic_directory(folder) as temporary:
        write_atomic(temporary / "a", b"data")
        assert not (folder / "a").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (folder / "a").read_bytes() == b"data"


@pytest.mark.parametrize("kind", ["full", "file", "link"])
def test_folder_that_is_taken_is_refused_before_the_block_runs(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    match kind:
        case "full":
            folder.mkdir()
            (folder / "kept").touch()
        case "file":
            folder.touch()
        case "link":
            folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError), atomic_directory(folder):
        pytest.fail("the block ran")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_interrupted_folder_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "folder") as temporary:
        write_atomic(temporary / "a", b"data")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []

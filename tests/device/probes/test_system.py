import os
import sys
import time
from pathlib import Path

import pytest

from deepseek_edge.device.probes.system import MOST_BYTES, LocalSystem

ENDLESS = "import itertools\nfor number in itertools.count(): print(number, flush=True)"


def run(code: str, *, lines: int | None = None, timeout_s: float = 20.0) -> str | None:
    return LocalSystem(timeout_s=timeout_s).run([sys.executable, "-c", code], lines=lines)


def test_files_are_those_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "name").write_bytes(b"board\0\xff")
    system = LocalSystem(tmp_path)
    assert system.read_text("/etc/name") == "board\0\ufffd"
    assert system.list_names("/etc") == ("name",)


def test_what_is_not_there_or_cannot_be_read_is_none(tmp_path: Path) -> None:
    system = LocalSystem(tmp_path)
    assert system.read_text("/nothing") is None
    assert system.read_text("/") is None
    assert system.list_names("/nothing") == ()
    assert system.run(["no-such-tool-as-this"]) is None


def test_a_huge_file_is_cut_off() -> None:
    assert len(LocalSystem().read_text("/dev/zero") or "") == MOST_BYTES


def test_a_tool_that_fails_has_said_what_it_said() -> None:
    assert run("import sys; print('NV Power Mode: MAXN'); sys.exit(3)") == "NV Power Mode: MAXN\n"


def test_a_tool_that_never_ends_is_stopped_after_its_lines() -> None:
    assert run(ENDLESS, lines=2) == "0\n1\n"


def test_a_tool_that_prints_too_much_is_stopped() -> None:
    assert len(run(ENDLESS) or "") == MOST_BYTES


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(file)!r}).write_text(str(child.pid))\ntime.sleep(60)"
    )
    began = time.monotonic()
    assert run(code, timeout_s=3.0) is None
    assert time.monotonic() - began < 20
    child = int(file.read_text())  # it was started: the time-out came afterwards
    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_tools_speak_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run("import os; print(os.environ['LC_ALL'])") == "C\n"

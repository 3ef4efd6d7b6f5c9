from pathlib import Path

import pytest

from deepseek_edge.errors import DeviceError
from deepseek_edge.runtime.board_build import board
from deepseek_edge.runtime.board_build.board import (
    Board,
    gpu_text,
    l4t_version,
    module_name,
    read_memory,
    system_text,
)
from deepseek_edge.runtime.cuda_driver import CudaDriver
from tests.runtime.cuda_stub import FakeRuntime

MEMINFO = "MemTotal: 7802136 kB\nMemFree: 1 kB\nMemAvailable: 5000000 kB\nSwapFree: 3000000 kB\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("# R35 (release), REVISION: 5.0, GCID: 35550185, BOARD: t186ref, EABI: aarch64", "35.5.0"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3"),
        ("# R32 (release), REVISION: 7.1, GCID: 29818004", "32.7.1"),
        ("", None),
        ("R36", None),
        ("# R36 (release)", None),
    ],
)
def test_l4t_versions_are_read(text: str, version: str | None) -> None:
    assert l4t_version(text) == version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    return tmp_path


def test_memory_is_what_programs_may_still_take(root: Path) -> None:
    assert read_memory(root) == (5_000_000 * 1024, 3_000_000 * 1024)


@pytest.mark.parametrize("text", ["", "MemAvailable: x kB\n", "SwapFree: 1 kB\n"])
def test_memory_that_is_not_said_is_an_error(root: Path, text: str) -> None:
    (root / "proc" / "meminfo").write_text(text)
    with pytest.raises(DeviceError, match="meminfo"):
        read_memory(root)


def test_a_kernel_without_swap_has_none(root: Path) -> None:
    (root / "proc" / "meminfo").write_text("MemAvailable: 1 kB\n")
    assert read_memory(root) == (1024, 0)


def test_a_jetson_is_told_by_its_files(root: Path, tmp_path: Path) -> None:
    assert system_text(root, "12.6") == "L4T 36.4.3"
    assert module_name(root) == "NVIDIA Jetson Orin Nano"
    elsewhere = tmp_path / "elsewhere"
    assert system_text(elsewhere, "12.6") == "CUDA driver 12.6"
    assert module_name(elsewhere) == ""


def test_gpus_of_one_name_are_told_by_their_module() -> None:
    assert gpu_text("Orin", "Jetson Orin Nano") == "Orin (Jetson Orin Nano)"
    assert gpu_text("NVIDIA H100", "") == "NVIDIA H100"


def test_a_board_says_what_engines_hold_for(
    root: Path, cuda_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "CudaDriver", lambda: CudaDriver(library=str(cuda_library)))
    found = Board(FakeRuntime(), root).identity()
    assert found == board.Identity(
        "Orin (NVIDIA Jetson Orin Nano)", "8.7", "TensorRT 10.3.0", "L4T 36.4.3"
    )


def test_the_time_is_in_utc(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "CudaDriver", lambda: None)
    assert Board(FakeRuntime(), root).now().endswith("+00:00")

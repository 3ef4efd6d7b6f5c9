import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.device.probes import nvidia_driver
from deepseek_edge.device.probes.nvidia_driver import Driver, Gpu, ask_driver, find_driver


class FakeCuda:
    """A driver with some GPUs, whose function ``failing`` returns 100."""

    def __init__(self, gpus: list[tuple[bytes, int, int]], failing: str = "") -> None:
        self.gpus, self.failing = gpus, failing
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.called.append(name)
            return 100 if name == self.failing else int(getattr(self, f"_{name}")(*arguments) or 0)

        return call

    def _cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = 12060

    def _cuInit(self, flags: int) -> None:  # noqa: N802
        assert flags == 0

    def _cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = len(self.gpus)

    def _cuDeviceGet(self, device: Any, number: int) -> None:  # noqa: N802
        device._obj.value = number

    def _cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> None:  # noqa: N802
        name.value = self.gpus[device.value][0]

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = self.gpus[device.value][attribute - 74]

    def _cuGetErrorName(self, status: int, name: Any) -> None:  # noqa: N802
        name._obj.value = b"CUDA_ERROR_NO_DEVICE" if status == 100 else None


def test_gpus_are_named_with_their_architecture() -> None:
    cuda = FakeCuda([(b"Orin", 8, 7), (b"NVIDIA H100", 9, 0)])
    assert ask_driver(cuda) == Driver(
        "12.6", (Gpu("Orin", "sm_87"), Gpu("NVIDIA H100", "sm_90")), None
    )


@pytest.mark.parametrize("name", ["cuInit", "cuDeviceGetCount", "cuDeviceGet"])
def test_a_function_that_fails_is_named_with_its_error(name: str) -> None:
    cuda = FakeCuda([(b"Orin", 8, 7)], failing=name)
    found = ask_driver(cuda)
    assert cuda.called.count(name) == 1
    assert found == Driver("12.6", (), f"{name}: CUDA_ERROR_NO_DEVICE")


def test_a_driver_without_a_gpu_is_of_no_use() -> None:
    assert ask_driver(FakeCuda([])).fault == "it finds no GPU"


def with_program(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float = 20
) -> Driver | None:
    """Find the driver on a machine that has one, whose process runs ``code``."""
    device, program = tmp_path / "nvidiactl", tmp_path / "program.py"
    device.touch()
    program.write_text(code)
    monkeypatch.setattr(nvidia_driver, "DEVICE_FILES", (str(device),))
    monkeypatch.setattr(nvidia_driver, "__file__", str(program))
    monkeypatch.setattr(nvidia_driver, "TIMEOUT_S", timeout_s)
    return find_driver()


def test_no_process_is_started_without_a_device_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(nvidia_driver, "DEVICE_FILES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(subprocess, "run", fail)
    assert find_driver() is None


def test_the_answer_of_the_process_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """print('{"cuda": "12.6", "gpus": [["Orin", "sm_87"]], "fault": null}')"""
    assert with_program(code, tmp_path, monkeypatch) == Driver(
        "12.6", (Gpu("Orin", "sm_87"),), None
    )


def test_a_driver_that_crashes_takes_only_its_process_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_program("import os; os.kill(os.getpid(), 11)", tmp_path, monkeypatch)
    assert found == Driver(None, (), "asking it ended with exit status -11")


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_program("import time; time.sleep(60)", tmp_path, monkeypatch, timeout_s=1)
    assert found == Driver(None, (), "it didn't answer within 1 s")


def test_the_program_runs_alone_and_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-I", nvidia_driver.__file__], check=True, capture_output=True, text=True
    )
    assert '"cuda"' in done.stdout

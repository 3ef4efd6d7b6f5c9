"""CUDA programs under a driver that fails where it is told to: tests/backends/tvm/cuda's fake."""

import os
import subprocess
from pathlib import Path

import pytest

from deepseek_edge.backends.tvm.link import runtime_files
from deepseek_edge.target import load_target
from deepseek_edge.toolchain import platform_flags, runtime_sources, zig
from tests.linear_program import SOURCES
from tests.runtime.test_runtime import WARNINGS, gcc

FAKE = Path(__file__).parent.parent / "backends" / "tvm" / "cuda" / "fake_libcuda.c"
CUDA_FILES = tuple(sorted((runtime_sources() / "cuda").glob("*.c")))


def build(folder: Path, *flags: str) -> Path:
    include = f"-I{runtime_sources()}"
    sources = (SOURCES / "drive_cuda.c", SOURCES / "cuda_program.c", *runtime_files(), *CUDA_FILES)
    gcc(folder, *WARNINGS, *flags, include, *sources, "-ldl", "-lpthread", "-o", "drive")
    driver = folder / "driver"
    driver.mkdir()
    gcc(driver, "-O1", "-fPIC", "-shared", FAKE, "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1")
    return folder / "drive"


def run(program: Path, *arguments: str, driver: bool = True) -> list[str]:
    path = {"LD_LIBRARY_PATH": str(program.parent / "driver")} if driver else {}
    done = subprocess.run(
        [program, *arguments],
        env=os.environ | path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the driver printed, built with sanitizers: a line a failure."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    return run(build(tmp_path_factory.mktemp("cuda"), *flags))


def test_every_failing_call_is_named_and_nothing_leaks(lines: list[str]) -> None:
    words = [line.split() for line in lines]
    failed = {name.rstrip(":") for kind, _, name, *_ in words if kind == "open"}
    assert failed >= {
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuMemAlloc_v2",
        "cuMemsetD8_v2",
        "cuMemcpyHtoD_v2",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
    }
    ran = {name.rstrip(":") for kind, _, name, *_ in words if kind != "open"}
    assert ran == {
        "cuCtxPushCurrent_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuLaunchKernel",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuEventRecord",
        "cuEventElapsedTime",
    }


def test_failures_have_the_status_of_their_cause(lines: list[str]) -> None:
    statuses = {"(error 2)": 3, "(error 100)": 6, "(error 209)": 2, "(error 999)": 7}
    statuses["(error 719)"] = 8
    for text, status in statuses.items():
        found = [line for line in lines if line.endswith(text)]
        assert len(found) > 20
        assert {int(line.split()[1]) for line in found} == {status}
    assert "run 3 cuLaunchKernel: out of memory (error 2)" in lines
    assert "timed 8 cuEventElapsedTime: injected (error 719)" in lines


def test_what_the_machine_lacks_is_said_in_versions(lines: list[str]) -> None:
    assert "open 7 the driver is for CUDA 11.4; this program needs one for CUDA 12.0" in lines
    assert "open 6 the NVIDIA driver sees no GPU" in lines
    capability = "open 2 the GPU has compute capability {}; this program is for 8.7"
    assert capability.format("9.0") in lines
    assert capability.format("8.6") in lines


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    lines = run(build(tmp_path, "-O1"), "nodriver", driver=False)
    if lines[0].startswith("open 6 no NVIDIA driver here"):
        return
    pytest.skip("this machine has a driver")


@pytest.mark.parametrize("target", ["jetson-orin", "host"])
def test_the_launcher_compiles_for_both_kinds_of_cpu(tmp_path: Path, target: str) -> None:
    flags = [*platform_flags(load_target(target)), *WARNINGS, "-O2", "-fPIC"]
    for source in CUDA_FILES:
        zig(
            ["cc", *flags, f"-I{runtime_sources()}", "-c", str(source), "-o", "out.o"], cwd=tmp_path
        )

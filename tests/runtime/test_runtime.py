import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_edge.backends.tvm.link import runtime_files
from deepseek_edge.toolchain import runtime_sources
from tests.linear_program import SOURCES, write_sources

WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-DDSE_BUILDING")


def gcc(directory: Path, *arguments: str | Path) -> None:
    subprocess.run(["gcc", *map(str, arguments)], cwd=directory, check=True, timeout=60)


def build_driver(
    directory: Path, *flags: str, change_kernels: Callable[[str], str] = lambda text: text
) -> Path:
    write_sources(directory)
    kernels = directory / "kernels.c"
    kernels.write_text(change_kernels(kernels.read_text(encoding="utf-8")))
    sources = (SOURCES / "drive.c", directory / "program.c", kernels, *runtime_files())
    include = f"-I{runtime_sources()}"
    gcc(directory, *WARNINGS, *flags, include, *sources, "-ldl", "-pthread", "-o", "drive")
    return directory / "drive"


def drive(program: Path, threads: int, *, spin_us: int, runs: int, **variables: str) -> str:
    # Address space layout randomization with more bits than TSan of gcc 12 can take is switched
    # off for it; setarch changes nothing else.
    command = ["setarch", "-R", str(program), str(threads), str(spin_us), str(runs)]
    done = subprocess.run(
        command,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("spin_us", [1, 200], ids=["sleeping", "spinning"])
@pytest.mark.parametrize("flags", ["address,undefined", "thread"])
def test_every_function_is_clean_under_sanitizers(tmp_path: Path, flags: str, spin_us: int) -> None:
    program = build_driver(
        tmp_path, f"-fsanitize={flags}", "-fno-sanitize-recover=all", "-g", "-O1"
    )
    for threads in (1, 2, 4):
        drive(program, threads, spin_us=spin_us, runs=60)


def test_the_thread_sanitizer_sees_tasks_that_race(tmp_path: Path) -> None:
    def race(kernels: str) -> str:
        return kernels.replace("h[task] = sum;", "h[task] = sum, h[0] = sum;")

    program = build_driver(tmp_path, "-fsanitize=thread", "-g", "-O1", change_kernels=race)
    done = subprocess.run(
        ["setarch", "-R", program, "2", "200", "20"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "data race" in done.stderr


def test_nothing_is_allocated_after_open(tmp_path: Path) -> None:
    program = build_driver(tmp_path, "-O2", "-rdynamic")
    counter = tmp_path / "count.so"
    gcc(tmp_path, "-O1", "-fPIC", "-shared", SOURCES / "count_malloc.c", "-o", counter)
    # The program itself checks that the counter sees a malloc.
    out = drive(program, 4, spin_us=200, runs=200, LD_PRELOAD=str(counter))
    assert out == "counted\n"


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 0, 16])
def test_every_task_runs_once_with_any_number_of_threads(tmp_path: Path, threads: int) -> None:
    program = build_driver(tmp_path, "-O2")
    drive(program, threads, spin_us=1, runs=100)
    drive(program, threads, spin_us=200, runs=100)

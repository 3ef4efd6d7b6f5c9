import os
import subprocess
from pathlib import Path

import pytest

from deepseek_edge.toolchain import runtime_sources
from tests.linear_program import SOURCES

# A phone with three kinds of cores, as most have.
PHONE = dict(enumerate([325, 325, 325, 325, 828, 828, 828, 1024]))


@pytest.fixture(scope="module")
def fastest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fastest") / "fastest"
    runtime = runtime_sources()
    cpu = "arm64" if os.uname().machine == "aarch64" else "x86"
    sources = [runtime / f"dse_{name}.c" for name in ("cpu", f"cpu_{cpu}", "error")]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    files = map(str, [SOURCES / "fastest.c", *sources, "-o", program])
    subprocess.run(["gcc", *flags, f"-I{runtime}", *files], check=True, timeout=60)
    return program


def keep(program: Path, root: Path, capacities: dict[int, object], wanted: int) -> set[int]:
    """Of a process that may run on the CPUs ``capacities`` names; None: the kernel doesn't say."""
    for cpu, capacity in capacities.items():
        folder = root / f"cpu{cpu}"
        folder.mkdir(parents=True)
        if capacity is not None:
            (folder / "cpu_capacity").write_text(f"{capacity}\n")
    done = subprocess.run(
        [program, root, str(wanted), *map(str, capacities)],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return set(map(int, done.stdout.split()))


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(1, {7}), (2, {4, 5, 6, 7}), (4, {4, 5, 6, 7}), (5, set(PHONE)), (8, set(PHONE))],
)
def test_threads_stay_on_the_fastest_kinds_that_are_enough(
    fastest: Path, tmp_path: Path, wanted: int, kept: set[int]
) -> None:
    assert keep(fastest, tmp_path, dict(PHONE), wanted) == kept


def test_only_cpus_that_the_process_may_use_are_kept(fastest: Path, tmp_path: Path) -> None:
    assert keep(fastest, tmp_path, {1: 325, 5: 828, 200: 828}, 1) == {5, 200}


@pytest.mark.parametrize("unknown", [None, "", "fast", 0, 1025, 99999999])
def test_all_stay_where_the_kernel_does_not_tell_each_capacity(
    fastest: Path, tmp_path: Path, unknown: object
) -> None:
    assert keep(fastest, tmp_path, {0: unknown, 1: 1024, 2: 512}, 1) == {0, 1, 2}


def test_equal_cores_are_left_to_the_kernel(fastest: Path, tmp_path: Path) -> None:
    assert keep(fastest, tmp_path, dict.fromkeys(range(4), 1024), 2) == {0, 1, 2, 3}

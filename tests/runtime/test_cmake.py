import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek_edge.target import load_target
from deepseek_edge.toolchain import runtime_sources
from tests.linear_program import SOURCES, build, expected, random_input


def prefix() -> str:
    command = [sys.executable, "-m", "deepseek_edge.runtime"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("consumer")
    configure = ["cmake", "-S", str(SOURCES / "consumer"), "-B", str(folder)]
    options = [f"-DCMAKE_PREFIX_PATH={prefix()}", "-DCMAKE_BUILD_TYPE=Release"]
    for command in ([*configure, *options], ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "consumer"


def test_the_package_names_its_own_folder() -> None:
    assert prefix() == str(runtime_sources())


def test_a_cmake_project_finds_the_package_and_runs_a_model(consumer: Path, tmp_path: Path) -> None:
    library = build(tmp_path, load_target("host"))
    inputs = random_input(1)
    done = subprocess.run(
        [consumer, library], input=inputs["x"].tobytes(), capture_output=True, check=False
    )
    assert done.stderr.decode().splitlines() == [
        "3 batch4 y 512",
        "tensor y has another type of element",
        "entry 9: the program has 3",
    ]
    assert done.returncode == 0
    y = np.frombuffer(done.stdout, np.float32)
    assert (y == expected(inputs)["y"][0]).all()


def test_a_missing_feature_reaches_cpp_by_name(consumer: Path, tmp_path: Path) -> None:
    library = build(tmp_path, load_target("host"), features="avxvnniint16")
    done = subprocess.run([consumer, library], input=b"", capture_output=True, check=False)
    assert done.stderr == b"this CPU lacks the feature 'avxvnniint16'\n"
    assert done.returncode == 3


def test_a_file_that_is_no_model_is_an_error(consumer: Path, tmp_path: Path) -> None:
    for name in ("missing.so", "text.so"):
        if name == "text.so":
            (tmp_path / name).write_text("no library")
        done = subprocess.run(
            [consumer, tmp_path / name], input=b"", capture_output=True, check=False
        )
        assert name.encode() in done.stderr


@pytest.mark.parametrize("standard", ["-std=c++17", "-std=c++20"])
def test_the_headers_compile_alone(tmp_path: Path, standard: str) -> None:
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{runtime_sources()}"]
    (tmp_path / "alone.cpp").write_text("#include <deepseek_edge.hpp>\n")
    (tmp_path / "alone.c").write_text("#include <deepseek_edge.h>\n")
    subprocess.run(["g++", standard, *flags, "alone.cpp"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-std=c11", *flags, "alone.c"], cwd=tmp_path, check=True)

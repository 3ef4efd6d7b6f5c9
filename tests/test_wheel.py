"""The wheel, installed where the checkout can't be seen."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from deepseek_edge.target import list_targets

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment: this wheel first, then the packages it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder)]
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--quiet", wheel],
        check=True,
        capture_output=True,
    )
    # A path in a .pth file is searched, but .pth files of that path aren't read: the packages
    # of the running environment are found, its editable install of the checkout isn't.
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def run_outside(folder: Path, *command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_wheel_has_every_tracked_file_of_the_package_and_its_data(wheel: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "deepseek_edge", "targets", "calibration"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    wanted = {
        name if name.startswith("deepseek_edge/") else f"deepseek_edge/_data/{name}"
        for name in names
    }
    with zipfile.ZipFile(wheel) as archive:
        assert wanted - set(archive.namelist()) == set()


def test_installed_command_lists_every_target(installed: Path, tmp_path: Path) -> None:
    place = run_outside(
        tmp_path, installed / "python", "-c", "import deepseek_edge; print(deepseek_edge.__file__)"
    )
    assert str(ROOT) not in place
    listing = run_outside(tmp_path, installed / "deepseek-edge", "target", "list")
    assert [name for name in list_targets() if name not in listing] == []

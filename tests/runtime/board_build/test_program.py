"""dse_build.py as a board starts it: with a stand-in for libcuda and for the module tensorrt."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.runtime.single_file import dse_build_source
from tests.runtime.cuda_stub import build_stub

MODULE = Path(__file__).with_name("fake_tensorrt.py")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_board(tmp_path_factory.mktemp("board"))


def make_board(folder: Path) -> Path:
    """A folder with dse_build.py, libcuda.so.1 and tensorrt.py."""
    (folder / "dse_build.py").write_bytes(dse_build_source())
    (folder / "tensorrt.py").write_bytes(MODULE.read_bytes())
    build_stub(folder)
    return folder


def make_folder(folder: Path, graphs: Mapping[str, bytes]) -> Path:
    """A recipe of graphs for y = 2x."""

    def stored(name: str, data: bytes) -> dict[str, Any]:
        (folder / name).write_bytes(data)
        return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}

    folder.mkdir()
    shape = {"dtype": "float32", "shape": [1, 3]}
    x = stored("x.bin", struct.pack("<3f", 1, 2, 3))
    y = {"name": "y", **shape, **stored("y.bin", struct.pack("<3f", 2, 4, 6)), "tolerance": 1e-3}
    table = {
        "schema": 1,
        "model": "twice",
        "workspace_bytes": 1 << 20,
        "repetitions": 10,
        "inputs": [{"name": "x", **shape, **x}],
        "graphs": {p: {**stored(f"{p}.onnx", data), "outputs": [y]} for p, data in graphs.items()},
        "fallback": ["cuda-int8", "cpu-int8"],
    }
    (folder / "recipe.json").write_text(json.dumps(table))
    return folder


def run(board: Path, folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, str(board / "dse_build.py"), str(folder), *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(board), "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    outcome: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (0 if outcome["engine"] else 1)
    return outcome


def read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "engines" / "engine.json").read_text())
    return record


def test_a_board_builds_once(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"wrong", "float16": b"half"})
    first = run(board, folder)
    assert (first["action"], first["program"]) == ("built", "tensorrt-float16")
    assert "int8: its outputs are wrong: output 'y' is off by 3" in first["reason"]
    assert Path(first["engine"]).read_bytes() == b"engine of half"
    key = read_record(folder)["key"]
    assert (key["gpu"][:4], key["sm"], key["tensorrt"]) == ("Orin", "8.7", "TensorRT 10.3.0")
    assert json.loads((folder / "engines" / "layers.json").read_text())["Layers"]
    second = run(board, folder)
    assert (second["action"], second["engine"]) == ("reused", first["engine"])


def test_both_precisions_are_timed(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"small", "float16": b"half"})
    assert run(board, folder)["action"] == "built"
    medians = [trial["median_ms"] for trial in read_record(folder)["trials"]]
    assert len(medians) == 2
    assert min(medians) > 0


def test_a_gpu_that_is_lost_makes_the_next_program_take_over(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"small"})
    outcome = run(board, folder, CUDA_STUB_FAIL="cuStreamSynchronize:719")
    assert (outcome["action"], outcome["program"]) == ("fallback", "cuda-int8")
    assert "CUDA_ERROR_LAUNCH_FAILED" in outcome["reason"]
    # It may be well again at the next start.
    assert run(board, folder)["action"] == "built"


def test_without_a_gpu_the_next_program_takes_over(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"small"})
    outcome = run(board, folder, CUDA_STUB_FAIL="cuInit:100")
    assert outcome["reason"] == "there is no GPU (CUDA_ERROR_NO_DEVICE)"


def test_after_an_update_the_engine_is_rebuilt_in_the_background(
    board: Path, tmp_path: Path
) -> None:
    if Path("/etc/nv_tegra_release").exists():
        pytest.skip("on a Jetson the driver's version is not in the key")
    folder = make_folder(tmp_path / "folder", {"int8": b"small"})
    first = run(board, folder, CUDA_STUB_VERSION="12060")
    serving = run(board, folder, CUDA_STUB_VERSION="12080")
    assert (serving["action"], serving["engine"]) == ("serving-old", first["engine"])
    assert serving["reason"] == "system was CUDA driver 12.6, is CUDA driver 12.8"
    until = time.monotonic() + 30
    log = folder / "engines" / "rebuild.log"
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert json.loads(log.read_text())["action"] == "built"
    assert read_record(folder)["key"]["system"] == "CUDA driver 12.8"
    assert run(board, folder, CUDA_STUB_VERSION="12080")["action"] == "reused"


def test_it_narrates_on_stderr_if_asked(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"small"})
    ended = subprocess.run(
        [sys.executable, str(board / "dse_build.py"), str(folder), "--verbose"],
        env={**os.environ, "LD_LIBRARY_PATH": str(board), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr.split("\n")[:3] == ["locked", "noted", "built int8"]
    assert json.loads(ended.stdout)["action"] == "built"


def test_engines_can_be_kept_elsewhere(board: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"int8": b"small"})
    outcome = run(board, folder, "--state", str(tmp_path / "state"))
    assert Path(outcome["engine"]).parent == tmp_path / "state"
    assert not (folder / "engines").exists()

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]


def train_tiny(options: dict[str, Any], *launcher: str) -> list[dict[str, Any]]:
    """What each process of a run says at its end, by rank."""
    command = [sys.executable, *launcher, "-m", "tests.training.train_tiny", json.dumps(options)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return sorted(told, key=lambda one: str(one["rank"]))


@pytest.mark.slow
def test_two_processes_end_as_one_does_within_float_noise(tmp_path: Path) -> None:
    options = {"model": "perceptron", "output": str(tmp_path / "one")}
    (alone,) = train_tiny(options)
    options = {
        "model": "perceptron",
        "output": str(tmp_path / "two"),
        "checkpoint": str(tmp_path / "c"),
    }
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    told = train_tiny(options, *torchrun)
    assert [one["rank"] for one in told] == ["0", "1"]
    assert told[0]["losses"] == told[1]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    one, first, second = (
        safetensors.load_file(tmp_path / name) for name in ("one.0", "two.0", "two.1")
    )
    for name, expected in one.items():
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[name], second[name])
    assert (tmp_path / "c").is_file()

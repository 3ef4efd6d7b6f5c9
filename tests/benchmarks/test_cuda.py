import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import cuda, cuda_row
from benchmarks.cuda import Job, collect, jobs, limits_ms, pack
from deepseek_edge.artifacts import Program
from deepseek_edge.backends.tvm import compile_program
from deepseek_edge.quantization import Quantizer
from tests.quantization.graphs import residual, samples


def test_jobs_are_all_models_in_both_precisions_unless_some_are_named() -> None:
    assert len(list(jobs([]))) == 16
    assert list(jobs(["resnet-50:int8", "rapidocr-det:float16", "mobilenetv2:float16:4"])) == [
        Job("resnet-50", "int8", (1, 8)),
        Job("rapidocr-det", "float16", (1,)),
        Job("mobilenetv2", "float16", (4,)),
    ]


def test_a_step_takes_the_longer_of_both_limits() -> None:
    arithmetic, memory = (989 * 10**9 // 2, 0), (0, 48 * 10**8)
    both = (arithmetic[0], memory[1])
    limits = limits_ms([arithmetic, memory, both], "NVIDIA H200", "float16")
    assert limits == pytest.approx([1.0, 1.0, 1.0])
    assert limits_ms([arithmetic], "NVIDIA H200", "int8") == pytest.approx([0.5], rel=1e-2)
    assert limits_ms([both], "some other GPU", "float16") == []


def for_the_cpu(*arguments: Any, precision: str | None, **how: Any) -> Program:
    """Stands in for the GPU: its programs have the same C interface."""
    assert precision is None
    return compile_program(*arguments, **how)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net of integer and float layers."""
    net = Quantizer(residual()).calibrate(samples(8)).quantize().keep_float({"b_node": "asked"})
    onnx.save(net.model, tmp_path / "net.onnx")
    monkeypatch.setattr(cuda, "graph_of", lambda job: tmp_path / "net.onnx")
    monkeypatch.setattr("deepseek_edge.backends.tvm.cuda.compile_cuda_program", for_the_cpu)
    pack(tmp_path, [Job("net", "int8", (1, 2))], "host")
    return tmp_path


def verdicts(folder: Path) -> list[str]:
    """Of what the script for the machine with the GPU finds."""
    rows, outputs = cuda_row.run_folder(folder / "net-int8")
    report = {"device": "a CPU", "python": "", "loaded": [], "rows": rows, "failures": []}
    (folder / "rows.json").write_text(json.dumps({**report, "torch": []}))
    np.savez(folder / "outputs.npz", **outputs)
    return [row["verdict"] for row in collect(folder, folder)["rows"]]


def move_golden(folder: Path, steps: float) -> None:
    """As if the graph's outputs were so far from the program's."""
    golden = folder / "net-int8" / "golden.npz"
    arrays = dict(np.load(golden))
    moved = {name: value + np.ptp(value) * steps / 255 for name, value in arrays.items()}
    np.savez(golden, **moved)


@pytest.mark.tvm
def test_a_row_is_judged_end_to_end_and_a_mix_by_its_layers_if_that_fails(packed: Path) -> None:
    assert verdicts(packed) == ["right end to end"] * 2
    move_golden(packed, 3)
    assert verdicts(packed) == ["right layer by layer: 6 quantized tensors"] * 2
    (packed / "net-int8" / "observed.so").unlink()
    assert all("parity failed: output 'y' is 3 steps off" in one for one in verdicts(packed))

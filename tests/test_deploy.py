from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from deepseek_edge.deploy import EdgeDeployer
from deepseek_edge.errors import (
    OutputError,
    ParityError,
    UnknownTargetError,
    UnsupportedError,
    UsageError,
)
from deepseek_edge.runtime.engine import Engine
from tests.tiny_model import IN, TinyBackend, parameters, tiny_onnx

if TYPE_CHECKING:
    import torch


def test_a_graph_becomes_a_library_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "tiny.so"
    report = EdgeDeployer(tiny_onnx("N"), target_device="host", optimize_level="O3").export(
        path, compile_program=TinyBackend()
    )
    assert report.verified == "host"
    x = np.ones((1, IN), dtype=np.float32)
    weights, bias = parameters()
    with Engine(path) as engine:
        y = engine.run({"x": x})["y"]
    np.testing.assert_allclose(y, np.maximum(x @ weights.T + bias, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.emulated
def test_the_default_is_any_arm64_linux(tmp_path: Path) -> None:
    onnx.save(tiny_onnx(), tmp_path / "tiny.onnx")
    report = EdgeDeployer(tmp_path / "tiny.onnx").export(
        tmp_path / "tiny.so", compile_program=TinyBackend()
    )
    assert report.verified == "qemu"
    assert (tmp_path / "tiny.so").read_bytes()[18] == 183  # e_machine: AArch64


def test_what_computes_something_else_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ParityError):
        EdgeDeployer(tiny_onnx(), "host").export(
            tmp_path / "tiny.so", compile_program=TinyBackend(error=0.1)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_was_not_run_comes_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    deployer = EdgeDeployer(tiny_onnx(), "raspberry-pi-5")
    with pytest.warns(UserWarning, match="NOT RUN"):
        report = deployer.export(tmp_path / "tiny.so", compile_program=TinyBackend())
    assert report.verified is None


def test_wrong_requests_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="O2"):
        EdgeDeployer(tiny_onnx(), optimize_level="O2")
    with pytest.raises(UnknownTargetError):
        EdgeDeployer(tiny_onnx(), target_device="toaster")
    backend = TinyBackend()
    with pytest.raises(OutputError):
        EdgeDeployer(tiny_onnx(), "host").export(tmp_path, compile_program=backend)
    with pytest.raises(UsageError, match="there is no model"):
        EdgeDeployer("no.onnx", "host").export(tmp_path / "a.so", compile_program=backend)
    assert backend.calls == []


def tiny_module() -> "torch.nn.Module":
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weights, bias = parameters()
            self.fc = torch.nn.Linear(IN, 4)
            self.fc.weight.data = torch.from_numpy(weights)
            self.fc.bias.data = torch.from_numpy(bias)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return torch.relu(self.fc(x))

    return Tiny()


@pytest.mark.torch
def test_a_module_is_exported_with_its_example_inputs(tmp_path: Path) -> None:
    import torch

    example_inputs = (torch.zeros(1, IN),)
    for deployer in (
        EdgeDeployer(tiny_module(), "host", example_inputs=example_inputs),
        EdgeDeployer((tiny_module(), example_inputs), "host"),
    ):
        report = deployer.export(tmp_path / "tiny.so", compile_program=TinyBackend())
        assert report.verified == "host"


@pytest.mark.torch
def test_a_module_alone_asks_for_example_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shapes of its inputs") as caught:
        EdgeDeployer(tiny_module(), "host").export(tmp_path / "tiny.so")
    assert "example_inputs" in str(caught.value.hint)

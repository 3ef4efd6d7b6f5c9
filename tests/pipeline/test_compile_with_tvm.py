"""The whole way from ONNX to a checked bundle, with the real back end, on one convolution."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.bundle import open_bundle
from deepseek_edge.deploy import EdgeDeployer
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline import CompileRequest, compile_model
from deepseek_edge.pipeline.running import check_golden_run, open_program_of
from deepseek_edge.runtime.engine import Engine

pytestmark = pytest.mark.tvm


def convolution(op_type: str = "Relu") -> onnx.ModelProto:
    """Conv 3 -> 16, 3x3, and an activation, on 16x16 pixels; the batch is open."""
    weights = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="/c/Conv", pads=[1, 1, 1, 1]),
            helper.make_node(op_type, ["c"], ["y"], name="/a/Activation"),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 16, 16])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_convolution_for_the_host_is_verified_and_runs(tmp_path: Path) -> None:
    request = CompileRequest(convolution(), output=tmp_path / "c.dse", batches=(1, 3))
    (report,) = compile_model(request).reports
    (checked,) = report.programs
    assert checked.verified == "host"
    assert checked.parity_graph is not None
    assert (checked.parity_graph.samples, checked.parity_graph.within) == (6, 1.0)
    assert checked.parity_graph.max_abs < 1e-5
    assert sum(step.macs for step in checked.program.entries[0].steps) >= 16 * 16 * 16 * 27
    with open_bundle(report.bundle) as bundle, open_program_of(bundle, "host") as program:
        check_golden_run(bundle, program)
        tools = bundle.manifest.tools
        assert tools.tvm is not None
        assert tools.llvm is not None
        assert tools.nvrtc is None


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["raspberry-pi-4", "android-arm64"])
def test_a_convolution_for_arm_is_verified_under_emulation(tmp_path: Path, target: str) -> None:
    request = CompileRequest(
        convolution(), targets=(target,), output=tmp_path / "c.dse", require_run=True
    )
    (report,) = compile_model(request).reports
    assert report.programs[0].verified == "qemu"


def test_the_same_model_gives_the_same_bundle_in_any_folder(tmp_path: Path) -> None:
    bundles = []
    for name in ("one", "two"):
        dump = tmp_path / name
        request = CompileRequest(convolution(), dump=dump, output=tmp_path / f"{name}.dse")
        bundles.append(compile_model(request).reports[0].bundle.read_bytes())
    assert bundles[0] == bundles[1]


def test_an_unsupported_operator_is_named_with_its_node(tmp_path: Path) -> None:
    model = convolution("Hardmax")
    with pytest.raises(UnsupportedError, match=r"Hardmax.*/a/Activation"):
        compile_model(CompileRequest(model, output=tmp_path / "c.dse"))
    assert list(tmp_path.iterdir()) == []


def test_a_deployed_library_computes_the_model(tmp_path: Path) -> None:
    path = tmp_path / "conv.so"
    report = EdgeDeployer(convolution(), target_device="host", optimize_level="O3").export(path)
    assert report.verified == "host"
    model = convolution()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with Engine(path) as engine:
        found = engine.run({"x": x})["y"]
    np.testing.assert_allclose(found, Reference(model).run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_a_convolution_is_tuned_and_verified(tmp_path: Path) -> None:
    database = tmp_path / "db.json"
    request = CompileRequest(
        convolution(), output=tmp_path / "c.dse", tune_minutes=0.03, tune_database=database
    )
    report = compile_model(request).reports[0]
    assert report.programs[0].verified == "host"
    assert report.notes[0].startswith("tuning: ")
    (entry,) = json.loads(database.read_text())["entries"].values()
    assert entry["measured"] >= 1
    assert entry["default_ms"] > 0

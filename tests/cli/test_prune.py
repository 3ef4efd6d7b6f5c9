import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from deepseek_edge.cli.main import main

torch = pytest.importorskip("torch")
modules = pytest.importorskip("tests.compression.modules")
pytestmark = pytest.mark.torch

CHAIN = "tests.compression.modules:chain"


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["prune", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def parameters(path: Path) -> int:
    if path.suffix == ".pt2":
        return sum(value.numel() for value in torch.export.load(path).parameters())
    graph = onnx.load(path).graph
    return sum(int(np.prod(one.dims)) for one in graph.initializer if one.data_type == 1)


@pytest.mark.parametrize("name", ["small.pt2", "small.onnx"])
def test_what_is_left_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    code, out, err = run([CHAIN, "--ratio", "0.3", "-o", str(path), "--format", "json"], capsys)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {
        "schema", "output", "size_bytes", "target", "basis", "parameters_before",
        "parameters_after", "macs_before", "macs_after", "predicted_ms_before",
        "predicted_ms_after", "measured_ms_before", "measured_ms_after", "layers", "unpruned",
    }  # fmt: skip
    assert found["size_bytes"] == path.stat().st_size
    assert parameters(path) == found["parameters_after"] <= 0.7 * found["parameters_before"]
    assert found["layers"][0]["out_before"] == 32
    assert found["unpruned"] == [{"name": "last", "reason": "the model returns them"}]
    assert found["basis"] is found["predicted_ms_after"] is found["measured_ms_after"] is None


def test_the_scope_decides_which_layers_lose_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left: dict[str, list[int]] = {}
    for scope in ("layer", "global"):
        options = ["--ratio", "0.3", "--scope", scope, "-o", str(tmp_path / f"{scope}.onnx")]
        code, out, _ = run(
            ["tests.compression.modules:uneven", *options, "--format", "json"], capsys
        )
        assert code == 0
        left[scope] = [layer["out_after"] for layer in json.loads(out)["layers"]]
    assert left == {"layer": [24, 24, 5], "global": [32, 16, 5]}


def test_the_written_program_is_compiled_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepseek_edge.compression import ChannelPruner
    from deepseek_edge.export import fix_shapes, load_model

    path = tmp_path / "small.pt2"
    assert run([CHAIN, "--ratio", "0.5", "-o", str(path)], capsys)[0] == 0
    graph = fix_shapes(load_model(str(path)), {}, batch=2)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    (ours,) = ort.InferenceSession(graph.SerializeToString()).run(None, {"x": x})
    expected = ChannelPruner(modules.chain(), 0.5).compress().module(torch.from_numpy(x))
    assert np.asarray(ours) == pytest.approx(expected.detach().numpy(), abs=1e-3)


def test_lines_say_what_went_and_what_stayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    what = ["--ratio", "0.2", "--by", "macs", "--exclude", "first", "--round-to", "4"]
    how = ["--importance", "l2", "--target", "raspberry-pi-5", "-o", str(path)]
    code, out, _ = run([CHAIN, *what, *how], capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{path}: ")
    assert "parameters: 10,789 -> " in out and "multiply-accumulates: 645,760 -> " in out
    assert any(line.startswith("  predicted, modelled: ") for line in lines)
    assert "    second: 32 -> 24" in lines
    assert "  first: stays whole, excluded" in lines


def test_a_budget_chooses_for_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "small.pt2")
    on = ["--target", "raspberry-pi-4", "-o", path, "--format", "json"]
    _, out, _ = run([CHAIN, "--ratio", "0.01", *on], capsys)
    budget = 0.5 * json.loads(out)["predicted_ms_before"]
    code, out, _ = run([CHAIN, "--latency-budget", str(budget), *on], capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["target"], found["basis"]) == ("raspberry-pi-4", "modelled")
    assert 0 < found["predicted_ms_after"] <= budget


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([CHAIN], 2, "pruning needs a ratio or a latency budget"),
        ([CHAIN, "--ratio", "1.5"], 2, "1.5 is not between 0 and 1"),
        ([CHAIN, "--ratio", "0.999"], 3, "99.9% of the parameters can't be removed"),
        ([CHAIN, "--latency-budget", "5"], 2, "a latency is one of a target"),
        ([CHAIN, "--ratio", "0.3", "--exclude", "frist"], 2, "no module frist"),
        ([CHAIN, "--ratio", "0.3", "--importance", "bn_scale"], 3, "no batch normalization"),
        ([CHAIN, "--ratio", "0.3", "--target", "raspbery-pi-4"], 2, "raspberry-pi-4"),
        (
            [CHAIN, "--latency-budget", "1e-9", "--target", "raspberry-pi-4"],
            3,
            "a latency of 1e-09 ms can't be reached",
        ),
        (["model.onnx", "--ratio", "0.3"], 2, "model.onnx can't be pruned"),
        (["tests.compression.modules:absent", "--ratio", "0.3"], 2, "absent"),
        (["tests.compression.modules:branching", "--ratio", "0.3"], 3, "modules.py:"),
    ],
)
def test_refusals_say_why_and_write_nothing(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "out.pt2"
    found, out, err = run([*arguments, "-o", str(path)], capsys)
    assert found == code
    assert out == ""
    assert message in err and "hint: " in err
    assert not path.exists()


def test_a_file_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run([CHAIN, "--ratio", "0.3", "-o", "small.pth"], capsys)
    assert code == 2
    assert "-o FILE.pt2 or -o FILE.onnx" in err

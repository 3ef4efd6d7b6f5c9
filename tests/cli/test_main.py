import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepseek_edge.cli import main as cli
from deepseek_edge.cli.compile import parse_batches, parse_shape
from deepseek_edge.cli.main import main, take_verbosity
from deepseek_edge.errors import DeviceError, RolledBackError, UsageError
from tests.tiny_model import IN, TinyBackend, parameters, tiny_onnx

HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "tvm", "matplotlib", "msgspec"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the current folder, and a back end that compiles it."""
    onnx.save(tiny_onnx("N"), tmp_path / "tiny.onnx")
    monkeypatch.setattr("deepseek_edge.pipeline.tvm_backend", TinyBackend)
    monkeypatch.chdir(tmp_path)
    return Path("tiny.onnx")


@pytest.fixture
def bundle(model: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["compile", str(model), "--target", "host", "--batch", "1,4"]) == 0
    capsys.readouterr()
    return Path("tiny-host.dse")


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom deepseek_edge.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "print(*{m.split('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    durations_s = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        durations_s.append(time.perf_counter() - started)
    assert "compile" in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()
    # Loading torch or TVM takes seconds; a busy machine, tenths.
    assert min(durations_s) < 1.0


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_edge", "target", "show", "nowhere"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown target 'nowhere'\n\nhint: ")


def test_results_go_to_stdout_and_the_plan_to_stderr(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(model), "--target", "host"]) == 0
    found = capsys.readouterr()
    assert found.out.startswith("host: tiny-host.dse (")
    assert "verified on host: 3 samples" in found.out
    assert found.err.startswith("model tiny, precision as the graph, batch 1\n")
    assert "\x1b" not in found.out + found.err


def test_json_is_one_object_on_stdout(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", str(model), "--target", "host", "--format", "json", "-o", "a.dse"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["bundle"], found["target"]) == (1, "a.dse", "host")


def test_a_page_is_written_and_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model), "--target", "host", "--html", "report.html"]) == 0
    found = capsys.readouterr().out
    assert "latency here: p50" in found
    assert found.endswith("report: report.html\n")
    assert Path("report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["compile"], 2, "Missing argument 'MODEL'.", "deepseek-edge compile --help"),
        (["frobnicate"], 2, "No such command 'frobnicate'.", "deepseek-edge --help"),
        (["compile", "tiny.onnx", "--target", "hots"], 2, "unknown target 'hots'", "host"),
        (["compile", "no.onnx", "--target", "host"], 2, "there is no model no.onnx", "x.onnx"),
        (
            ["compile", "tiny.onnx", "--target", "host", "--precision", "w4a16"],
            3,
            "precision w4a16 is not supported by this version",
            "--precision float32",
        ),
        (
            ["compile", "tiny.onnx", "--target", "host", "--shape", "x=1,a"],
            2,
            "can't read --shape x=1,a",
            "NAME=1,3,48,320",
        ),
        (
            ["compile", "tiny.onnx", "--target", "host", "-o", "tiny.onnx/x.dse"],
            1,
            "can't write tiny.onnx/x.dse",
            "choose another output",
        ),
        (["bundle", "info", "tiny.onnx"], 5, "", ""),
        (["profile", "x.dse", "--device", "qemu"], 3, "emulation says nothing about time", "run"),
        (
            ["run", "x.dse", "--input", "i", "--output", "o", "--device", "ssh://a"],
            3,
            "can't be reached by this version",
            "host or qemu",
        ),
    ],
)
@pytest.mark.usefixtures("model")
def test_an_error_is_one_line_and_a_hint(
    arguments: list[str], code: int, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(Path().iterdir())
    assert main(arguments) == code
    found = capsys.readouterr()
    assert found.out == ""
    said, _, way_out = found.err.partition("\n\nhint: ")
    assert message in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("error: ")
    assert hint in way_out
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DeviceError("gone"), 4),
        (RolledBackError("undone"), 6),
        (KeyboardInterrupt(), 130),
        (RuntimeError("line one\nline two"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_exit_codes_by_kind_of_error(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("deepseek_edge.capabilities.find_capabilities", fail)
    assert main(["doctor"]) == code
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert ("-vv" in text) == isinstance(error, RuntimeError | OSError)
    if isinstance(error, RuntimeError):
        assert "error: RuntimeError: line one line two\n" in text


def test_vv_shows_the_traceback_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("deepseek_edge.capabilities.find_capabilities", fail)
    assert main(["doctor", "-vv"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert take_verbosity(["-v", "doctor", "-vv", "x"]) == (3, ["doctor", "x"])


def test_control_characters_of_names_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["target", "show", "\x1b[31mred\n"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_interrupting_the_process_leaves_no_file(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time\nimport deepseek_edge.pipeline as pipeline\n"
        # A shell's background job is started with SIGINT ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(*_, work_dir, **__):\n"
        "    print(work_dir, flush=True)\n    time.sleep(60)\n"
        "pipeline.tvm_backend = lambda: slow\n"
        "from deepseek_edge.cli.main import main\n"
        "sys.exit(main(['compile', 'tiny.onnx', '--target', 'host']))\n"
    )
    before = set(tmp_path.iterdir())
    root = str(Path(__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, script.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    work_dir = Path(process.stdout.readline().strip())
    assert work_dir.is_dir()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "error: interrupted" in errors
    assert not work_dir.exists()
    assert set(tmp_path.iterdir()) == before


def test_run_computes_what_the_model_says(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(2).standard_normal((4, IN)).astype(np.float32)
    np.savez("in.npz", x=x)
    arguments = ["run", str(bundle), "--input", "in.npz", "--output", "out.npz"]
    assert main([*arguments, "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert "not signed" in captured.err
    said = json.loads(captured.out)
    assert (said["entry"], said["device"]) == ("batch4", "host")
    assert said["outputs"] == [{"name": "y", "dtype": "float32", "shape": [4, 4]}]
    weights, bias = parameters()
    with np.load("out.npz") as outputs:
        np.testing.assert_allclose(
            outputs["y"], np.maximum(x @ weights.T + bias, 0), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((1, IN), np.float32)}, "'z'"),
        ({"x": np.zeros((1, IN))}, "float64"),
        ({"x": np.zeros((3, IN), np.float32)}, "(3, 8)"),
        ({}, "[]"),
    ],
)
def test_wrong_inputs_are_named(
    bundle: Path,
    arrays: dict[str, np.ndarray],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez("in.npz", **arrays)  # type: ignore[arg-type]
    assert main(["run", str(bundle), "--input", "in.npz", "--output", "out.npz"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.npz").exists()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken", npy_bytes()])
def test_an_npz_that_is_none_is_refused(
    bundle: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.npz").write_bytes(content)
    assert main(["run", str(bundle), "--input", "in.npz", "--output", "out.npz"]) == 2
    assert "is not an .npz file" in capsys.readouterr().err


def test_an_image_needs_a_bundle_that_says_how_to_prepare_it(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cat.jpg").write_bytes(b"")
    assert main(["run", str(bundle), "--input", "cat.jpg", "--output", "out.npz"]) == 2
    assert "--eval" in capsys.readouterr().err


def test_a_damaged_bundle_is_not_run(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    np.savez("in.npz", x=np.zeros((1, IN), np.float32))
    assert main(["run", str(bundle), "--input", "in.npz", "--output", "out.npz"]) == 5
    assert main(["profile", str(bundle)]) == 5
    assert not Path("out.npz").exists()
    assert "error: " in capsys.readouterr().err


def test_profile_prints_percentiles_and_steps(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["profile", str(bundle), "--threads", "1", "--queries", "100", "--check"]
    assert main([*arguments, "--html", "p.html"]) == 0
    found = capsys.readouterr().out
    assert "latency: p50" in found
    assert "Gemm+Relu  /fc/Gemm" in found
    assert found.endswith("report: p.html\n")
    assert main([*arguments, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["threads"], report["latency_ms"]["n"]) == (1, 100)


def test_doctor_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "ziglang" in capsys.readouterr().out
    assert main(["doctor", "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    rows = {row["name"]: row for row in said["capabilities"]}
    assert {"ziglang", "nvidia-cuda-nvrtc-cu12", "NVIDIA driver"} <= set(rows)
    assert set(rows["NVIDIA driver"]) == {"name", "found", "required", "purpose", "remedy"}


def test_shapes_and_batches_are_read() -> None:
    assert parse_shape("a=b=1,3") == ("a=b", (1, 3))
    assert parse_shape("s=") == ("s", ())
    assert parse_batches("1,4") == (1, 4)
    for text in ("x", "=1", "x=0", "x=1,,2", "x=-1"):
        with pytest.raises(UsageError):
            parse_shape(text)
    with pytest.raises(UsageError):
        parse_batches("1,b")


def test_every_verb_is_there() -> None:
    verbs = {command.name for command in cli.app.registered_commands}
    groups = {group.name for group in cli.app.registered_groups}
    assert verbs | groups >= {"target", "compile", "bundle", "run", "profile", "doctor"}

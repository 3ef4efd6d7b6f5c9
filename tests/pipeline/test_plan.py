import os
from pathlib import Path

import pytest

from deepseek_edge.errors import (
    MissingToolError,
    OutputError,
    UnknownTargetError,
    UnsupportedError,
    UsageError,
)
from deepseek_edge.pipeline import plan
from deepseek_edge.pipeline.plan import CompileRequest, describe_plan, make_plan, output_paths
from tests.tiny_model import tiny_onnx


def request(tmp_path: Path, **changes: object) -> CompileRequest:
    fields = {"model": "m.onnx", "output": tmp_path / "m.dse"} | changes
    return CompileRequest(**fields)  # type: ignore[arg-type]


def test_the_host_is_run_on_the_host(tmp_path: Path) -> None:
    (one,) = make_plan(request(tmp_path))
    assert (one.target.id, one.place, one.output) == ("host", "host", tmp_path / "m.dse")


@pytest.mark.emulated
@pytest.mark.parametrize("id", ["raspberry-pi-4", "raspberry-pi-5", "android-arm64"])
def test_arm_targets_are_run_under_emulation(tmp_path: Path, id: str) -> None:
    (one,) = make_plan(request(tmp_path, targets=(id,)))
    assert one.place == "qemu"


def test_without_an_emulator_nothing_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = request(tmp_path, targets=("raspberry-pi-4",))
    planned = make_plan(asked)
    assert planned[0].place is None
    text = "\n".join(describe_plan(asked, planned))
    assert "NOT RUN" in text
    assert "qemu-user-static" in text


@pytest.mark.parametrize(
    "changes", [{"require_run": True}, {"max_drop_pp": 1.0, "evaluation": "e"}]
)
def test_what_needs_a_run_is_refused_without_an_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="can't be run on this machine") as caught:
        make_plan(request(tmp_path, output=tmp_path, targets=("host", "arm64"), **changes))
    assert caught.value.hint is not None
    assert "qemu-user-static" in caught.value.hint


def test_without_a_precision_the_graph_stays_as_it_is(tmp_path: Path) -> None:
    asked = request(tmp_path)
    assert "precision as the graph" in next(iter(describe_plan(asked, make_plan(asked))))


@pytest.mark.parametrize("precision", ["float16", "w4a16"])
def test_precisions_to_come_are_unsupported(tmp_path: Path, precision: str) -> None:
    with pytest.raises(UnsupportedError, match=precision) as caught:
        make_plan(request(tmp_path, precision=precision))
    assert "float32" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int9"}, "unknown precision"),
        ({"targets": ()}, "no target"),
        ({"batches": ()}, "at least one sample"),
        ({"batches": (0,)}, "at least one sample"),
        ({"batches": (4, 4)}, "twice"),
        ({"max_drop_pp": 1.0}, "need data"),
        ({"metric": "top1"}, "need data"),
        ({"targets": ("host", "arm64")}, "several targets would write"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(request(tmp_path, **changes))


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        make_plan(request(tmp_path, targets=("rasberry-pi-4",)))
    assert "raspberry-pi-4" in str(caught.value.hint)


def test_a_folder_that_is_a_file_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        make_plan(request(tmp_path, output=tmp_path / "file" / "m.dse"))


def test_a_read_only_folder_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # root may write anywhere, so the kernel's answer is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match="no permission"):
        make_plan(request(tmp_path))


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise MissingToolError("ziglang is needed", hint="pip install ziglang")

    monkeypatch.setattr(plan, "check_compiler", refuse)
    with pytest.raises(MissingToolError, match="ziglang"):
        make_plan(request(tmp_path))


def test_outputs_are_named_after_model_and_target(tmp_path: Path) -> None:
    both = ["host", "arm64"]
    assert output_paths(None, "m", both) == (Path("m-host.dse"), Path("m-arm64.dse"))
    assert output_paths(tmp_path, "m", both)[1] == tmp_path / "m-arm64.dse"
    assert output_paths(Path("new"), "m", ["host"]) == (Path("new/m-host.dse"),)
    assert output_paths(Path("a/{target}.dse"), "m", both)[0] == Path("a/host.dse")
    assert output_paths(Path("a.dse"), "m", ["host"]) == (Path("a.dse"),)


def test_a_model_is_named_after_its_file_folder_or_factory() -> None:
    assert plan.model_name("a/b.onnx") == "b"
    assert plan.model_name("a/net/") == "net"
    assert plan.model_name("examples.models:small") == "small"
    assert plan.model_name(tiny_onnx()) == "tiny"

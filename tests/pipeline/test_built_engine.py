"""From a bundle to an engine's outputs: dse_build.py, run and profile, as on a board."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.artifacts import Entry, Layers, Program
from deepseek_edge.bundle import open_bundle, write_bundle
from deepseek_edge.cli.main import main
from deepseek_edge.device.probes.nvidia_driver import Driver, Gpu
from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.manifest import (
    SourceModel,
    Thresholds,
    Tools,
    manifest_for_programs,
    program_record,
)
from deepseek_edge.pipeline import running
from deepseek_edge.pipeline.built_engine import find_engine
from deepseek_edge.pipeline.running import open_program_of
from deepseek_edge.runtime import tensorrt_engine
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.cuda_driver import CudaDriver
from deepseek_edge.runtime.single_file import DSE_BUILD_FILE
from deepseek_edge.target import load_target
from deepseek_edge.tensors import TensorSpec
from tests.bundle_samples import make_manifest
from tests.runtime.board_build import fake_tensorrt
from tests.runtime.board_build.test_program import make_board, make_folder, run

INT8 = {"int8": b"small"}
ENGINES = Path("tiny/programs/tensorrt-int8/engines")
X = np.array([[1.0, -2.0, 0.5]], np.float32)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(autouse=True)
def on_an_orin(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process finds the stand-ins for TensorRT and for the GPU; its folder is a fresh one."""
    gpu = Driver("12.6", (Gpu("Orin", "sm_87"),), None)
    monkeypatch.setattr(running, "find_driver", lambda: gpu)
    library = str(board / "libcuda.so.1")
    monkeypatch.setattr(tensorrt_engine, "CudaDriver", lambda: CudaDriver(library=library))
    monkeypatch.setattr(fake_tensorrt, "__name__", "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.chdir(tmp_path)


def make_bundle(graphs: Mapping[str, bytes]) -> Path:
    """A bundle with TensorRT's program alone, for y = 2x on this machine's CPU and Orin's GPU."""
    folder = make_folder(Path("made"), graphs)
    (folder / DSE_BUILD_FILE).write_bytes(b"")
    others = sorted(path for path in folder.iterdir() if path.name != "recipe.json")
    specs = {name: (TensorSpec(name, "float32", (1, 3)),) for name in "xy"}
    program = Program(
        id="tensorrt-int8",
        backend="tensorrt",
        precision="int8",
        library=folder / "recipe.json",
        entries=(Entry("batch1", specs["x"], specs["y"], ()),),
        features=(),
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        code_bytes=0,
        weights_bytes=0,
        arena_bytes=0,
        layers=Layers(1, 1, 0, 0, 1.0),
        gpu="sm_87",
        more_files=tuple(others),
    )
    record = program_record(program, verified=None, parity_graph=None, parity_float=None)
    manifest = manifest_for_programs(
        [record],
        [],
        model=SourceModel("tiny", "0" * 64, "1" * 64),
        target=load_target("host"),
        tools=Tools("0.1.0", None, None, None, None),
        thresholds=Thresholds(max_drop_pp=None),
    )
    members: dict[str, bytes | Path] = {"LICENSES": b"", **program.members}
    write_bundle(Path("tiny.dse"), manifest, members)
    return Path("tiny.dse")


def build_engine(board: Path, graphs: Mapping[str, bytes]) -> Path:
    """A bundle whose engine was built, in ``ENGINES``."""
    bundle = make_bundle(graphs)
    assert main(["bundle", "extract", str(bundle)]) == 0
    run(board, ENGINES.parent)
    return bundle


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """What a command says: its object, and what it tells a person."""
    capsys.readouterr()
    assert main([*arguments, "--engines", str(ENGINES), "--format", "json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_an_engine_that_was_built_here_is_run(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_engine(board, INT8)
    np.savez("in.npz", x=X)
    said, remarks = told(capsys, "run", str(bundle), "--input", "in.npz", "--output", "out.npz")
    assert (said["program"], said["entry"]) == ("tensorrt-int8", "batch1")
    assert f"tensorrt-int8 from {ENGINES}" in remarks
    with np.load("out.npz") as outputs:
        assert outputs["y"].tolist() == (2 * X).tolist()


def test_a_profile_is_of_the_precision_that_won(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_engine(board, {"int8": b"wrong", "float16": b"half"})
    arguments = ["profile", str(bundle), "--queries", "100", "--check", "--html", "page.html"]
    said, remarks = told(capsys, *arguments)
    assert (said["program"], said["layers"], said["roof"]) == ("tensorrt-float16", [], None)
    assert said["latency_ms"]["n"] == 100
    assert "the only one that can serve (int8: its outputs are wrong" in remarks
    assert "layers aren't timed one by one" in Path("page.html").read_text()
    assert main([*arguments[:4], "--engines", str(ENGINES)]) == 0
    assert "layers aren't timed one by one" in capsys.readouterr().out


def test_an_engine_that_computes_something_else_fails_the_check(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_engine(board, INT8)
    store = EngineStore(ENGINES)
    record = store.read_record()
    assert record is not None
    store.commit({**record, "engine": store.write_engine(b"engine of wrong")})
    arguments = ["profile", str(bundle), "--engines", str(ENGINES), "--check"]
    assert main(arguments) == 1
    assert "golden output 'y' differs in 3 of 3 elements" in capsys.readouterr().err


def test_without_its_engine_the_program_is_refused_with_what_builds_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_bundle(INT8)
    assert main(["profile", str(bundle), "--program", "tensorrt-int8"]) == 3
    said = capsys.readouterr().err
    assert "--engines DIR doesn't say where its engine is" in said
    assert "deepseek-edge bundle extract tiny.dse" in said
    home = ENGINES.parent
    assert f"python3 {home}/dse_build.py {home}' builds it in {ENGINES}" in said


def test_engines_are_refused_where_no_program_has_one() -> None:
    manifest, members = make_manifest()
    write_bundle(Path("cpu.dse"), manifest, members)
    with (
        open_bundle(Path("cpu.dse")) as bundle,
        pytest.raises(UsageError, match=r"no program of cpu\.dse has an engine"),
        open_program_of(bundle, "qemu", engines=ENGINES),
    ):
        pass


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "has no engine"),
        ({"key": {"graphs": "of another model"}}, "is of other graphs"),
        ({"key": 1}, "is of other graphs"),
        ({"precision": "float32"}, "record in state is damaged"),
    ],
)
def test_an_engine_is_of_the_bundles_graphs_or_not_used(
    board: Path, record: Mapping[str, Any] | None, reason: str
) -> None:
    bundle = build_engine(board, INT8)
    built = EngineStore(ENGINES).read_record()
    assert built is not None
    state = EngineStore(Path("state"))
    if record is not None:
        state.commit({**built, **record})
    with open_bundle(bundle) as opened:
        (program,) = opened.manifest.programs
        assert find_engine(opened, program, ENGINES).graph.precision == "int8"
        with pytest.raises(UnsupportedError, match=reason):
            find_engine(opened, program, state.folder)
        with pytest.raises(UnsupportedError, match="has no engine"):
            find_engine(opened, program, Path("missing"))
    assert not Path("missing").exists()

import math
import struct
import sys
from pathlib import Path

import pytest

from deepseek_edge.engine_build import EngineOptions
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError, UnsupportedError
from deepseek_edge.runtime.board_build.trtexec import (
    TrtexecBoard,
    TrtexecRunner,
    build_arguments,
    find_trtexec,
    parse_outputs,
    parse_times,
    parse_version,
)

# Takes its arguments as trtexec does, and doubles the input; an "[E]" line and exit 1 on a graph
# that says "bad".
PROGRAM = """#!{python}
import json, struct, sys
given = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # trtexec")
if "onnx" in given:
    graph = open(given["onnx"]).read()
    if "bad" in graph:
        print("[11/27/2026-00:00:00] [E] [TRT] ModelImporter.cpp: No importer for Foo")
        sys.exit(1)
    open(given["saveEngine"], "w").write("engine of " + graph)
    open(given["timingCacheFile"], "a").write("+")
if "exportOutput" in given:
    name, _, path = given["loadInputs"].partition(":")
    data = open(path, "rb").read()
    values = [2 * v for v in struct.unpack(f"<{{len(data) // 4}}f", data)]
    row = {{"name": "y", "dimensions": "1x2", "values": values}}
    json.dump([row], open(given["exportOutput"], "w"))
if "exportLayerInfo" in given:
    open(given["exportLayerInfo"], "w").write('{{"Layers": []}}')
if "exportTimes" in given:
    rows = [{{"latencyMs": 9, "computeMs": 0.5}}] * (int(given["iterations"]) + 3)
    json.dump(rows, open(given["exportTimes"], "w"))
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "trtexec"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help", (8, 5, 2)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # trtexec", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec", (10, 13, 3)),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_a_program_without_a_version_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="doesn't say its version"):
        parse_version("usage: something else")


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [
        ((8, 5, 2), "int8", ["--fp16", "--int8"]),
        ((8, 5, 2), "float16", ["--fp16"]),
        ((8, 5, 2), "float32", ["--noTF32"]),
        ((10, 3, 0), "int8", ["--stronglyTyped"]),
        ((10, 3, 0), "float32", ["--noTF32", "--stronglyTyped"]),
        ((11, 0, 0), "int8", []),
    ],
)
def test_each_version_is_told_in_its_own_way(
    version: tuple[int, int, int], precision: str, flags: list[str]
) -> None:
    arguments = build_arguments(version, EngineOptions(precision, 64 << 20), Path("d"))
    assert arguments[:3] == [
        "--onnx=d/graph.onnx",
        "--saveEngine=d/model.engine",
        "--memPoolSize=workspace:64",
    ]
    assert arguments[6:] == flags


def test_outputs_are_read_as_float32() -> None:
    text = '[ { "name": "y", "dimensions": "1x3", "values": [ 1.5, nan, -inf ] } ]'
    values = struct.unpack("<3f", parse_outputs(text)["y"])
    assert values[0] == 1.5
    assert math.isnan(values[1])
    assert math.isnan(values[2])


@pytest.mark.parametrize(
    "text", ["", "{}x", "[1]", '[{"name": "y"}]', '[{"name": "y", "values": ["a"]}]']
)
def test_garbage_outputs_are_refused(text: str) -> None:
    with pytest.raises(DeepSeekEdgeError, match="outputs can't be read"):
        parse_outputs(text)


@pytest.mark.parametrize("text", ["", "[]", "[1]", '[{"latencyMs": 1}]', '[{"computeMs": "x"}]'])
def test_garbage_times_are_refused(text: str) -> None:
    with pytest.raises(DeepSeekEdgeError, match=r"times can't be read|measured nothing"):
        parse_times(text)


def board_of(program: str) -> TrtexecBoard:
    """A board without asking for its GPU."""
    board = TrtexecBoard.__new__(TrtexecBoard)
    board._program, board._version = program, (10, 3, 0)
    return board


def test_an_engine_is_built_and_run(program: str) -> None:
    board = board_of(program)
    built = board.build(b"graph", EngineOptions("int8", 1 << 20, timing_cache=b"before"))
    assert built.engine == b"engine of graph"
    assert built.timing_cache == b"before+"
    runner = board.open(built.engine)
    assert isinstance(runner, TrtexecRunner)
    assert runner.run({"x": struct.pack("<2f", 1, -3)}) == {"y": struct.pack("<2f", 2, -6)}
    assert runner.layer_information() == '{"Layers": []}'
    # The last ones: trtexec may run more often than it was told.
    assert runner.time(4) == [500_000] * 4
    runner.close()
    runner.close()


def test_a_failure_has_its_first_error(program: str) -> None:
    with pytest.raises(DeepSeekEdgeError, match="No importer for Foo"):
        board_of(program).build(b"bad", EngineOptions("int8", 1 << 20, timing_cache=b""))


def test_a_program_that_does_not_start_is_said() -> None:
    with pytest.raises(DeepSeekEdgeError, match="did not run"):
        board_of("/no/such/trtexec").build(b"graph", EngineOptions("int8", 1 << 20))


def test_without_any_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError) as refusal:
        find_trtexec()
    assert "libnvinfer" in str(refusal.value.hint)


def test_it_is_found_on_the_path(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(program).parent))
    assert find_trtexec() == program

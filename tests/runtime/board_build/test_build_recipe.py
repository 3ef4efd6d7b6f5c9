import json
from pathlib import Path
from typing import Any

import pytest

from deepseek_edge.errors import BundleError
from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.tensors import TensorSpec

SHA = "0" * 64
TENSOR = {"name": "x", "dtype": "float32", "shape": [1, 2], "file": "x.bin", "sha256": SHA}
OUTPUT = {**TENSOR, "name": "y", "tolerance": 0.5}
GRAPH = {"file": "graph.onnx", "sha256": SHA, "outputs": [OUTPUT]}
WHOLE: dict[str, Any] = {
    "schema": 1,
    "model": "m",
    "workspace_bytes": 1,
    "repetitions": 2,
    "inputs": [TENSOR],
    "graphs": {"float16": {**GRAPH, "file": "half.onnx"}, "int8": GRAPH},
    "fallback": ["cpu-int8"],
}


def write(folder: Path, value: Any) -> Path:
    (folder / "recipe.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def test_a_recipe_is_read_with_int8_first(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    assert [graph.precision for graph in recipe.graphs] == ["int8", "float16"]
    assert recipe.inputs[0].spec == TensorSpec("x", "float32", (1, 2))
    assert recipe.inputs[0].tolerance == 0
    assert recipe.graphs[0].outputs[0].tolerance == 0.5
    assert recipe.graphs[1].file.path == tmp_path / "half.onnx"
    assert recipe.fallback == ("cpu-int8",)


def test_every_change_of_the_file_changes_its_digest(tmp_path: Path) -> None:
    first = read_recipe(write(tmp_path, WHOLE)).sha256
    assert read_recipe(write(tmp_path, {**WHOLE, "repetitions": 3})).sha256 != first


def change(path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(WHOLE))
    *parents, last = path.split(".")
    place: Any = changed
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 1}',
        change("schema", 2),
        change("more", 1),
        change("workspace_bytes", 0),
        change("workspace_bytes", "1"),
        change("repetitions", -1),
        change("graphs", {}),
        change("graphs.w4a16", GRAPH),
        change("graphs.int8.outputs", []),
        change("graphs.int8.more", 1),
        change("graphs.int8.sha256", "0"),
        change("graphs.int8.outputs.0.tolerance", -1),
        change("inputs.0.tolerance", 1),
        change("inputs.0.dtype", "float8"),
        change("inputs.0.shape", [-1]),
        change("inputs.0.shape", 3),
        change("inputs.0.name", None),
        change("model", 3),
        change("inputs", None),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BundleError, match=r"recipe\.json is damaged"):
        read_recipe(write(tmp_path, value))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ".hidden", "a//b", "", "a\n"])
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="file name"):
        read_recipe(write(tmp_path, change("graphs.int8.file", name)))


def test_a_missing_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        read_recipe(tmp_path)


def test_a_file_is_read_only_if_its_digest_is_right(tmp_path: Path) -> None:
    file = read_recipe(write(tmp_path, WHOLE)).graphs[0].file
    with pytest.raises(BundleError, match="can't be read"):
        file.read()
    (tmp_path / "graph.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        file.read()

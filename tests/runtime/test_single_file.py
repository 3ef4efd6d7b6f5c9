import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_edge.runtime.single_file import BOARD_PYTHON, dse_build_source, join_modules


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("board") / "dse_build.py"
    path.write_bytes(dse_build_source())
    return path


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -I: no PYTHONPATH and no current directory, so that only what the board has is found.
    command = [sys.executable, "-I", "-W", "error", "-S", str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parent)


def test_it_is_python_of_the_oldest_board(program: Path) -> None:
    ast.parse(program.read_bytes(), feature_version=BOARD_PYTHON)


def test_newer_grammar_would_be_noticed() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n  case 1: pass", feature_version=BOARD_PYTHON)


def test_it_imports_the_standard_library_only(program: Path) -> None:
    tree = ast.parse(program.read_bytes())
    modules = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    modules |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names == set()
    assert "deepseek_edge" not in modules


def test_annotations_of_newer_pythons_are_not_evaluated(program: Path) -> None:
    tree = ast.parse(program.read_bytes())
    (first, *_) = [n for n in tree.body if not isinstance(n, ast.Expr)]
    assert ast.unparse(first) == "from __future__ import annotations"
    # Outside of annotations these need a newer Python: "X | None" and dict[str, int].
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    generic = [ast.unparse(n) for n in calls if isinstance(n.func, ast.Subscript)]
    assert generic == []
    alternatives = [ast.unparse(n) for n in calls if ast.unparse(n.func) == "isinstance"]
    assert [text for text in alternatives if " | " in text] == []


def test_the_same_sources_give_the_same_bytes() -> None:
    assert dse_build_source() == dse_build_source()


def test_it_explains_itself(program: Path) -> None:
    result = run(program, "--help")
    assert result.returncode == 0
    assert "--rebuild" in result.stdout
    assert program.read_text().startswith('"""Command line of dse_build.py.')


def test_a_folder_without_a_recipe_is_refused(program: Path) -> None:
    result = run(program, str(program.parent / "nowhere"))
    assert result.returncode == 5
    assert result.stderr.startswith("error: ")
    assert "\n\nhint: " in result.stderr
    assert not (program.parent / "nowhere").exists()


def test_here_is_no_board_so_the_next_program_takes_over(program: Path, tmp_path: Path) -> None:
    tensor = {"name": "y", "dtype": "float32", "shape": [1], "file": "y.bin", "sha256": "0" * 64}
    graph = {"file": "g.onnx", "sha256": "0" * 64, "outputs": [{**tensor, "tolerance": 1}]}
    table = {
        "schema": 1,
        "model": "m",
        "workspace_bytes": 1,
        "repetitions": 1,
        "inputs": [],
        "graphs": {"int8": graph},
        "fallback": ["cpu-int8"],
    }
    (tmp_path / "recipe.json").write_text(json.dumps(table))
    result = run(program, str(tmp_path), "--state", str(tmp_path / "state"))
    assert result.returncode == 1, result.stderr
    outcome = json.loads(result.stdout)
    assert (outcome["action"], outcome["program"], outcome["engine"]) == (
        "fallback",
        "cpu-int8",
        None,
    )
    assert outcome["reason"]


def test_two_parts_must_not_define_one_name() -> None:
    with pytest.raises(ValueError, match=r"a\.py and b\.py both define f"):
        join_modules([("a.py", "def f(): ..."), ("b.py", "f = 1")], '"""x"""', "f()")


@pytest.mark.parametrize(
    "text", ["import deepseek_edge.errors", "from deepseek_edge.errors import UsageError as E"]
)
def test_imports_that_cannot_be_joined_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a\.py"):
        join_modules([("a.py", text)], '"""x"""', "f()")


def test_joined_modules_run() -> None:
    parts = [
        ("a.py", '"""A."""\n\nimport math\n\n\ndef f():\n    return math.pi\n'),
        ("b.py", '"""B."""\n\nfrom deepseek_edge.a import (\n    f,\n)\n\nx = f()\n'),
    ]
    text = join_modules(parts, '"""Both."""', "print(x)")
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("3.14")

"""Rules that hold for the whole tree, each checked on every tracked file."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
UNPICKLERS = {"pickle", "dill", "joblib", "marshal", "shelve"}
HEAVY_PACKAGES = {"torch", "transformers", "onnx", "onnxruntime", "tvm", "numpy", "matplotlib"}


def tracked(*suffixes: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (ROOT / name for name in listing.split("\0") if name)
    return sorted(p for p in paths if p.is_file() and (not suffixes or p.suffix in suffixes))


def python_trees() -> Iterator[tuple[str, ast.Module]]:
    for path in tracked(".py"):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"), str(path))


def c_functions(source: str) -> Iterator[tuple[int, int]]:
    """Yields (first line, lines) of each function, by the house's brace style."""
    start = None
    for number, line in enumerate(source.splitlines(), 1):
        if re.match(r"[A-Za-z_][^;=]*\(", line):
            start = number
        if line.startswith("}") and start is not None:
            yield start, number - start + 1
            start = None


def is_true_keyword(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in node.keywords
    )


def test_no_code_file_is_long() -> None:
    lines = {p: len(p.read_text("utf-8").splitlines()) for p in tracked(".py", ".c", ".h", ".hpp")}
    assert len(lines) > 10
    assert {p.name: n for p, n in lines.items() if n > MAX_FILE_LINES} == {}


def test_no_python_function_is_long() -> None:
    long = {
        f"{path}:{node.name}": node.end_lineno - node.lineno + 1
        for path, tree in python_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_c_functions_are_measured_by_their_braces() -> None:
    assert list(c_functions("int a;\nint f(int x) {\n  g();\n}\nstruct s {\n};\n")) == [(2, 3)]


def test_no_c_function_is_long() -> None:
    long = [
        f"{path.name}:{start}"
        for path in tracked(".c", ".hpp")
        for start, lines in c_functions(path.read_text("utf-8"))
        if lines > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_name_says_nothing() -> None:
    words = {p: set(re.split(r"[/._-]", str(p.relative_to(ROOT)).lower())) for p in tracked()}
    assert {str(p) for p, parts in words.items() if parts & VAGUE_NAMES} == set()


def test_no_file_names_a_machine_or_a_registry() -> None:
    # Written in pieces, so that this file doesn't name them either.
    forbidden = re.compile(
        "|".join(["/" + "work/", "/" + "tmp/w", "/" + "root/", "/" + "home/[a-z]"])
        + r"|https?://[a-z0-9.-]*(?:pypi|npmjs|debian)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if (match := forbidden.search(path.read_text("utf-8", errors="replace")))
    ]
    assert found == []


def is_unsafe(node: ast.AST) -> bool:
    """A call that runs code from a file or from a shell string."""
    if isinstance(node, ast.ImportFrom):
        return node.module in UNPICKLERS
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return (
        (called.split(".")[0] in UNPICKLERS)
        or called == "os.system"
        or is_true_keyword(node, "shell")
        or is_true_keyword(node, "allow_pickle")
        or (called == "torch.load" and not is_true_keyword(node, "weights_only"))
    )


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("pickle.load(f)", True),
        ("subprocess.run(x, shell=True)", True),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=True)", False),
        ("subprocess.run([x])", False),
    ],
)
def test_unsafe_calls_are_told_from_safe_ones(code: str, verdict: bool) -> None:
    assert is_unsafe(ast.parse(code, mode="eval").body) is verdict


def test_nothing_unpickles_or_calls_a_shell() -> None:
    found = [
        f"{path}:{getattr(node, 'lineno', 0)}"
        for path, tree in python_trees()
        for node in ast.walk(tree)
        if is_unsafe(node)
    ]
    assert found == []


def test_imports_go_down_only() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [tool, "--no-cache", "--no-logo"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_every_target_loads() -> None:
    from deepseek_edge.target import list_targets, load_target

    files = {path.stem for path in tracked(".toml") if path.parent == ROOT / "targets"}
    assert set(list_targets()) == files - {"cores"}  # the table that targets look cores up in
    for target in list_targets():
        assert load_target(target).id == target


def test_readme_lists_targets_that_exist() -> None:
    from deepseek_edge.target import list_targets

    ids = re.findall(
        r"^\| `([a-z0-9-]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(ids) > 5
    assert set(ids) <= set(list_targets())


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, deepseek_edge.cli.main; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "deepseek_edge" in loaded
    assert HEAVY_PACKAGES & set(loaded) == set()


def shown_commands(document: str) -> list[str]:
    return re.findall(r"^deepseek-edge .*$", (ROOT / document).read_text("utf-8"), re.MULTILINE)


SHOWN = [line for document in ("README.md", "docs/jetson.md") for line in shown_commands(document)]


def test_documents_show_commands() -> None:
    assert len(shown_commands("README.md")) > 5
    assert len(shown_commands("docs/jetson.md")) > 5


@pytest.mark.parametrize("line", SHOWN)
def test_shown_command_is_one_of_the_command_line(line: str) -> None:
    from typer.main import get_command

    from deepseek_edge.cli.main import app

    command: Any = get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {option: p for p in command.params for option in p.opts if option.startswith("-")}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            given += 1
        elif not options[word].is_flag:
            words.pop(0)
    assert len([p for p in arguments if p.required]) <= given <= len(arguments)


@pytest.mark.torch
@pytest.mark.parametrize("name", [p.stem for p in tracked(".py") if p.parent == ROOT / "examples"])
def test_example_imports(name: str) -> None:
    importlib.import_module(f"examples.{name}")

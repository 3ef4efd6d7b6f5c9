"""The names and signatures that users build on change on purpose only.

After a wanted change: python -m tests.test_public_api > tests/public_api.txt, and a line in
CHANGELOG.md.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FROZEN = Path(__file__).with_name("public_api.txt")
PUBLIC_MODULES = (
    "errors",
    "tensors",
    "artifacts",
    "target",
    "bundle",
    "datasets",
    "evaluation",
    "task_metrics",
    "training",
    "export",
    "runtime.engine",
    "parity",
    "quantization",
    "quantization.qat",
    "pipeline",
    "deploy",
)


def module_source(module: str) -> str:
    path = ROOT / "deepseek_edge" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text("utf-8")


def names(prefix: str, body: list[ast.stmt]) -> Iterator[str]:
    """One line for each name: those of __all__ where there is one, else all without "_"."""
    listed: list[str] | None = None
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            wanted = {a.name for a in node.names if a.asname == a.name or a.name in (listed or ())}
            yield from handed_on(prefix, node.module, wanted)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if is_public(node.target.id, listed):
                yield f"{prefix}.{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and is_public(node.name, listed):
            yield from declaration(f"{prefix}.{node.name}", node)


def is_public(name: str, listed: list[str] | None) -> bool:
    return name in listed if listed is not None else name == "__init__" or name[0] != "_"


def handed_on(prefix: str, module: str, wanted: set[str]) -> Iterator[str]:
    """Declarations of names that a module imports for others."""
    if wanted and module.startswith("deepseek_edge."):
        for node in ast.parse(module_source(module.removeprefix("deepseek_edge."))).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in wanted:
                yield from declaration(f"{prefix}.{node.name}", node)


def declaration(name: str, node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        yield f"{name}({ast.unparse(node.args)}){result}"
    else:
        yield f"class {name}({', '.join(map(ast.unparse, node.bases))})"
        yield from names(name, node.body)


def public_api() -> list[str]:
    return [
        line
        for module in PUBLIC_MODULES
        for line in names(f"deepseek_edge.{module}", ast.parse(module_source(module)).body)
    ]


def test_public_api_is_the_frozen_one() -> None:
    assert public_api() == FROZEN.read_text("utf-8").splitlines()


def test_a_new_parameter_changes_the_list() -> None:
    before, after = ast.parse("def f(a): ..."), ast.parse("def f(a, b=1): ...")
    assert list(names("m", before.body)) == ["m.f(a)"]
    assert list(names("m", after.body)) == ["m.f(a, b=1)"]


if __name__ == "__main__":
    print(*public_api(), sep="\n")

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
    "export",
    "runtime.engine",
    "parity",
    "pipeline",
    "deploy",
)


def module_source(module: str) -> str:
    path = ROOT / "deepseek_edge" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text("utf-8")


def names(prefix: str, body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ImportFrom):
            # Only a name imported as itself ("import x as x") is handed on, as typing has it.
            yield from (f"{prefix}.{a.name}" for a in node.names if a.asname == a.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                yield f"{prefix}.{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not (
            node.name.startswith("_") and node.name != "__init__"
        ):
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

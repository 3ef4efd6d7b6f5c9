"""Joins the deferred build to one file, dse_build.py, which a board runs without this package."""

import ast
from pathlib import Path

# In an order in which each needs only what stands before it.
_PARTS = (
    "errors.py",
    "tensors.py",
    "engine_build.py",
    "runtime/cuda_driver.py",
    "runtime/engine_runner.py",
    "runtime/board_build/decisions.py",
    "runtime/board_build/build_recipe.py",
    "runtime/board_build/store.py",
    "runtime/board_build/trial.py",
    "runtime/board_build/board.py",
    "runtime/board_build/trtexec.py",
    "runtime/board_build/flow.py",
    "runtime/board_build/main.py",
)
_PACKAGE = "deepseek_edge"
BOARD_PYTHON = (3, 8)
DSE_BUILD_FILE = "dse_build.py"


def dse_build_source() -> bytes:
    """The text of dse_build.py: for Python 3.8 or newer, with the standard library only.

    Raises:
        ValueError: two parts define the same name, or import in a way that can't be joined.
    """
    package = Path(__file__).parent.parent
    texts = [(part, (package / part).read_text("utf-8")) for part in _PARTS]
    description = ast.get_docstring(ast.parse(texts[-1][1]), clean=False)
    return join_modules(texts, f'"""{description}"""', "sys.exit(main())").encode()


def join_modules(texts: list[tuple[str, str]], docstring: str, last: str) -> str:
    """Join modules of this package to one program.

    Args:
        texts: name and source of each, in an order in which each needs only those before.
        docstring: of the program, with quotes.
        last: statement that runs it.

    Raises:
        ValueError: as :func:`dse_build_source`.
    """
    imports: set[str] = set()
    bodies, owners = [], dict[str, str]()
    for name, text in texts:
        lines, tree = text.splitlines(), ast.parse(text)
        for node in tree.body:
            for defined in _names(node):
                if owners.setdefault(defined, name) != name:
                    raise ValueError(f"{owners[defined]} and {name} both define {defined}")
        for node in reversed(tree.body):
            is_docstring = node is tree.body[0] and isinstance(node, ast.Expr)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.update(_outside(node, name))
            elif not is_docstring:
                continue
            del lines[node.lineno - 1 : node.end_lineno]
        bodies.append(f"# {'-' * 20} {name}\n" + "\n".join(lines).strip("\n"))
    head = [docstring, "from __future__ import annotations", "\n".join(sorted(imports))]
    tail = [f'if __name__ == "__main__":\n    {last}']
    return "\n\n\n".join(["\n\n".join(head), *bodies, *tail]) + "\n"


def _outside(node: ast.Import | ast.ImportFrom, part: str) -> list[str]:
    """The import as one line each, if it is of the standard library."""
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if module.split(".")[0] == _PACKAGE:
            if any(alias.asname for alias in node.names):
                raise ValueError(f"{part} gives another name to what it imports from {module}")
            return []
        if module == "__future__":
            return []
    elif any(alias.name.split(".")[0] == _PACKAGE for alias in node.names):
        raise ValueError(f"{part} imports a module of the package as a whole")
    return [ast.unparse(node)]


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []

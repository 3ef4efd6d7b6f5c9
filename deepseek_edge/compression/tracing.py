"""A module's operations, with the lines of the user's code that they come from."""

from __future__ import annotations

import copy
import linecache
import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepseek_edge.errors import UnsupportedError

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(traceback.__file__).parent))
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """Trace a module in evaluation mode with the sizes of the example inputs.

    Args:
        model: stays as it is.
        example_inputs: its positional arguments, on its device.

    Raises:
        UnsupportedError: torch.export doesn't accept it; says which line.
    """
    module = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            return torch.export.export(module, example_inputs, strict=False)
    except Exception as error:  # torch raises many types here
        raise UnsupportedError(
            f"torch can't trace {type(model).__name__}{_place(error)}: {_first_line(error)}",
            hint="change that line so that torch.export.export(module, example_inputs) accepts it",
        ) from error


def place_of(node: torch.fx.Node) -> str:
    """The innermost line of the user's code that a node comes from, as "file.py:12"."""
    frames = [
        (match["file"], int(match["line"]))
        for match in _FRAME.finditer(node.meta.get("stack_trace") or "")
    ]
    return next(
        (f"{Path(file).name}:{line}" for file, line in reversed(frames) if _is_users(file)),
        "a line unknown",
    )


def _place(error: BaseException) -> str:
    """At which line of the user's code an error came up; "" if it isn't known."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for one in reversed(causes):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if _is_users(frame.filename) and frame.filename != __file__:
                code = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f" at {frame.filename}:{frame.lineno} ({code})"
    return ""


def _is_users(file: str) -> bool:
    """Whether a file belongs neither to torch nor to Python; other packages count as the user's."""
    torch_folder, python_folder = _LIBRARIES
    is_pythons = file.startswith(python_folder) and "-packages" not in file
    return not (is_pythons or file.startswith((torch_folder, "<")))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

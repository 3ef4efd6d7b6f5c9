"""Reading .pt2 files (torch.export.save) without ever unpickling code."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.errors import ModelError, UnsupportedError
from deepseek_edge.export.torch_module import (
    first_line,
    program_to_onnx,
    quiet_export,
    require_torch,
)
from deepseek_edge.files import write_atomic

if TYPE_CHECKING:
    import onnx
    import torch

_EXPORT_AGAIN = "write it again with torch.export.save of torch 2.9 or later"


def load_pt2(path: Path) -> onnx.ModelProto:
    """Read a program saved by ``torch.export.save`` and translate it to ONNX.

    Args:
        path: of the file.

    Returns:
        The graph; a batch that was exported as dynamic stays symbolic.

    Raises:
        ModelError: damaged, or not written by torch.export.save.
        UnsupportedError: it holds pickled objects, or an operator has no ONNX form; also
            MissingToolError without the extra ``torch``.
    """
    _check_holds_no_code(path)
    require_torch()
    import torch

    try:
        with quiet_export():
            program = torch.export.load(path)
    except Exception as error:
        raise ModelError(f"can't read {path}: {first_line(error)}", hint=_EXPORT_AGAIN) from error
    return program_to_onnx(program)


def save_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a traced program, whole or not at all, as :func:`load_pt2` reads it.

    Raises:
        OutputError: it can't be written.
    """
    import torch

    # What it was traced with would travel along, pickled.
    program = copy.copy(program)
    program._example_inputs = None
    buffer = io.BytesIO()
    with quiet_export():
        torch.export.save(program, buffer)
    write_atomic(path, buffer.getvalue())


def _check_holds_no_code(path: Path) -> None:
    """Refuse archives for which torch.export.load would call the full pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise ModelError(f"{path} is not an exported program of torch", hint=_EXPORT_AGAIN)
            if archive.testzip() is not None:
                raise ModelError(f"{path} is damaged", hint=_EXPORT_AGAIN)
            pickled = [name for name in names if _is_pickled(archive, name)]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ModelError(f"{path} is damaged: {error}", hint=_EXPORT_AGAIN) from error
    if pickled:
        raise UnsupportedError(
            f"{path} holds pickled objects, which could run code: {pickled[0]}",
            hint="export a module whose weights and constants are plain tensors",
        )


def _is_pickled(archive: zipfile.ZipFile, name: str) -> bool:
    inner = name.partition("/")[2]
    if inner.startswith("data/sample_inputs/"):
        return not _is_plain(archive.read(name))
    if inner.startswith(("data/weights/", "data/constants/")):
        if inner.endswith(".json"):
            config = json.loads(archive.read(name))["config"]
            return any(payload["use_pickle"] for payload in config.values())
        return "obj" in Path(inner).name or inner.endswith(".pt")
    return inner.startswith("data/aotinductor/")


def _is_plain(data: bytes) -> bool:
    import pickle

    require_torch()
    import torch

    if not data:
        return True
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return False
    return True

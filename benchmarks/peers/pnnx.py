"""ONNX files through pnnx: to ncnn's format, and to a torch module for exporters that need one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PeerError

if TYPE_CHECKING:
    import onnx
    import torch

TIMEOUT_S = 600
_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32"}


def convert(graph: Path, folder: Path) -> None:
    """Write ``model.ncnn.param``, ``model.ncnn.bin``, ``model_pnnx.py`` and its weights.

    Args:
        graph: ONNX file, float.
        folder: for the files; pnnx always writes beside its input.

    Raises:
        PeerError: pnnx is missing, ends badly or takes too long.
    """
    import onnx

    from deepseek_edge.parity import graph_inputs

    program = shutil.which("pnnx", path=str(Path(sys.executable).parent)) or shutil.which("pnnx")
    if program is None:
        raise PeerError("pnnx is not installed")
    model = onnx.load(graph)
    _drop_default_axes(model)
    specs = graph_inputs(model)
    shapes = [f"[{','.join(map(str, s.shape))}]{_TYPES[s.dtype]}" for s in specs]
    onnx.save(model, folder / "model.onnx")
    # Without fp16=0 it stores weights with 11 bits of precision.
    command = [program, "model.onnx", f"inputshape={','.join(shapes)}", "fp16=0"]
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"pnnx did not end within {TIMEOUT_S} s") from None
    if ended.returncode != 0 or not (folder / "model_pnnx.py").is_file():
        lines = (ended.stdout + ended.stderr).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        raise PeerError(f"pnnx ended with status {ended.returncode}: {last}")


def _drop_default_axes(model: onnx.ModelProto) -> None:
    """Leave ``axis=0`` of Gather unwritten: pnnx takes it for an embedding only then."""
    for node in model.graph.node:
        if node.op_type == "Gather":
            written = [a for a in node.attribute if a.name != "axis" or a.i != 0]
            del node.attribute[:]
            node.attribute.extend(written)


def torch_module(graph: Path, folder: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The model as the Python module that pnnx writes, with example inputs.

    Raises:
        PeerError: as ``convert``.
    """
    import onnx
    import torch

    from deepseek_edge.parity import graph_inputs, sample_inputs

    convert(graph, folder)
    module = _load(folder)
    model = onnx.load(graph)
    specs = graph_inputs(model)
    sample = sample_inputs(model, specs, 0)
    return module, tuple(torch.from_numpy(sample[spec.name]) for spec in specs)


def _load(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("model_pnnx", folder / "model_pnnx.py")
    if spec is None or spec.loader is None:
        raise PeerError("pnnx wrote no Python module")
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    # The module opens its weights relative to the current folder; this process only converts.
    os.chdir(folder)
    return written.Model().float().eval()

"""What a TensorRT engine is built from on the board: graphs, a recipe, and the builder itself.

An engine holds for one GPU, one TensorRT and one JetPack, so the bundle brings no engine. The
board builds one, checks it with the golden tensors beside the recipe, and keeps the faster of
INT8 and float16.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deepseek_edge.artifacts import Entry, Layers, Program
from deepseek_edge.digest import digest_bytes
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import Array, Tensors, golden_tolerance
from deepseek_edge.runtime.board_build.build_recipe import RECIPE_FILE, RECIPE_SCHEMA
from deepseek_edge.runtime.single_file import DSE_BUILD_FILE, dse_build_source
from deepseek_edge.target import Gpu
from deepseek_edge.tensors import TensorSpec

REPETITIONS = 200
# How far an engine may be from the reference, in what another run of one of our own float
# programs may be (1e-3 of the range). TensorRT rounds where it likes between Q/DQ nodes, and
# sums float16 products in float16 on some layers. No board has confirmed these.
LOOSENESS: Mapping[str, float] = {"int8": 50.0, "float16": 20.0, "float32": 2.0}


@dataclass(frozen=True)
class EngineGraph:
    """One graph to build an engine from.

    Attributes:
        precision: "int8", "float16" or "float32".
        graph: as TensorRT is given it.
        outputs: that an engine has to give for the golden inputs.
    """

    precision: str
    graph: onnx.ModelProto
    outputs: Tensors


def write_engine_recipe(
    folder: Path,
    graphs: Sequence[EngineGraph],
    inputs: Tensors,
    entry: Entry,
    *,
    model: str,
    workspace_bytes: int,
    fallback: Sequence[str],
) -> tuple[Path, ...]:
    """Write everything that the board needs.

    Args:
        folder: an existing one.
        graphs: best first.
        inputs: golden ones, for all graphs.
        entry: inputs and outputs.
        model: a name for messages.
        workspace_bytes: device memory that a layer may use while it runs.
        fallback: ids of the programs that take over, best first.

    Returns:
        The files: the recipe, the builder, then those that the recipe names.

    Raises:
        OutputError: it can't be written.
    """
    writer = _Writer(folder, entry)
    table = {
        "schema": RECIPE_SCHEMA,
        "model": model,
        "workspace_bytes": workspace_bytes,
        "repetitions": REPETITIONS,
        "inputs": [writer.tensor(spec, inputs[spec.name], "input") for spec in entry.inputs],
        "graphs": {one.precision: writer.graph(one) for one in graphs},
        "fallback": list(fallback),
    }
    recipe, builder = folder / RECIPE_FILE, folder / DSE_BUILD_FILE
    write_atomic(recipe, json.dumps(table, indent=1, sort_keys=True).encode())
    write_atomic(builder, dse_build_source())
    return (recipe, builder, *writer.files)


def engine_program(
    files: Sequence[Path], precision: str, entry: Entry, layers: Layers, gpu: Gpu
) -> Program:
    """Describe what was written as a program.

    Args:
        files: as :func:`write_engine_recipe` returns them.
        precision: of the best graph.
        entry: inputs and outputs.
        layers: how that graph asks for them to be computed.
        gpu: of the target.
    """
    sizes = {file: file.stat().st_size for file in files}
    recipe, builder, *others = files
    return Program(
        id=f"tensorrt-{precision}",
        backend="tensorrt",
        precision=precision,
        library=recipe,
        entries=(Entry(entry.name, entry.inputs, entry.outputs, ()),),
        features=(),
        size_bytes=sum(sizes.values()),
        code_bytes=sizes[builder],
        weights_bytes=sum(sizes[file] for file in others if file.suffix == ".onnx"),
        arena_bytes=0,
        layers=layers,
        gpu=gpu.arch,
        more_files=(builder, *others),
    )


class _Writer:
    """Files of a folder, and how a recipe names them."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self._folder, self._entry = folder, entry
        self.files: list[Path] = []

    def graph(self, one: EngineGraph) -> dict[str, Any]:
        data = one.graph.SerializeToString(deterministic=True)
        outputs = [
            self.tensor(spec, one.outputs[spec.name], f"{one.precision}-output")
            | {"tolerance": LOOSENESS[one.precision] * golden_tolerance(one.outputs[spec.name])}
            for spec in self._entry.outputs
        ]
        return self._file(f"graph-{one.precision}.onnx", data) | {"outputs": outputs}

    def tensor(self, spec: TensorSpec, value: Array, kind: str) -> dict[str, Any]:
        specs = self._entry.inputs if kind == "input" else self._entry.outputs
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        named = self._file(f"{kind}-{specs.index(spec)}.bin", data)
        return named | {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}

    def _file(self, name: str, data: bytes) -> dict[str, Any]:
        path = self._folder / name
        write_atomic(path, data)
        self.files.append(path)
        return {"file": name, "sha256": digest_bytes(data)}

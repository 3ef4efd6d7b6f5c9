"""What a bundle carries so that the board can build its engine: graphs, golden tensors, a recipe.

``deepseek_edge.runtime.board_build`` reads it, there as dse_build.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.backends.tensorrt import DEFAULT_WORKSPACE_BYTES, prepare_graph
from deepseek_edge.digest import digest_bytes
from deepseek_edge.errors import InputError, UnsupportedError
from deepseek_edge.golden import encode

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

RECIPE_SCHEMA = 1
GRAPH_FILES = {
    "int8": "graph.onnx",
    "float16": "graph-fp16.onnx",
    "float32": "graph-fp32.onnx",
}
REPETITIONS = 50


@dataclass(frozen=True)
class Candidate:
    """A graph that the board may build, and what its engine must give for the golden inputs.

    Attributes:
        model: the Q/DQ graph for int8, the float graph for other precisions.
        outputs: a reference's, by name.
        tolerances: largest absolute difference of each output, by name.
    """

    model: onnx.ModelProto
    outputs: Mapping[str, Array]
    tolerances: Mapping[str, float]


@dataclass(frozen=True)
class Deferred:
    """What a bundle carries of a deferred build.

    Attributes:
        files: contents by name in the program's folder; the same for the same arguments.
        precisions: of the graphs among them, in the order of the candidates.
        refused: why TensorRT's parser can't take the other candidates, by precision.
    """

    files: Mapping[str, bytes]
    precisions: tuple[str, ...]
    refused: Mapping[str, UnsupportedError]


def defer_build(
    name: str,
    candidates: Mapping[str, Candidate],
    inputs: Mapping[str, Array],
    *,
    fallback: Sequence[str],
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES,
    rest: str = "float32",
) -> Deferred:
    """What a board builds its engine from; a candidate that TensorRT can't take is left out.

    Args:
        name: of the model, for messages.
        candidates: by precision, of ``GRAPH_FILES``. The board measures all that it can build and
            keeps the fastest that is right.
        inputs: golden inputs, by name.
        fallback: ids of the programs that take over without an engine, best first.
        workspace_bytes: device memory that a layer may use while it runs.
        rest: of the int8 graph, as ``prepare_graph`` takes it: "float16" for boards whose TensorRT
            is strongly typed.

    Raises:
        UnsupportedError: TensorRT's parser can't take any graph (``prepare_graph``).
        InputError: outputs or a tolerance of a candidate are missing.
    """
    files: dict[str, bytes] = {}
    graphs: dict[str, dict[str, Any]] = {}
    refused: dict[str, UnsupportedError] = {}
    for precision, candidate in candidates.items():
        try:
            graphs[precision] = _graph(files, precision, candidate, rest)
        except UnsupportedError as error:
            refused[precision] = error
    if not graphs:
        reasons = "; ".join(f"{precision}: {error}" for precision, error in refused.items())
        raise UnsupportedError(f"TensorRT takes no graph of {name}: {reasons}")
    table = {
        "schema": RECIPE_SCHEMA,
        "model": name,
        "workspace_bytes": workspace_bytes,
        "repetitions": REPETITIONS,
        "inputs": _tensors(files, "input", inputs),
        "graphs": graphs,
        "fallback": list(fallback),
    }
    files["recipe.json"] = (json.dumps(table, indent=1, sort_keys=True) + "\n").encode()
    return Deferred(files, tuple(graphs), refused)


def _graph(
    files: dict[str, bytes], precision: str, candidate: Candidate, rest: str
) -> dict[str, Any]:
    """Add the files of one precision; what the recipe says of them."""
    outputs, tolerances = candidate.outputs, candidate.tolerances
    if not outputs or set(outputs) != set(tolerances):
        raise InputError(f"golden outputs and tolerances of {precision} are not the same")
    file = GRAPH_FILES[precision]
    graph = prepare_graph(candidate.model, precision, rest=rest)
    files[file] = graph.SerializeToString(deterministic=True)
    golden = _tensors(files, f"{precision}-output", outputs)
    for tensor in golden:
        tensor["tolerance"] = float(tolerances[tensor["name"]])
    return {"file": file, "sha256": digest_bytes(files[file]), "outputs": golden}


def _tensors(
    files: dict[str, bytes], prefix: str, values: Mapping[str, Array]
) -> list[dict[str, Any]]:
    return [
        _tensor(files, f"{prefix}.{place}.bin", name, value)
        for place, (name, value) in enumerate(values.items())
    ]


def _tensor(files: dict[str, bytes], path: str, name: str, value: Array) -> dict[str, Any]:
    files[path] = encode(value)
    return {
        "name": name,
        "dtype": str(value.dtype),
        "shape": list(value.shape),
        "file": path,
        "sha256": digest_bytes(files[path]),
    }

"""A folder as a bundle brings it to a board: two graphs, their golden tensors and a recipe."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_edge.backends.tensorrt import prepare_graph
from deepseek_edge.quantization import QuantConfig, Quantizer
from tests.quantization.graphs import residual, samples
from tests.runtime.board_build.stand_in import execute

Array = np.ndarray[Any, Any]


def make_folder(folder: Path, **changes: Any) -> Path:
    """Write the folder; ``changes`` are keys of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    config = QuantConfig(quant_scheme="symmetric", rounding="nearest")
    quantized = Quantizer(residual(), config).calibrate(samples(16)).quantize().model
    graphs = {
        "int8": ("graph.onnx", prepare_graph(quantized, "int8")),
        "float16": ("graph-fp16.onnx", prepare_graph(residual(), "float16")),
    }
    (x,) = samples(1, seed=9)
    table: dict[str, Any] = {
        "schema": 1,
        "model": "residual",
        "workspace_bytes": 64 << 20,
        "repetitions": 20,
        "inputs": [tensor(folder, "input.bin", "x", x["x"])],
        "graphs": {},
        "fallback": ["cuda-int8", "cpu-int8"],
    }
    for precision, (name, model) in graphs.items():
        data = model.SerializeToString(deterministic=True)
        (folder / name).write_bytes(data)
        output = execute(data, {"x": x["x"].tobytes()})["y"]
        values = np.frombuffer(output, np.float32).reshape(1, 5)
        golden = tensor(folder, f"{precision}.bin", "y", values)
        table["graphs"][precision] = {
            "file": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "outputs": [{**golden, "tolerance": 0.01}],
        }
    table.update(changes)
    (folder / "recipe.json").write_text(json.dumps(table))
    return folder


def tensor(folder: Path, file: str, name: str, values: Array) -> dict[str, Any]:
    data = values.astype(np.float32).tobytes()
    (folder / file).write_bytes(data)
    return {
        "name": name,
        "dtype": "float32",
        "shape": list(values.shape),
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
    }

"""A board that isn't there: its GPU is onnxruntime, its builder TensorRT for RTX or a fake.

The real builder makes real engines, which only such a GPU could run. So the stand-in keeps, in a
folder, which graph each engine was made of, and runs that.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from deepseek_edge.engine_build import BuiltEngine, EngineOptions, build_engine
from deepseek_edge.errors import DeepSeekEdgeError, ModelError
from deepseek_edge.runtime.board_build.board import Identity

NANO = Identity("Orin (Jetson Orin Nano)", "8.7", "TensorRT 10.3.0", "L4T 36.4.3")
GB = 1 << 30


def execute(graph: bytes, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Run a float32-in, float32-out graph on raw bytes."""
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    arrays = {
        one.name: np.frombuffer(inputs[one.name], np.float32).reshape(one.shape)
        for one in session.get_inputs()
    }
    outputs = session.run(None, arrays)
    return {
        one.name: value.tobytes() for one, value in zip(session.get_outputs(), outputs, strict=True)
    }


@dataclass
class StandIn:
    """What a test wants of a board.

    Attributes:
        folder: where its GPU remembers engines.
        trt: builder; None: a fake.
        durations_ns: of a run, by precision.
        wrong: precisions whose engines give other outputs.
        broken: what building a precision raises.
        builds: precisions that were built.
        opened: how many engines were given to TensorRT.
        given_caches: timing caches that TensorRT was given.
    """

    folder: Path
    trt: Any = None
    is_: Identity = NANO
    free_bytes: int = 8 * GB
    swap_bytes: int = 0
    durations_ns: dict[str, int] = field(
        default_factory=lambda: {"int8": 400_000, "float16": 600_000}
    )
    wrong: tuple[str, ...] = ()
    broken: dict[str, DeepSeekEdgeError] = field(default_factory=dict)
    builds: list[str] = field(default_factory=list)
    opened: int = 0
    given_caches: list[bytes | None] = field(default_factory=list)

    def identity(self) -> Identity:
        return self.is_

    def memory(self) -> tuple[int, int]:
        return self.free_bytes, self.swap_bytes

    def now(self) -> str:
        return "2026-11-27T00:00:00+00:00"

    def build(self, graph: bytes, options: EngineOptions) -> BuiltEngine:
        self.builds.append(options.precision)
        self.given_caches.append(options.timing_cache)
        if options.precision in self.broken:
            raise self.broken[options.precision]
        if self.trt is None:
            onnx.load_from_string(graph)
            header = {"graph": hashlib.sha256(graph).hexdigest(), "on": repr(self.is_)}
            built = BuiltEngine(b"ENGINE" + json.dumps(header).encode(), b"times", ())
        else:
            # RTX can't build for Orin (8.7); 8.6 is the nearest.
            chosen = EngineOptions(options.precision, options.workspace_bytes, "8.6")
            built = build_engine(self.trt, graph, chosen)
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(built.engine).hexdigest()
        (self.folder / f"{name}.{options.precision}").write_bytes(graph)
        return built

    def open(self, engine: bytes) -> "StandInRunner":
        self.opened += 1
        known = list(self.folder.glob(hashlib.sha256(engine).hexdigest() + ".*"))
        if not known:
            raise ModelError("TensorRT doesn't take this engine")
        return StandInRunner(self, known[0])


@dataclass
class StandInRunner:
    board: StandIn
    graph: Path
    is_open: bool = True

    @property
    def precision(self) -> str:
        return self.graph.suffix[1:]

    def run(self, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        assert self.is_open
        outputs = execute(self.graph.read_bytes(), inputs)
        if self.precision in self.board.wrong:
            return {name: bytes(len(data)) for name, data in outputs.items()}
        return outputs

    def time(self, repetitions: int) -> list[int]:
        assert self.is_open
        return [self.board.durations_ns[self.precision]] * repetitions

    def layer_information(self) -> str:
        return json.dumps({"Layers": [{"Name": self.precision}]})

    def close(self) -> None:
        self.is_open = False

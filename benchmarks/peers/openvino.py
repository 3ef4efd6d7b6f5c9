"""OpenVINO, told to answer one request as soon as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import Source
from benchmarks.peers.clock import milliseconds

if TYPE_CHECKING:
    from benchmarks.peers import Array


class Runner:
    """One inference request on one stream."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """It loads the graph itself, Q/DQ as integer kernels."""
        return source.graph

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            # Cores with bfloat16 would otherwise compute float32 models in 8 bits of precision.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = len(compiled.outputs)

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Put the inputs into the request's own tensors and run."""
        for name in self._inputs:
            self._request.get_tensor(name).data[...] = inputs[name]
        self._request.infer()
        return [self._request.get_output_tensor(i).data.copy() for i in range(self._outputs)]

    def time(self, calls: int) -> list[float]:
        """Run on the request's tensors."""
        return milliseconds(self._request.infer, calls)

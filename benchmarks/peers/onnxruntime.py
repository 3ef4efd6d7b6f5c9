"""onnxruntime with all its optimizations, which read Q/DQ graphs as integer kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import Source
from benchmarks.peers.clock import milliseconds

if TYPE_CHECKING:
    from benchmarks.peers import Array


class Runner:
    """A session whose inputs and outputs are bound once."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """It loads the graph itself."""
        return source.graph

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Bind and run."""
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)
        self._session.run_with_iobinding(self._binding)
        outputs: list[Array] = self._binding.copy_outputs_to_cpu()
        return outputs

    def time(self, calls: int) -> list[float]:
        """Run on what is bound."""
        return milliseconds(lambda: self._session.run_with_iobinding(self._binding), calls)

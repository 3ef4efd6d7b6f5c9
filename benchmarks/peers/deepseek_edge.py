"""Our own programs, compiled for this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.interleaved import engine_turn
from benchmarks.peers import Source

if TYPE_CHECKING:
    from benchmarks.peers import Array


class Runner:
    """A compiled program in this process."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """Compile for ``host``."""
        import onnx

        from deepseek_edge.backends.tvm import compile_program
        from deepseek_edge.target import load_target

        program = compile_program(
            onnx.load(source.graph),
            load_target("host"),
            batches=(1,),
            work_dir=folder,
            progress=lambda *_: None,
        )
        return program.library

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        from deepseek_edge.runtime.engine import Engine

        self._engine = Engine(file, threads=threads)

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Copy the inputs into the arena, run, copy the outputs."""
        return list(self._engine.run(inputs).values())

    def time(self, calls: int) -> list[float]:
        """Run on what lies in the arena."""
        return engine_turn(self._engine, calls)

"""One cell: a model compiled for a target by the real pipeline, run, compared, and timed here.

``python -m benchmarks.cell`` makes one row in a process of its own, so that a crash inside a
compiler or a compiled program is a row with a reason too.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.files import write_atomic

if TYPE_CHECKING:
    from deepseek_edge.pipeline import CompileResult

Row = dict[str, Any]

_REASON_CHARACTERS = 400


@dataclass(frozen=True, order=True)
class Cell:
    """What a row is about; no two rows of a file share it."""

    model: str
    target: str
    precision: str

    def __str__(self) -> str:
        """MODEL:TARGET:PRECISION, as ``--only`` takes it."""
        return f"{self.model}:{self.target}:{self.precision}"


def cell_of(row: Row) -> Cell:
    """The cell that a row is about."""
    return Cell(row["model"], row["target"], row["precision"])


def failed_row(cell: Cell, reason: str) -> Row:
    """The row of a cell that failed or was refused: every key, and no figure."""
    return {
        **asdict(cell),
        "ok": False,
        "verified": None,
        "parity_graph": None,
        "parity_float": None,
        "time_s": None,
        "size_bytes": None,
        "reason": " ".join(reason.split())[:_REASON_CHARACTERS],
        "codegen_s": None,
        "parity_s": None,
        "code_bytes": None,
        "weights_bytes": None,
        "arena_bytes": None,
        "steps": None,
        "macs": None,
        "latency": None,
    }


def make_row(cell: Cell, graph: Path, threads: Sequence[int] = ()) -> Row:
    """Compile a cell, run it, compare it with its graph, and time it.

    Args:
        cell: what to compile, for what.
        graph: the model's ONNX file.
        threads: numbers of threads to compare with onnxruntime at; only for the target host.

    Returns:
        A row; if the pipeline refused or failed, one that says why.
    """
    with tempfile.TemporaryDirectory(prefix="cell-") as name:
        folder = Path(name)
        try:
            return _checked_row(cell, graph, folder, threads)
        except DeepSeekEdgeError as error:
            traceback.print_exc()
            reason = str(error) + (f" ({error.hint})" if error.hint else "")
        except Exception as error:  # a defect of the compiler is a result as well
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
    # Rows are published: they name no folder of this machine.
    return failed_row(cell, reason.replace(f"{graph.parent}/", "").replace(f"{name}/", ""))


def _checked_row(cell: Cell, graph: Path, folder: Path, threads: Sequence[int]) -> Row:
    from deepseek_edge.pipeline import CompileRequest, compile_model

    request = CompileRequest(
        model=str(graph),
        targets=(cell.target,),
        # An int8 cell is given the Q/DQ graph: it is int8 as it stands.
        precision=None if cell.precision == "int8" else cell.precision,
        require_run=True,
        dump=folder,
        output=folder / "cell.dse",
    )
    result = compile_model(request)
    row = {**failed_row(cell, ""), **_figures(result), "ok": True, "reason": None}
    if threads:
        from benchmarks.interleaved import compare

        library = result.reports[0].programs[0].program.library
        row["latency"] = [asdict(compare(library, graph, count)) for count in threads]
    return row


def _figures(result: CompileResult) -> Row:
    from deepseek_edge.report import compile_json

    report = compile_json(result.reports)
    program = report["programs"][0]
    steps = result.reports[0].programs[0].program.entries[0].steps
    copied = (
        "verified",
        "parity_graph",
        "parity_float",
        "code_bytes",
        "weights_bytes",
        "arena_bytes",
    )
    return {
        **{key: program[key] for key in copied},
        "time_s": round(report["time_s"]["total"], 2),
        "codegen_s": round(report["time_s"]["codegen"], 2),
        "parity_s": round(report["time_s"]["parity"], 2),
        "size_bytes": report["size_bytes"],
        "steps": len(steps),
        "macs": sum(step.macs for step in steps),
    }


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cell", description=__doc__)
    parser.add_argument("cell", metavar="MODEL:TARGET:PRECISION")
    parser.add_argument("--graph", type=Path, required=True, help="the model's ONNX file")
    parser.add_argument("--row", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, nargs="*", default=[], help="to time it with")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = _parse(sys.argv[1:])
    # Asked to end, it unwinds, and so ends its emulator too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    model, target, precision = options.cell.split(":")
    made = make_row(Cell(model, target, precision), options.graph, options.threads)
    write_atomic(options.row, json.dumps(made).encode())

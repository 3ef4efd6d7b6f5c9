"""Compiles and checks every cell: each named model for each target, one row a cell.

``python -m benchmarks.cells --json FILE`` keeps the rows that FILE has, adds each new one as it
is finished, and never stops at a cell that fails: its row says why. ``--table FILE`` prints the
page about the rows of a file, ``--ci`` checks six telling cells and fails if one does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import light_graphs
from benchmarks.cell import Cell, Row, cell_of, failed_row
from benchmarks.cells_table import page
from benchmarks.models import MODELS
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic

TARGETS = ("host", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin", "android-arm64")
# They show that a graph can be imported; emulating all of them would take an hour.
HOST_ONLY = tuple(f"light-{name}" for name in light_graphs.NAMES)
MODEL_NAMES = (*MODELS, *HOST_ONLY)
PRECISIONS = ("float32", "float16", "int8", "w4a16")
CI = (
    "efficientnet-lite0:host",
    "rapidocr-rec:host",
    "minilm-128:host",
    "efficientnet-lite0:raspberry-pi-4",
    "mobilenetv3-large:raspberry-pi-5",
    "rapidocr-cls:android-arm64",
)
TIMED_THREADS = (1, 2)
TIMEOUT_S = 1800.0
LOGS = Path("build/cells")
_GRACE_S = 10.0


def default_targets(model: str) -> tuple[str, ...]:
    """The targets that a model is compiled for if none is named."""
    return ("host",) if model in HOST_ONLY else TARGETS


def select_cells(selectors: Sequence[str], precisions: Sequence[str]) -> list[Cell]:
    """The cells that ``MODEL[:TARGET[:PRECISION]]`` name; an empty part stands for all.

    Raises:
        UsageError: a selector names no model, target or precision.
    """
    chosen: dict[Cell, None] = {}
    for selector in selectors:
        parts = selector.split(":")
        model, target, precision = [*parts, "", ""][:3]
        for known, name in ((MODEL_NAMES, model), (TARGETS, target), (PRECISIONS, precision)):
            if len(parts) > 3 or (name and name not in known):
                raise UsageError(
                    f"{selector} is no cell",
                    hint=f"MODEL[:TARGET[:PRECISION]], each empty or one of {', '.join(known)}",
                )
        for one in [model] if model else MODEL_NAMES:
            default = default_targets(one)
            targets = [target] if target and (model or target in default) else default
            if target and target not in targets:
                continue
            for p in [precision] if precision else precisions:
                chosen.update({Cell(one, t, p): None for t in targets})
    return list(chosen)


def read_rows(path: Path) -> dict[Cell, Row]:
    """The rows of a file by cell; none if there is no file.

    Raises:
        UsageError: it is no file of rows.
    """
    if not path.exists():
        return {}
    try:
        return {cell_of(row): row for row in json.loads(path.read_bytes())}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no file of cells: {error}") from error


def add_row(path: Path, row: Row) -> None:
    """Put a row into a file, in the place of the cell's former one and in a stable order."""
    rows = read_rows(path) | {cell_of(row): row}
    order = {cell: number for number, cell in enumerate(select_cells([""], PRECISIONS))}
    ordered = sorted(rows, key=lambda cell: (order.get(cell, len(order)), cell))
    lines = ",\n".join(json.dumps(rows[cell]) for cell in ordered)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"[\n{lines}\n]\n".encode())


def run_cell(
    cell: Cell, graph: Path | str, *, threads: Sequence[int] = (), timeout_s: float = TIMEOUT_S
) -> Row:
    """Make one row in a process of its own; whatever happens to that process is a row.

    Args:
        cell: which one.
        graph: the model's ONNX file, or the reason why there is none.
        threads: to time it with.
        timeout_s: after which the process is ended.
    """
    if isinstance(graph, str):
        return failed_row(cell, graph)
    with tempfile.TemporaryDirectory(prefix="row-") as name:
        file = Path(name) / "row.json"
        arguments = ["-m", "benchmarks.cell", str(cell), "--graph", str(graph), "--row", str(file)]
        arguments += ["--threads", *map(str, threads)]
        status, log = _python(arguments, timeout_s)
        if file.exists():
            row: Row = json.loads(file.read_bytes())
        else:
            row = failed_row(cell, _end(status, log, timeout_s))
    if not row["ok"]:
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / f"{str(cell).replace(':', '-')}.log").write_text(log)
    return row


def make_graph(model: str, precision: str = "float32") -> Path | str:
    """The ONNX file of a named model, or the reason why there is none.

    For int8 it is the Q/DQ graph, calibrated on the model's benchmark data.
    """
    maker = "benchmarks.quantized" if precision == "int8" else "benchmarks.models"
    status, log = _python(["-m", maker, model], TIMEOUT_S)
    lines = [line for line in log.splitlines() if line.startswith(f"{model} ")]
    if status == 0 and lines:
        return Path(lines[-1].removeprefix(f"{model} "))
    return f"the model can't be made: {_end(status, log, TIMEOUT_S)}"


def _python(arguments: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """Exit status (None: it took too long) and output of a Python process."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        log, _ = process.communicate(timeout=timeout_s)
        return process.returncode, log
    except subprocess.TimeoutExpired:
        # It ends its own emulator if it is asked, but not if it is killed.
        process.terminate()
        try:
            log, _ = process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            log, _ = process.communicate()
        return None, log


def _end(status: int | None, log: str, timeout_s: float) -> str:
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no message")
    if status is None:
        return f"it did not end within {timeout_s:g} s"
    if status < 0:
        return f"the process was killed by signal {-status}; last line: {last}"
    return last


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int,
    timed: bool,
    timeout_s: float,
    finished: Callable[[Row], None],
) -> list[Row]:
    """Make the rows of all cells.

    Cells that are timed run alone, before the others.

    Args:
        cells: in the order in which they are started.
        jobs: how many run at once.
        timed: compare those for the host with onnxruntime.
        timeout_s: of one cell.
        finished: told each row; never twice at once.
    """
    lock = threading.Lock()
    alone = [cell for cell in cells if timed and cell.target == "host"]
    together = [cell for cell in cells if cell not in alone]
    needed = list(dict.fromkeys((cell.model, cell.precision) for cell in cells))

    def make(cell: Cell) -> Row:
        threads = TIMED_THREADS if cell in alone else ()
        graph = graphs[cell.model, cell.precision]
        row = run_cell(cell, graph, threads=threads, timeout_s=timeout_s)
        with lock:
            finished(row)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        made = pool.map(lambda one: make_graph(*one), needed)
        graphs = dict(zip(needed, made, strict=True))
        rows = [make(cell) for cell in alone]
        return rows + list(pool.map(make, together))


def describe(row: Row) -> str:
    """A line about a row for a person."""
    if not row["ok"]:
        return f"FAILED {cell_of(row)}: {row['reason']}"
    ratios = [
        f"{one['ratio']:.2f} x onnxruntime's time at {one['threads']}"
        for one in row["latency"] or ()
    ]
    parts = [f"{row['verified']}, error {row['parity_graph']['max_abs']:.1e}", *ratios]
    return f"ok     {cell_of(row)}: {', '.join(parts)}, {row['time_s']:.0f} s"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    parser.add_argument("--json", type=Path, help="file of rows to add to")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once (2)")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="MODEL[:TARGET[:PRECISION]]", help="some cells"
    )
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--force", action="store_true", help="make rows again that FILE has")
    parser.add_argument("--retry", action="store_true", help="make rows again that failed")
    parser.add_argument("--untimed", action="store_true", help="no comparison with onnxruntime")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds a cell")
    parser.add_argument("--ci", action="store_true", help="six cells; exit 1 if one fails")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the page about FILE")
    options = parser.parse_args(arguments)
    if options.table is None and options.json is None and not options.ci:
        parser.error("give --json FILE, --ci or --table FILE")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status is 1 if ``--ci`` saw a cell fail.

    Raises:
        DeepSeekEdgeError: an argument names nothing, or the file can't be written.
    """
    options = _parse(arguments)
    if options.table is not None:
        print(page(list(read_rows(options.table).values())), end="")
        return 0
    cells = select_cells(CI if options.ci else options.only, options.precision)
    known = read_rows(options.json) if options.json else {}
    if not (options.force or options.ci):
        cells = [c for c in cells if c not in known or (options.retry and not known[c]["ok"])]

    def finished(row: Row) -> None:
        print(describe(row), file=sys.stderr, flush=True)
        if options.json is not None:
            add_row(options.json, row)

    began = time.perf_counter()
    rows = run_cells(
        cells,
        jobs=options.jobs,
        timed=not (options.untimed or options.ci),
        timeout_s=options.timeout,
        finished=finished,
    )
    failures = sum(not row["ok"] for row in rows)
    print(f"{len(rows) - failures} of {len(rows)} cells ok, {time.perf_counter() - began:.0f} s")
    return 1 if options.ci and failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DeepSeekEdgeError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)

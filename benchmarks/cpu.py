"""Our programs against other ways to run a model on this machine's CPU, side by side.

``python -m benchmarks.cpu --json FILE`` gives every side the same model and number of threads,
lets them take turns of a tenth of a second, and checks what each computes. A peer that can't run
a model is ``null`` with the reason. FILE is written after each row; ``benchmarks/cpu_table.py``
makes a table and a plot of it. Peers are in the extra ``peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import make_graph
from benchmarks.cpu_row import LOG, Row, check, failed_row, measure_cell
from benchmarks.machine import describe_machine, versions
from benchmarks.peers import OURS, PEERS, PeerError, Source
from benchmarks.peers.conversions import convert
from benchmarks.peers.process import PeerProcess
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic

SCHEMA = 1
MODELS = (
    "resnet-18",
    "resnet-50",
    "mobilenetv2",
    "mobilenetv3-large",
    "efficientnet-lite0",
    "rapidocr-cls",
    "rapidocr-det",
    "rapidocr-rec",
    "opennsfw",
    "detector-640",
    "minilm-128",
)
PRECISIONS = ("float32", "int8")


def make_source(model: str, precision: str) -> Source | str:
    """The graph to run, or the reason why there is none."""
    graph = make_graph(model)
    if isinstance(graph, str) or precision == "float32":
        return graph if isinstance(graph, str) else Source(graph, graph)
    from benchmarks.quantized import quantized_graph

    try:
        return Source(quantized_graph(graph), graph)
    except DeepSeekEdgeError as error:
        return f"the model can't be quantized: {error}"


def measure(
    models: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    peers: Sequence[str],
    pythons: Mapping[str, str],
) -> Iterator[Row]:
    """Rows, as they are finished; a model that can't be made has rows with the reason."""
    for precision in precisions:
        for model in models:
            source = make_source(model, precision)
            with tempfile.TemporaryDirectory(prefix="cpu-") as name:
                sides = (OURS, *peers)
                if isinstance(source, str):
                    for count in threads:
                        failed = failed_row(precision, count, dict.fromkeys(sides, source))
                        yield {"model": model, **failed}
                    continue
                files = {side: prepare(side, source, Path(name), pythons) for side in sides}
                checked = check(source)
                for count in threads:
                    row = measure_cell(checked, files, precision, count, pythons)
                    yield {"model": model, **row}


def prepare(side: str, source: Source, folder: Path, pythons: Mapping[str, str]) -> Path | str:
    """The file that a side loads, or the reason why there is none."""
    began = time.perf_counter()
    try:
        with PeerProcess(side, LOG, pythons.get(side)) as process:
            return convert(process, source, folder)
    except PeerError as error:
        return str(error)
    finally:
        took = time.perf_counter() - began
        print(f"{source.graph.stem}: {side} took {took:.0f} s", file=sys.stderr, flush=True)


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Of the ratios, of each precision and number of threads, and of all."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["ratio"] is not None:
            groups.setdefault(f"{row['precision']}-t{row['threads']}", []).append(row["ratio"])
    if groups:
        groups["all"] = [ratio for ratios in groups.values() for ratio in ratios]
    return {name: round(statistics.geometric_mean(found), 3) for name, found in groups.items()}


def report(
    rows: Sequence[Row], load_average: Sequence[float], installed: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file holds."""
    return {
        "schema": SCHEMA,
        "machine": describe_machine(Path("/proc/cpuinfo").read_text()),
        "versions": installed,
        "commit": _commit(),
        "load_average_at_start": [round(load, 2) for load in load_average],
        "rows": list(rows),
        "geomean": geometric_means(rows),
    }


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ended.stdout.strip() or None


def installed_versions(peers: Sequence[str], pythons: Mapping[str, str]) -> dict[str, Any]:
    """Of our compiler and of each peer in its own environment."""
    found: dict[str, Any] = {OURS: versions(["deepseek-edge", "apache-tvm", "numpy"])}
    for name in peers:
        try:
            with PeerProcess(name, LOG, pythons.get(name)) as process:
                found[name] = process.versions(PEERS[name])
        except PeerError as error:
            found[name] = str(error)
    return found


def kept_rows(path: Path) -> list[Row]:
    """The rows of a file that this machine made; none if there is no file.

    Raises:
        UsageError: it is no such file, or another machine made it.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes())
        machine, rows = found["machine"], found["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no file of this benchmark: {error}") from error
    here = describe_machine(Path("/proc/cpuinfo").read_text())
    if machine != json.loads(json.dumps(here)):
        raise UsageError(f"{path} is from another machine", hint="leave --keep out")
    kept: list[Row] = rows
    return kept


def add_row(rows: Sequence[Row], row: Row) -> list[Row]:
    """Put a row in the place of the cell's former one, or at the end."""
    cell = ("model", "precision", "threads")
    others = [one for one in rows if [one[key] for key in cell] != [row[key] for key in cell]]
    order = {name: place for place, name in enumerate(MODELS)}
    return sorted(
        [*others, row], key=lambda one: (one["precision"], one["threads"], order[one["model"]])
    )


def listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A reader of a comma-separated choice of some names."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


def _interpreter(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if name not in PEERS or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not PEER=PYTHON")
    return name, path


def _threads(text: str) -> list[int]:
    counts = [int(number) for number in text.split(",")]
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        DeepSeekEdgeError: the file can't be read or written.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--models", type=listed(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=_threads, default=[1, 2], help="1,2")
    parser.add_argument("--precision", type=listed(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--peers", type=listed(tuple(PEERS)), default=list(PEERS))
    parser.add_argument(
        "--python",
        type=_interpreter,
        action="append",
        default=[],
        metavar="PEER=PYTHON",
        help="interpreter of a peer that has an environment of its own",
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--keep", action="store_true", help="the other rows of that file")
    options = parser.parse_args(arguments)
    rows = kept_rows(options.json) if options.keep else []
    LOG.parent.mkdir(parents=True, exist_ok=True)
    load_average, pythons = os.getloadavg(), dict(options.python)
    installed = installed_versions(options.peers, pythons)
    for row in measure(options.models, options.precision, options.threads, options.peers, pythons):
        rows = add_row(rows, row)
        text = json.dumps(report(rows, load_average, installed), indent=1)
        write_atomic(options.json, f"{text}\n".encode())
        print(json.dumps(row), file=sys.stderr, flush=True)
    from benchmarks.cpu_table import table

    print("\n".join(table(rows)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DeepSeekEdgeError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)

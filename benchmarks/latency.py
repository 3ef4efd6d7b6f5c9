"""Our programs against onnxruntime on this machine, at the same number of threads.

``python -m benchmarks.latency --json FILE`` compiles each model for ``host``, checks it, and lets
the two take turns (``benchmarks/interleaved.py``). It reports figures and judges none.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cell import Cell, Row
from benchmarks.cells import MODEL_NAMES, TIMEOUT_S, describe, make_graph, run_cell
from benchmarks.cells_table import latency_table
from benchmarks.models import MODELS
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic

SCHEMA = 1
_PACKAGES = ("deepseek-edge", "apache-tvm", "onnxruntime", "numpy")
_COPIED = ("model", "ok", "reason", "parity_graph", "macs", "codegen_s", "arena_bytes", "latency")


def describe_machine(cpuinfo: str) -> Row:
    """What this machine is, of what decides times.

    Args:
        cpuinfo: the text of /proc/cpuinfo.
    """
    from deepseek_edge.target import load_target

    host = asdict(load_target("host"))
    fields = (line.partition(":") for line in cpuinfo.split("\n\n", maxsplit=1)[0].splitlines())
    processor = {key.strip(): value.strip() for key, _, value in fields}
    described = ("arch", "mcpu", "features", "vector_bits", "cores", "clock_hz")
    return {
        "cpu": processor.get("model name") or processor.get("CPU part"),
        # A hypervisor may hide the name, but not these.
        "cpu_family": processor.get("cpu family"),
        "cpu_model": processor.get("model"),
        "is_virtual": "hypervisor" in processor.get("flags", ""),
        **{key: host[key] for key in (*described, "l1d_bytes", "l2_bytes", "l3_bytes")},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> Mapping[str, str | None]:
    """Installed versions of what was compared; None for what runs without being installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def measure_models(models: Sequence[str], threads: Sequence[int], precision: str) -> list[Row]:
    """One row a model, one model after the other; a model that fails has its reason."""
    rows = []
    for model in models:
        cell = Cell(model, "host", precision)
        row = run_cell(cell, make_graph(model), threads=threads, timeout_s=TIMEOUT_S)
        print(describe(row), file=sys.stderr, flush=True)
        rows.append({"precision": precision, **{key: row[key] for key in _COPIED}})
    return rows


def parse_threads(text: str) -> tuple[int, ...]:
    """Read 1,2.

    Raises:
        UsageError: it is not of this form, or a number is below 1.
    """
    try:
        threads = tuple(int(number) for number in text.split(","))
    except ValueError:
        threads = (0,)
    if min(threads) < 1:
        raise UsageError(f"can't read --threads {text}", hint="--threads 1,2")
    return threads


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        DeepSeekEdgeError: an argument can't be read, or the file can't be written.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODEL_NAMES)
    parser.add_argument("--threads", default="1,2", help="numbers of threads (1,2)")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    threads = parse_threads(options.threads)
    load_average = [round(load, 2) for load in os.getloadavg()]
    rows = measure_models(options.models, threads, options.precision)
    report = {
        "schema": SCHEMA,
        "machine": describe_machine(Path("/proc/cpuinfo").read_text()),
        "versions": versions(),
        "load_average_at_start": load_average,
        "rows": rows,
    }
    write_atomic(options.json, f"{json.dumps(report, indent=1)}\n".encode())
    timed = [(row["model"], one) for row in rows for one in row["latency"] or ()]
    print("\n".join(latency_table(timed)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DeepSeekEdgeError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)

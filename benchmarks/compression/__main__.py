"""Compress networks, compile what was and what became of them, and compare both.

python -m benchmarks.compression NAME[,NAME]|all [--quick] --json FILE [--graphs DIR] [--seeds 0,1]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compression.experiments import (
    CALIBRATION_IMAGES,
    EXPERIMENTS,
    QUICK_CALIBRATION_IMAGES,
    QUICK_IMAGES,
    QUICK_TESTS,
    SEEDS,
    Experiment,
    quick,
)
from benchmarks.machine import describe_machine
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic

if TYPE_CHECKING:
    from deepseek_edge.datasets import Dataset

Row = dict[str, Any]

SCHEMA = 1


def main(arguments: list[str]) -> int:
    """Run the command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        chosen = choose(options.name)
        chosen = tuple(map(quick, chosen)) if options.quick else chosen
        if options.graphs is not None:
            options.graphs.mkdir(parents=True, exist_ok=True)
            _run(options, chosen, options.graphs)
        else:
            with tempfile.TemporaryDirectory(prefix="compression-") as folder:
                _run(options, chosen, Path(folder))
    except DeepSeekEdgeError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return error.exit_code
    return 0


def choose(names: str) -> tuple[Experiment, ...]:
    """The experiments that are asked for, in this order.

    Raises:
        UsageError: there is no such experiment.
    """
    if names == "all":
        return EXPERIMENTS
    known = {one.name: one for one in EXPERIMENTS}
    for name in names.split(","):
        if name not in known:
            raise UsageError(f"there is no experiment {name}", hint=f"all, {', '.join(known)}")
    return tuple(known[name] for name in names.split(","))


def few(images: Dataset, count: int) -> Dataset:
    """The first images of a set of pixels."""
    assert not isinstance(images.content, Mapping) and images.targets is not None
    return replace(images, content=images.content[:count], targets=images.targets[:count])


def _run(options: argparse.Namespace, chosen: tuple[Experiment, ...], folder: Path) -> None:
    from benchmarks.compression.making import Workshop, make_pair
    from examples.fashion_data import TEST, load_fashion
    from examples.train_fashion import augmentation

    data, _ = load_fashion(options.data)
    if options.quick:
        data = replace(data, inputs=data.inputs[:QUICK_IMAGES], labels=data.labels[:QUICK_IMAGES])
        workshop = Workshop(folder, data, QUICK_CALIBRATION_IMAGES, _progress)
    else:
        data = replace(data, augment=augmentation(2, 0.2))
        workshop = Workshop(folder, data, CALIBRATION_IMAGES, _progress)
    pairs = [
        (experiment, seed, make_pair(experiment, seed, workshop, _tell))
        for seed in options.seeds[: 1 if options.quick else None]
        for experiment in chosen
    ]
    if options.make_only:
        return
    from benchmarks.compression.measuring import Bench
    from deepseek_edge.datasets import load_dataset

    images = load_dataset(TEST)
    rows: list[Row] = json.loads(options.json.read_bytes())["rows"] if options.keep else []
    with tempfile.TemporaryDirectory(prefix="compression-") as libraries:
        bench = Bench(Path(libraries), few(images, QUICK_TESTS) if options.quick else images)
        for experiment, seed, pair in pairs:
            _tell(f"{experiment.name}, seed {seed}: accuracy and times")
            cell = {"name": experiment.name, "model": experiment.network, "seed": seed}
            row = {**cell, **bench.compare(*pair), "made": _made(pair)}
            rows = [*(one for one in rows if {key: one[key] for key in cell} != cell), row]
            _write(options, rows)
            print(json.dumps(row), flush=True)


def _made(pair: tuple[Path, Path]) -> dict[str, Any]:
    """How long it took to make the graphs, and where, as was noted then."""
    notes = {"before": pair[0].with_suffix(".safetensors.json"), "after": Path(f"{pair[1]}.json")}
    return {when: json.loads(path.read_bytes()) for when, path in notes.items() if path.is_file()}


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    report = {
        "schema": SCHEMA,
        "machine": describe_machine(Path("/proc/cpuinfo").read_text()),
        "quick": options.quick,
        "rows": rows,
    }
    write_atomic(options.json, f"{json.dumps(report, indent=1)}\n".encode())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _progress(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{stage} {done}/{total}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("name", help="experiments, separated by commas, or all")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--keep", action="store_true", help="the other rows of that file")
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours: few images")
    parser.add_argument("--graphs", type=Path, help="folder of made graphs; what is there stays")
    parser.add_argument("--make-only", action="store_true", help="train, but measure nothing")
    parser.add_argument("--data", type=Path, help="packed by examples.fashion_data")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=list(SEEDS),
        help="0,1,2",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

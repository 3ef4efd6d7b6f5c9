"""What each precision is worth on this machine: our own programs of one model, in turns.

``python -m benchmarks.precision --json FILE`` compiles every model in float32, in float32 without
minimal filtering ("direct": a multiplication for each one of the sum), in INT8, and as
``--precision auto`` chooses; they take turns, and the ratios are medians of the rounds'. A row also
says how long a compile took and how much memory a plan needs beyond the largest live set.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cells import make_graph
from benchmarks.cpu import MODELS, listed
from benchmarks.interleaved import engine_turn, median_ms, round_ratios, take_turns
from benchmarks.machine import describe_machine, versions
from benchmarks.quantized import quantize
from deepseek_edge.files import write_atomic

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.artifacts import Program
    from deepseek_edge.pipeline.choosing import Builder

Row = dict[str, Any]


def measure(models: Sequence[str], threads: Sequence[int]) -> Iterator[Row]:
    """Rows, as they are finished; a model that can't be made has one with the reason."""
    cores = sorted(os.sched_getaffinity(0))
    for model in models:
        graph = make_graph(model)
        if isinstance(graph, str):
            yield {"model": model, "reason": graph}
            continue
        for count in threads:
            with tempfile.TemporaryDirectory(prefix="precision-") as folder:
                # auto chooses for the cores that the process may use.
                os.sched_setaffinity(0, cores[:count])
                try:
                    row = _row(graph, count, Path(folder))
                finally:
                    os.sched_setaffinity(0, cores)
            yield {"model": model, "threads": count, **row}


def _row(graph: Path, threads: int, folder: Path) -> Row:
    import onnx

    from deepseek_edge.backends.tvm import compile_program
    from deepseek_edge.parity import sample_inputs
    from deepseek_edge.pipeline.choosing import Builder, choose_precision, named
    from deepseek_edge.target import load_target

    model, target = named(onnx.load(graph)), load_target("host")
    quantized = quantize(graph)
    build = Builder(compile_program, target, (1,), folder, lambda *_: None)
    auto = choose_precision(model, quantized, build, lambda _: None)
    began = time.perf_counter()
    programs = {"float32": build.build(model, "plain")}
    took_s = time.perf_counter() - began
    programs["direct"] = _direct(model, build)
    programs["int8"] = build.build(quantized.model, "integers")
    programs["auto"] = auto.program
    inputs = sample_inputs(model, programs["float32"].entries[0].inputs, 0)
    return {
        **_times(programs, inputs, threads),
        "auto": {
            "chosen": auto.notes[0],
            "kept_float": {one.name: one.reason for one in auto.program.layers.kept_float},
        },
        "compile_s": round(took_s, 1),
        "memory": {"float32": _memory(model, build), "int8": _memory(quantized.model, build)},
    }


def _direct(model: onnx.ModelProto, build: Builder) -> Program:
    """The float32 program whose 3x3 convolutions are plain sums."""
    from deepseek_edge.backends.tvm.choice import Choice
    from deepseek_edge.backends.tvm.tuning import tunable_steps

    keys = [step.key for step in tunable_steps(model, build.target, 1)]
    return build.build(model, "direct", dict.fromkeys(keys, Choice(filtering="direct")))


def _times(programs: Mapping[str, Program], inputs: Mapping[str, Any], threads: int) -> Row:
    from deepseek_edge.profiling.conditions import read_conditions, reasons_to_doubt
    from deepseek_edge.runtime.engine import Engine

    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine(one.library, threads=threads)) for one in programs.values()
        ]
        for engine in engines:
            engine.run(inputs)
        before, began = read_conditions(), time.perf_counter()
        turns = take_turns([partial(engine_turn, engine) for engine in engines])
        doubts = reasons_to_doubt(before, read_conditions(), time.perf_counter() - began)
    rounds = dict(zip(programs, turns, strict=True))
    ms = {name: median_ms(one) for name, one in rounds.items()}
    best = min(("float32", "int8"), key=lambda name: ms[name])
    return {
        "ms": ms,
        "direct_over_int8": _ratio(rounds["direct"], rounds["int8"]),
        "float32_over_int8": _ratio(rounds["float32"], rounds["int8"]),
        "auto_over_best": _ratio(rounds["auto"], rounds[best]),
        "doubts": doubts,
    }


def _ratio(one: Sequence[list[float]], other: Sequence[list[float]]) -> float:
    return round(statistics.median(round_ratios(one, other)), 3)


def _memory(model: onnx.ModelProto, build: Builder) -> Row:
    """Of the plan, in bytes; activations that live at once can't take less than ``live``."""
    from deepseek_edge.backends.tvm import compile_entry
    from deepseek_edge.backends.tvm.kernels import KernelTable

    table, _, _ = compile_entry(model, build.target, 1, KernelTable(), build.progress, choices={})
    arena, live = table.arena.size_bytes, table.arena.peak_live_bytes
    return {"arena": arena, "live": live, "ratio": round(arena / live, 3)}


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--models", type=listed(MODELS), default=list(MODELS))
    parser.add_argument(
        "--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2], help="1,2"
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    if max(options.threads) > len(os.sched_getaffinity(0)):
        parser.error("more threads than cores that this process may use")
    rows: list[Row] = []
    for row in measure(options.models, options.threads):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        report = {
            "machine": describe_machine(Path("/proc/cpuinfo").read_text()),
            "versions": versions(["deepseek-edge", "apache-tvm", "numpy"]),
            "rows": rows,
        }
        write_atomic(options.json, f"{json.dumps(report, indent=1)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])

"""How good our ARM64 code is, without a board.

``python -m benchmarks.arm --json FILE`` compiles each model for two Raspberry Pis, runs it under
QEMU with a plugin that counts instructions, cuts the hot loops of convolutions and matrix products
out of the object, and asks LLVM's model of the core (llvm-mca 19) how many cycles an iteration
takes. Beside it stand what the multiplier alone needs, and the instructions that onnxruntime's and
ncnn's ARM64 wheels execute for the same model. On an AArch64 machine it measures times too.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arm_count import PEERS, Emulator, build_emulator, count_ours, count_peer
from benchmarks.arm_kernels import Row, kernel_counts, loop_rows
from benchmarks.arm_model import CORES
from benchmarks.cell import Cell
from benchmarks.cells import make_graph
from deepseek_edge.errors import DeepSeekEdgeError, UsageError
from deepseek_edge.files import write_atomic
from deepseek_edge.target import load_target

SCHEMA = 1
MODELS = ("resnet-18", "mobilenetv2", "efficientnet-lite0", "rapidocr-cls", "minilm-128")
TARGETS = ("raspberry-pi-4", "raspberry-pi-5")
PRECISIONS = ("float32", "int8")
RUNS = 20


def select(selectors: Sequence[str]) -> list[Cell]:
    """The cells that ``MODEL[:TARGET[:PRECISION]]`` name; an empty part stands for all.

    Raises:
        UsageError: a selector names no model, target or precision.
    """
    chosen: dict[Cell, None] = {}
    for selector in selectors or [""]:
        parts = [*selector.split(":"), "", ""][:3]
        choices = []
        for known, name in zip((MODELS, TARGETS, PRECISIONS), parts, strict=True):
            if name and name not in known:
                raise UsageError(f"{selector} is no cell", hint=f"one of {', '.join(known)}")
            choices.append([name] if name else list(known))
        chosen |= {Cell(m, t, p): None for m in choices[0] for t in choices[1] for p in choices[2]}
    return list(chosen)


def measure(cell: Cell, emulator: Emulator, root: Path | None, runs: int) -> list[Row]:
    """Rows of one cell: its hot loops, then its instructions beside the peers'.

    Args:
        cell: what to compile, for what.
        emulator: as ``build_emulator`` makes it.
        root: an ARM64 system (``benchmarks.arm_root``), or None to leave out the peers.
        runs: N of (N minus N/2) / (N/2).

    Raises:
        DeepSeekEdgeError: the model can't be made, compiled or run.
    """
    import onnx

    from deepseek_edge.backends.tvm import compile_program
    from deepseek_edge.parity import graph_inputs, sample_inputs

    target = load_target(cell.target)
    graph = _graph(cell)
    model = onnx.load(graph)
    specs = graph_inputs(model)
    inputs = sample_inputs(model, specs, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = compile_program(
            model, target, batches=(1,), work_dir=folder, progress=lambda *_: None
        )
        ordered = [inputs[spec.name] for spec in program.entries[0].inputs]
        ours = count_ours(emulator, program.library, target, ordered, runs)
        executions = kernel_counts(program, ours)
        loops = loop_rows(program, target, executions)
        peers = {
            peer: _count_peer(peer, cell, emulator, (graph, folder, root), (inputs, runs))
            for peer in PEERS
        }
    cores = {"mcpu": CORES[target.mcpu], "target": cell.target}
    common = {"model": cell.model, "precision": cell.precision, **cores}
    counted = instruction_row(ours.per_inference, peers) | modelled(loops)
    share = round(sum(executions.values()) / ours.per_inference, 4)
    counted |= {"runs": runs, "share_in_kernels": share}
    return [*({**common, **row} for row in loops), {**common, **counted}]


def _count_peer(
    peer: str,
    cell: Cell,
    emulator: Emulator,
    places: tuple[Path, Path, Path | None],
    load: tuple[Mapping[str, Any], int],
) -> float | str:
    """Instructions of a peer for one inference, or why there are none.

    ``places`` are the graph, a folder to work in, and the ARM64 system; ``load`` the inputs and
    how often they are run.
    """
    graph, folder, root = places
    inputs, runs = load
    try:
        counts = count_peer(
            emulator,
            load_target(cell.target),
            root=root or folder,
            peer=peer,
            model=_peer_file(peer, cell, graph, folder, root),
            inputs=inputs,
            runs=runs,
        )
    except DeepSeekEdgeError as error:
        return str(error)
    return counts.per_inference


def _graph(cell: Cell) -> Path:
    graph = make_graph(cell.model)
    if isinstance(graph, str):
        raise DeepSeekEdgeError(graph)
    if cell.precision == "float32":
        return graph
    from benchmarks.quantized import quantized_graph

    return quantized_graph(graph)


def _peer_file(peer: str, cell: Cell, graph: Path, folder: Path, root: Path | None) -> Path:
    """What a peer loads."""
    if root is None:
        raise DeepSeekEdgeError("no --root: python -m benchmarks.arm_root DIR makes one")
    if peer != "ncnn":
        return graph
    from benchmarks.peers import PeerError
    from benchmarks.peers.pnnx import convert

    if cell.precision != "float32":
        raise DeepSeekEdgeError("no Q/DQ import; its packages hold no ncnn2int8")
    try:
        convert(graph, folder)
    except PeerError as error:
        raise DeepSeekEdgeError(str(error)) from error
    return folder / "model.ncnn.param"


def instruction_row(ours: float, peers: Mapping[str, float | str]) -> Row:
    """Our instructions an inference beside the peers'; ``ratio`` is to the best of them.

    Args:
        ours: instructions of an inference.
        peers: those of each peer, or the reason why there are none.
    """
    known = {peer: count for peer, count in peers.items() if not isinstance(count, str)}
    return {
        "ours_instructions": round(ours),
        "peers_instructions": {
            peer: round(known[peer]) if peer in known else None for peer in peers
        },
        "reasons": {peer: why for peer, why in peers.items() if isinstance(why, str)},
        "ratios": {peer: round(ours / count, 3) for peer, count in known.items()},
        "ratio": round(ours / min(known.values()), 3) if known else None,
    }


def modelled(loops: Sequence[Row]) -> Row:
    """Cycles of all these loops in an inference, and what the multiplier needs of them."""
    cycles, limit = (
        sum(row["iterations"] * row[key] for row in loops) for key in ("cycles", "limit")
    )
    return {"loops_cycles": round(cycles), "loops_limit": round(limit)}


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    logs = [math.log(value) for value in values]
    return round(math.exp(sum(logs) / len(logs)), 4) if logs else None


def geometric_means(rows: Sequence[Row]) -> dict[str, float | None]:
    """Of the hot loops, of those of each core and precision, and of the instructions' ratios."""
    loops = [row for row in rows if row.get("hot")]
    counted = [row for row in rows if row.get("ratio")]
    groups = sorted({(row["mcpu"], row["precision"]) for row in loops})
    means = {
        "cycles_over_limit": geometric_mean(row["cycles_over_limit"] for row in loops),
        "instructions": geometric_mean(row["ratio"] for row in counted),
    }
    for mcpu, precision in groups:
        chosen = [row for row in loops if (row["mcpu"], row["precision"]) == (mcpu, precision)]
        key = f"cycles_over_limit-{mcpu}-{precision}"
        means[key] = geometric_mean(row["cycles_over_limit"] for row in chosen)
    for peer in PEERS:
        ratios = [row["ratios"][peer] for row in counted if peer in row["ratios"]]
        means[f"instructions-{peer}"] = geometric_mean(ratios)
    return means


def real_times(models: Sequence[str], precisions: Sequence[str]) -> Any:
    """What ``benchmarks.cpu`` measures on this machine; None unless it is an AArch64 machine."""
    if platform.machine() != "aarch64":
        return None
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "cpu.json"
        options = ["--models", ",".join(models), "--precision", ",".join(precisions)]
        command = [sys.executable, "-m", "benchmarks.cpu", *options, "--json", str(file)]
        subprocess.run(command, check=True)
        return json.loads(file.read_text())


def write_report(path: Path, rows: Sequence[Row], times: Any, versions: dict[str, str]) -> None:
    """Write the file.

    Raises:
        OutputError: it can't be written.
    """
    head = {"schema": SCHEMA, "versions": versions, "geomean": geometric_means(rows)}
    head |= {"times": times, "rows": []}
    # A line a row: hundreds of them are read, and compared, by line.
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = json.dumps(head, indent=1).removesuffix("[]\n}") + f"[\n{lines}\n ]\n}}\n"
    write_atomic(path, text.encode())


def _is_of(row: Row, cell: Cell) -> bool:
    return (row["model"], row["target"], row["precision"]) == (
        cell.model,
        cell.target,
        cell.precision,
    )


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        DeepSeekEdgeError: an argument can't be read, a tool is missing, or FILE can't be written.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file to write; rows are kept")
    parser.add_argument("--only", nargs="+", default=[], help="MODEL[:TARGET[:PRECISION]]")
    parser.add_argument(
        "--root", type=Path, help="ARM64 system with the peers: benchmarks.arm_root"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help=f"inferences to emulate ({RUNS})")
    options = parser.parse_args(arguments)
    if options.runs < 2:
        raise UsageError("--runs must be at least 2")
    cells = select(options.only)
    rows: list[Row] = []
    versions: dict[str, str] = {}
    if options.json.is_file():
        former = json.loads(options.json.read_text())
        rows, versions = former["rows"], former["versions"]
    if options.root is not None:
        from benchmarks.arm_root import peer_versions

        versions = peer_versions(options.root)
    with tempfile.TemporaryDirectory() as name:
        emulator = build_emulator(Path(name))
        for cell in cells:
            new = measure(cell, emulator, options.root, options.runs)
            rows = [row for row in rows if not _is_of(row, cell)] + new
            write_report(options.json, rows, None, versions)
            print(cell, json.dumps(new[-1]), file=sys.stderr, flush=True)
    times = real_times(sorted({c.model for c in cells}), sorted({c.precision for c in cells}))
    write_report(options.json, rows, times, versions)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DeepSeekEdgeError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)

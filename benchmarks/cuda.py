"""CUDA programs on an NVIDIA GPU, beside PyTorch: latency, parity, share of the roofline.

On a machine with a GPU and this package: ``python -m benchmarks.cuda --json FILE``. Where the GPU
is another machine, in three steps:

    python -m benchmarks.cuda --pack FOLDER              here: compile, and compute what is right
    python3 FOLDER/cuda_row.py FOLDER --out DIR --torch  there: needs numpy, torch, torchvision
    python -m benchmarks.cuda --collect FOLDER --results DIR --json FILE    here again

``--only MODEL:PRECISION[:BATCHES]`` chooses what is packed. Rows are as those of benchmarks.cpu,
with ``batch``; ``verdict`` is a compile's; ``torch_ms`` is torchvision's network of that name in
half floats, channels last, a CUDA graph with the same copies of input and output;
``torch_network_ms`` is without them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cuda_parity import judge, write_golden
from benchmarks.machine import versions

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.artifacts import Program

Row = dict[str, Any]

MODELS = (
    "efficientnet-lite0",
    "resnet-18",
    "resnet-50",
    "mobilenetv2",
    "opennsfw",
    "rapidocr-cls",
    "rapidocr-det",
    "rapidocr-rec",
)
BATCH_OF_ONE = ("rapidocr-det", "rapidocr-rec")  # their graphs fix the batch
# Dense peaks and memory bandwidth of the data sheets: NVIDIA H100 and H200 Tensor Core GPU data
# sheets, https://www.nvidia.com/en-us/data-center/h200/ (read 2026-11-27): TFLOP/s, TOP/s, TB/s.
PEAKS = {"H200": (989.0, 1979.0, 4.8), "H100": (989.0, 1979.0, 3.35)}


@dataclass(frozen=True)
class Job:
    """A model to compile in a precision."""

    model: str
    precision: str
    batches: tuple[int, ...]

    @property
    def folder(self) -> str:
        """Its name in the packed folder."""
        return f"{self.model}-{self.precision}"


def jobs(only: Sequence[str]) -> Iterator[Job]:
    """Those asked for, or all."""
    chosen = only or [f"{model}:{kind}" for model in MODELS for kind in ("float16", "int8")]
    for text in chosen:
        model, precision, *batches = text.split(":")
        default = (1,) if model in BATCH_OF_ONE else (1, 8)
        sizes = tuple(map(int, batches[0].split(","))) if batches else default
        yield Job(model, precision, sizes)


def graph_of(job: Job) -> Path:
    """The ONNX file that a job compiles."""
    from benchmarks.models import model_path
    from benchmarks.quantized import quantized_graph

    path = model_path(job.model)
    return quantized_graph(path) if job.precision == "int8" else path


def pack(folder: Path, todo: Sequence[Job], target: str) -> None:
    """Compile each job into a folder of its own, with the outputs of onnxruntime.

    A program of integer and float layers comes with a second one, ``observed.so``, by which its
    layers are judged.
    """
    import onnx

    from deepseek_edge.digest import digest_file
    from deepseek_edge.parity import SEED
    from deepseek_edge.pipeline.layer_parity import is_mixed, observable

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("cuda_row.py"), folder)
    for job in todo:
        print(job, file=sys.stderr, flush=True)
        graph = graph_of(job)
        model = onnx.load(graph)
        out = folder / job.folder
        out.mkdir(exist_ok=True)
        program = _compile(model, job, target, out / "model.so")
        if is_mixed(program):
            _compile(observable(model), job, target, out / "observed.so")
        write_golden(model, job.batches, out / "golden.npz")
        facts = {
            **asdict(job),
            "graph_sha256": digest_file(graph),
            "seed": SEED,
            "size_bytes": program.size_bytes,
            "code_bytes": program.code_bytes,
            "arena_bytes": program.arena_bytes,
            "steps_of": {
                entry.name: [(s.macs, s.bytes_read + s.bytes_written) for s in entry.steps]
                for entry in program.entries
            },
        }
        (out / "meta.json").write_text(json.dumps(facts))


def _compile(model: onnx.ModelProto, job: Job, target: str, library: Path) -> Program:
    from deepseek_edge.backends.tvm.cuda import compile_cuda_program
    from deepseek_edge.target import load_target

    with tempfile.TemporaryDirectory() as work:
        program = compile_cuda_program(
            model,
            load_target(target),
            batches=job.batches,
            work_dir=Path(work),
            progress=lambda stage, done, total: None,
            precision=None if job.precision == "int8" else job.precision,
        )
        shutil.copy(program.library, library)
    return program


def collect(folder: Path, results: Path) -> dict[str, Any]:
    """The report on one run: its rows with parity and roofline, beside its torch."""
    import numpy as np

    report = json.loads((results / "rows.json").read_text())
    outputs = np.load(results / "outputs.npz")
    torch = {(row["model"], row["batch"]): row for row in report["torch"]}
    report["device"] = report["device"].splitlines()[0]  # one GPU of those that there are
    rows = [_finished(row, folder, outputs, torch, report["device"]) for row in report["rows"]]
    rows.sort(key=lambda row: (row["model"], row["precision"], row["batch"]))
    packages = ("apache-tvm", "nvidia-cuda-nvrtc-cu12", "onnxruntime")
    return {
        "schema": 2,
        "versions": versions(packages),
        **{key: report[key] for key in ("device", "python", "loaded", "failures")},
        "rows": rows,
        "geomean": _geomeans(rows),
    }


def _finished(
    row: Row, folder: Path, outputs: Any, torch: dict[tuple[str, int], Row], device: str
) -> Row:
    facts = json.loads((folder / f"{row['model']}-{row['precision']}" / "meta.json").read_text())
    name = f"batch{row['batch']}"
    peer = torch.get((row["model"], row["batch"]), {})
    kept = ("model", "precision", "batch", "ours_ms", "fastest_ms", "open_ms", "repeats")
    done = {key: row[key] for key in kept}
    done |= {key: peer.get(key) for key in ("torch_ms", "torch_network_ms")}
    done["ratio"] = round(row["ours_ms"] / peer["torch_ms"], 3) if peer else None
    done |= _verdict(row, folder, outputs)
    work = facts["steps_of"][name]
    limits = limits_ms(work, device, row["precision"])
    done["kernels"] = len(work)
    done["roofline_ms"] = round(sum(limits), 4) if limits else None
    done["roofline_share"] = round(sum(limits) / row["ours_ms"], 3) if limits else None
    done |= {key: facts[key] for key in ("size_bytes", "code_bytes", "arena_bytes")}
    # Events cost 4 to 5 us a step, and no graph joins the launches: only the order is telling.
    known: list[float | None] = [*limits] or [None] * len(work)
    timed = zip(row["steps"], known, strict=True)
    slowest = sorted(timed, key=lambda step: -step[0][2])[:5]
    done["slowest_steps"] = [
        {
            "name": name,
            "op": op,
            "us": round(ns / 1e3, 1),
            "limit_us": None if limit is None else round(1e3 * limit, 1),
        }
        for (name, op, ns), limit in slowest
    ]
    return done


def _verdict(row: Row, folder: Path, outputs: Any) -> Row:
    """What came back of a row's outputs, judged."""
    import numpy as np
    import onnx

    job = Job(row["model"], row["precision"], (row["batch"],))
    golden = np.load(folder / job.folder / "golden.npz")

    def named(kind: str) -> Row:
        start = f"{row['model']}/{row['precision']}/batch{row['batch']}/{kind}/"
        return {key.removeprefix(start): outputs[key] for key in outputs if key.startswith(start)}

    return judge(
        onnx.load(graph_of(job)),
        job.precision,
        row["batch"],
        golden=golden,
        outputs=named("out"),
        observed=named("observed"),
    )


def limits_ms(work: Sequence[Sequence[int]], device: str, precision: str) -> list[float]:
    """The least time that each step could take; nothing for an unknown GPU.

    Args:
        work: (multiply-accumulates, bytes moved) of each step.
        device: its name, e.g. "NVIDIA H200, 580.159".
        precision: "float16" or "int8".
    """
    peak = next((peak for name, peak in PEAKS.items() if name in device), None)
    if peak is None or precision not in ("float16", "int8"):
        return []
    operations, bandwidth = peak[precision == "int8"] * 1e12, peak[2] * 1e12
    return [1e3 * max(2 * macs / operations, moved / bandwidth) for macs, moved in work]


def _geomeans(rows: Sequence[Row]) -> Row:
    """Of our time over torch's, where there is one, by precision."""
    from statistics import geometric_mean

    kinds = sorted({row["precision"] for row in rows if row["ratio"]})
    named = ("resnet-50", "mobilenetv2")  # the goal's two
    return {
        f"{kind}{label}": round(geometric_mean(ratios), 3)
        for kind in kinds
        for label, among in (("", None), (" of " + " and ".join(named), named))
        if (
            ratios := [
                row["ratio"]
                for row in rows
                if row["precision"] == kind
                and row["ratio"]
                and (not among or row["model"] in among)
            ]
        )
    }


def main() -> None:
    """Pack, run and collect, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--pack", type=Path, metavar="FOLDER")
    parser.add_argument("--collect", type=Path, metavar="FOLDER")
    parser.add_argument("--results", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL:PRECISION[:BATCHES]")
    parser.add_argument("--target", default="host-cuda")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.pack, list(jobs(arguments.only)), arguments.target)
        return
    if arguments.json is None or (arguments.collect is None) != (arguments.results is None):
        parser.error("--json FILE, or --collect FOLDER --results DIR --json FILE, or --pack FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        folder, results = arguments.collect, arguments.results
        if folder is None:
            folder, results = Path(temporary), Path(temporary)
            pack(folder, list(jobs(arguments.only)), arguments.target)
            script = [sys.executable, str(folder / "cuda_row.py"), str(folder)]
            subprocess.run([*script, "--out", str(folder), "--torch"], check=True)
        report = collect(folder, results)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["geomean"]))


if __name__ == "__main__":
    main()

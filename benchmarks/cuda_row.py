"""The part of ``benchmarks.cuda`` that runs on the machine with the GPU.

That machine needs Python and numpy, and torch and torchvision for the comparison; this package and
its dependencies it doesn't need: programs come compiled, with what onnxruntime computed.

``python3 cuda_row.py FOLDER --out DIR [--torch]``: runs each folder of FOLDER that has a
``model.so`` and writes ``DIR/rows.json`` and ``DIR/outputs.npz``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

REPETITIONS = 300
_DTYPES = {1: "float32", 2: "int8", 3: "uint8", 4: "int32", 5: "int64", 6: "bool", 7: "float16"}


class _Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("affinity", ctypes.c_void_p),
        ("affinity_count", ctypes.c_int32),
        ("spin_us", ctypes.c_int32),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 8),
        ("data", ctypes.c_void_p),
        ("size_bytes", ctypes.c_uint64),
    )


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("steps", ctypes.c_int32),
    )


class _Step(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("op", ctypes.c_char_p))


class Model:
    """A model.so through its C interface (deepseek_edge.h)."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.dse_last_error.restype = ctypes.c_char_p
        self._model = ctypes.c_void_p()
        options = _Options(struct_size=ctypes.sizeof(_Options))
        self.check(self._library.dse_open(ctypes.byref(options), ctypes.byref(self._model)))

    def check(self, status: int) -> None:
        """Raise what the library says of a failed call."""
        if status:
            message = self._library.dse_last_error(self._model).decode()
            raise RuntimeError(f"status {status}: {message}")

    def entries(self) -> list[_Entry]:
        """All ways into the program."""
        found = []
        for number in range(self._library.dse_entries(self._model)):
            entry = _Entry()
            self.check(self._library.dse_entry(self._model, number, ctypes.byref(entry)))
            found.append(entry)
        return found

    def tensor(self, entry: int, direction: int, number: int) -> tuple[str, Any]:
        """The name of an input (0) or output (1), and its memory."""
        row = _Tensor()
        self.check(
            self._library.dse_tensor(self._model, entry, direction, number, ctypes.byref(row))
        )
        raw = (ctypes.c_uint8 * row.size_bytes).from_address(row.data)
        array = np.frombuffer(raw, dtype=_DTYPES[row.dtype])
        return row.name.decode(), array.reshape(row.shape[: row.rank])

    def run(self, entry: int) -> None:
        """Once, on the inputs in place."""
        self.check(self._library.dse_run(self._model, entry))

    def run_timed(self, entry: int, steps: int) -> list[int]:
        """Nanoseconds of each step."""
        times = (ctypes.c_uint64 * steps)()
        self.check(self._library.dse_run_timed(self._model, entry, times, ctypes.c_size_t(steps)))
        return list(times)

    def step(self, entry: int, number: int) -> tuple[str, str]:
        """Name and operators of a step."""
        step = _Step()
        self.check(self._library.dse_step(self._model, entry, number, ctypes.byref(step)))
        return step.name.decode(), step.op.decode()

    def close(self) -> None:
        """Give everything back."""
        self._library.dse_close(self._model)


def median_ms(call: Any, repetitions: int = REPETITIONS) -> tuple[float, float]:
    """(median, least) duration of a call that waits for its result."""
    for _ in range(20):
        call()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), min(times)


def run_folder(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row a batch size, and the outputs by "model/precision/batch/out/name"."""
    described = json.loads((folder / "meta.json").read_text())
    golden = np.load(folder / "golden.npz")
    start = time.perf_counter()
    model = Model(folder / "model.so")
    open_ms = (time.perf_counter() - start) * 1e3
    rows: list[dict[str, Any]] = []
    outputs: dict[str, Any] = {}
    for number, entry in enumerate(model.entries()):
        name = entry.name.decode()
        results = _first_run(model, number, golden, described["seed"])
        first = {label: memory.copy() for label, memory in results.items()}
        model.run(number)
        model.run(number)
        same = all(np.array_equal(first[k], v, equal_nan=True) for k, v in results.items())
        errors = [_error(golden[f"{name}/out/{k}"], v) for k, v in first.items()]
        ours, least = median_ms(lambda number=number: model.run(number))
        times = [model.run_timed(number, entry.steps) for _ in range(30)]
        per_step = [int(statistics.median(t)) for t in zip(*times, strict=True)]
        key = f"{described['model']}/{described['precision']}/{name}"
        outputs |= {f"{key}/out/{k}": v for k, v in first.items()}
        rows.append(
            {
                **described,
                "batch": int(name.removeprefix("batch")),
                "ours_ms": round(ours, 4),
                "fastest_ms": round(least, 4),
                "steps_ms": round(sum(per_step) / 1e6, 4),
                "open_ms": round(open_ms, 1),
                "repeats": same,
                "max_error": max(errors),
                "steps": [[*model.step(number, s), ns] for s, ns in enumerate(per_step)],
            }
        )
    model.close()
    return rows, outputs | _observed(folder, golden, described)


def _first_run(model: Model, number: int, golden: Any, seed: int) -> dict[str, Any]:
    """Fill the inputs of an entry, run it, and give its outputs, which later runs overwrite."""
    entry = model.entries()[number]
    for i in range(entry.inputs):
        label, memory = model.tensor(number, 0, i)
        key = f"{entry.name.decode()}/in/{label}"
        memory[...] = golden[key] if key in golden else _made(memory.shape, seed)
    model.run(number)
    return dict(model.tensor(number, 1, i) for i in range(entry.outputs))


def _observed(folder: Path, golden: Any, described: dict[str, Any]) -> dict[str, Any]:
    """By "model/precision/batch/observed/name": outputs of the program that shows its layers."""
    if not (folder / "observed.so").is_file():
        return {}
    model = Model(folder / "observed.so")
    outputs: dict[str, Any] = {}
    for number, entry in enumerate(model.entries()):
        key = f"{described['model']}/{described['precision']}/{entry.name.decode()}/observed"
        results = _first_run(model, number, golden, described["seed"])
        outputs |= {f"{key}/{label}": memory.copy() for label, memory in results.items()}
    model.close()
    return outputs


def _made(shape: tuple[int, ...], seed: int) -> Any:
    """As ``deepseek_edge.parity.sample_inputs`` makes one float input, sample by sample."""
    one = (1, *shape[1:])
    samples = [np.random.default_rng([seed, i]).standard_normal(one) for i in range(shape[0])]
    return np.concatenate(samples).astype(np.float32)


def _error(expected: Any, actual: Any) -> float:
    span = max(float(np.ptp(expected.astype(np.float64))), 1e-30)
    return float(np.abs(expected.astype(np.float64) - actual).max()) / span


def torch_rows(batches: tuple[int, ...] = (1, 8)) -> list[dict[str, Any]]:
    """The networks of torchvision: half floats, channels last, captured as a CUDA graph."""
    import torch
    import torchvision

    torch.backends.cudnn.benchmark = True
    rows = []
    for name, make in (
        ("resnet-50", torchvision.models.resnet50),
        ("mobilenetv2", torchvision.models.mobilenet_v2),
        ("resnet-18", torchvision.models.resnet18),
    ):
        network = make(weights=None).eval().half().cuda().to(memory_format=torch.channels_last)
        for batch in batches:
            rows.append({"model": name, "batch": batch, **_torch_times(torch, network, batch)})
    return rows


def _torch_times(torch: Any, network: Any, batch: int) -> dict[str, float]:
    """With copies of input and output, as dse_run has them, and of the network alone."""
    outside = torch.rand(batch, 3, 224, 224).pin_memory()
    inside = outside.cuda()
    answer = torch.empty(batch, 1000).pin_memory()

    def whole() -> None:
        inside.copy_(outside, non_blocking=True)
        answer.copy_(alone().float(), non_blocking=True)

    def alone() -> Any:
        return network(inside.half().to(memory_format=torch.channels_last))

    times = {}
    with torch.inference_mode():
        for label, body in (("torch_ms", whole), ("torch_network_ms", alone)):
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(5):
                    body()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                body()

            def replay(graph: Any = graph) -> None:
                graph.replay()
                torch.cuda.synchronize()

            times[label] = round(median_ms(replay)[0], 4)
    return times


def device_name() -> str:
    """Of the GPU, and the driver's version."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Run everything, and say what was loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--torch", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    outputs: dict[str, Any] = {}
    failures = []
    for path in sorted(arguments.folder.glob("*/model.so")):
        try:
            more, results = run_folder(path.parent)
        except RuntimeError as error:
            failures.append({"folder": path.parent.name, "error": str(error)})
            print(path.parent.name, error, flush=True)
            continue
        rows += more
        outputs |= results
        for row in more:
            print({k: v for k, v in row.items() if k != "steps"}, flush=True)
    maps = Path("/proc/self/maps").read_text()
    loaded = [name for name in ("libcudart", "libtvm", "libcudnn", "libcublas") if name in maps]
    peers = torch_rows() if arguments.torch else []
    for peer in peers:
        print(peer, flush=True)
    report = {
        "device": device_name(),
        "python": sys.version.split()[0],
        "loaded": loaded,
        "rows": rows,
        "failures": failures,
        "torch": peers,
    }
    (arguments.out / "rows.json").write_text(json.dumps(report))
    np.savez_compressed(arguments.out / "outputs.npz", **outputs)
    print("loaded:", loaded, "failures:", len(failures))


if __name__ == "__main__":
    main()

"""How much memory and time quantizing a model takes, in a process of its own.

``python -m benchmarks.quantization_memory`` writes ``benchmarks/results/quantization_memory.json``:
the process's largest resident set, the model and the samples included, and its seconds of CPU.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import onnx

from benchmarks.machine import describe_machine
from benchmarks.models import model_path
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import graph_inputs, sample_inputs
from deepseek_edge.quantization import Quantizer

RESULTS = Path(__file__).parent / "results" / "quantization_memory.json"
CASES = (("efficientnet-lite0", 32), ("resnet-50", 32))


def quantize(name: str, count: int) -> dict[str, Any]:
    """Quantize a named model on made-up samples; call it in a fresh process."""
    warnings.simplefilter("ignore")
    model = onnx.load(model_path(name))
    specs = graph_inputs(model)
    samples = [dict(sample_inputs(model, specs, number)) for number in range(count)]
    start = time.process_time()
    Quantizer(model).calibrate(samples).quantize()
    return {
        "model": name,
        "samples": count,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    """Measure, print each row, and write all of them."""
    rows = []
    for case in CASES:
        # Spawned: a forked process would start with its parent's memory.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(quantize, *case).result())
        print(json.dumps(rows[-1]), flush=True)
    result = {"machine": describe_machine(Path("/proc/cpuinfo").read_text("utf-8")), "rows": rows}
    write_atomic(RESULTS, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""Repeats a peer's inference inside an emulated ARM64 Python, with a mark after each.

``python peer.py PEER MODEL INPUTS.npz RUNS``; a mark is a call of getppid, which
``count_plugin.c`` watches for. It needs numpy and the peer, nothing else.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def onnxruntime_call(model: str, inputs: dict[str, Any]) -> Callable[[], object]:
    """All optimizations, inputs and outputs bound once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def ncnn_call(model: str, inputs: dict[str, Any]) -> Callable[[], object]:
    """Defaults, but float32 throughout: they are fp16 on cores that have it."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(model) or net.load_model(model.removesuffix("param") + "bin"):
        raise SystemExit("ncnn can't load the model")
    mats = []
    for value in inputs.values():
        narrow = value.astype(np.int32) if value.dtype == np.int64 else value
        mats.append(ncnn.Mat(narrow[0]).clone())

    def call() -> None:
        with net.create_extractor() as extractor:
            for index, mat in enumerate(mats):
                extractor.input(f"in{index}", mat)
            status, _ = extractor.extract("out0")
            if status:
                raise SystemExit(f"ncnn failed with status {status}")

    return call


def main(peer: str, model: str, inputs: str, runs: str) -> None:
    """Load, then run and mark."""
    with np.load(inputs) as file:
        values = {name: np.ascontiguousarray(file[name]) for name in file.files}
    call = {"onnxruntime": onnxruntime_call, "ncnn": ncnn_call}[peer](model, values)
    os.getppid()
    for _ in range(int(runs)):
        call()
        os.getppid()


if __name__ == "__main__":
    main(*sys.argv[1:])

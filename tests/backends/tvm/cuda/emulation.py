"""CUDA programs run here: their kernels on the CPU, under a libcuda.so.1 of ours."""

import ctypes
import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deepseek_edge.artifacts import Program
from deepseek_edge.backends.tvm.cuda import compile_cuda_program
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Gpu, Target, load_target
from deepseek_edge.toolchain import zig

HERE = Path(__file__).parent
_ENTRY = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\((.*)\) \{', re.M
)


_FLAGS = (
    *("-std=c++17", "-shared", "-fPIC", "-O1", "-g0", "-w"),
    *("-mcpu=native", "-ffp-contract=fast", "-fno-strict-aliasing"),
    *("-fno-exceptions", "-fno-rtti", "-nostdlib++"),
)


@cache
def gpu_target(arch: str = "sm_90", multiprocessors: int = 132) -> Target:
    """This machine with such a GPU."""
    return dataclasses.replace(load_target("host"), gpu=Gpu(arch, multiprocessors))


@cache
def driver() -> ctypes.CDLL:
    """The driver that programs of this process get from now on.

    A process has one library of this name, however many files there are.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-shared", "-fPIC", "-O1", "-g0", "-Wl,-soname,libcuda.so.1"]
        output = ["-o", "libcuda.so.1", str(HERE / "fake_libcuda.c"), "-ldl"]
        zig(["cc", *flags, *output], cwd=Path(folder))
        return ctypes.CDLL(f"{folder}/libcuda.so.1")


def emulate(folder: Path) -> Path:
    """Compile ``kernels.cu`` of a folder for the CPU."""
    text = (folder / "kernels.cu").read_text("utf-8")
    rows = [
        f'{{"{name}", (void (*)()){name}, {len(arguments.split(","))}}}'
        for name, arguments in _ENTRY.findall(text)
    ]
    (folder / "emulated.cpp").write_text(
        f'#include "emulated.h"\n{text}\n'
        f'extern "C" const emulated::Kernel kernels[] = {{{", ".join(rows)}, {{}}}};\n'
        'extern "C" int launch(const emulated::Kernel *kernel, const uint32_t *grid, '
        "uint32_t block, uint32_t shared, void **arguments) {\n"
        "  dim3 blocks = {grid[0], grid[1], grid[2]};\n"
        "  return emulated::launch(kernel, blocks, block, shared, arguments);\n"
        "}\n"
    )
    output = [f"-I{HERE}", "-o", "emulated.so", "emulated.cpp"]
    zig(["c++", *_FLAGS, *output], cwd=folder)
    return folder / "emulated.so"


def compiled(
    model: onnx.ModelProto, folder: Path, target: Target | None = None, *, precision: str | None
) -> Program:
    return compile_cuda_program(
        model,
        target or gpu_target(),
        batches=(1,),
        work_dir=folder,
        progress=lambda stage, done, total: None,
        precision=precision,
    )


@contextmanager
def running(library: Path, folder: Path, target: Target | None = None) -> Iterator[Engine]:
    """The program of a folder on a GPU of its kind; all is given back in the end."""
    gpu, fake = (target or gpu_target()).gpu, driver()
    assert gpu is not None
    fake.fake_reset(13000, int(gpu.arch.removeprefix("sm_")))
    fake.fake_kernels(str(emulate(folder)).encode())
    try:
        with Engine(library) as engine:
            yield engine
        assert fake.fake_live() == 0
    finally:
        fake.fake_kernels(None)


def computed(
    model: onnx.ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    folder: Path,
    target: Target | None = None,
    *,
    precision: str | None = None,
    runs: int = 2,
) -> dict[str, NDArray[Any]]:
    """What the CUDA program answers; the second run replays the graph, and must say the same."""
    target = target or gpu_target()
    program = compiled(model, folder, target, precision=precision)
    with running(program.library, folder, target) as engine:
        first = engine.run(feeds)
        for _ in range(runs - 1):
            again = engine.run(feeds)
            for name in first:
                np.testing.assert_array_equal(first[name], again[name])
    assert driver().fake_graph_launches() == runs - 1
    return first

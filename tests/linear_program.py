"""A compiled model written by hand, to test the runtime without a compiler."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek_edge.artifacts import Entry
from deepseek_edge.backends.tvm.link import link_program
from deepseek_edge.target import Target
from deepseek_edge.tensors import TensorSpec
from deepseek_edge.toolchain import zig, zig_triple

SOURCES = Path(__file__).parent / "runtime"
BATCH1 = Entry(
    "batch1",
    (TensorSpec("x", "float32", (1, 256)),),
    (TensorSpec("y", "float32", (1, 512)), TensorSpec("z", "float32", ())),
    (),
)


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W (256, 512) and b (512,): small integers, so that float32 sums are exact in any order."""
    generator = np.random.default_rng(1)
    w = generator.integers(-8, 9, (256, 512)).astype(np.float32)
    return w, generator.integers(-8, 9, 512).astype(np.float32)


def random_input(batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {"x": generator.integers(-8, 9, (batch, 256)).astype(np.float32)}


def expected(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    x = inputs["x"]
    w, b = weights()
    outputs = {"y": np.maximum(x @ w + b, 0)}
    if len(x) == 1:
        # Tensor i of 23 starts 16 floats after the one before; from the 17th on they repeat.
        picked = [x[0, 16 * (i if i < 16 else i - 16)] for i in range(23)]
        outputs["z"] = np.asarray(np.dot(np.arange(1, 24), picked), dtype=np.float32)
    return outputs


def write_sources(directory: Path, features: str = "") -> None:
    """What the code generator leaves in a work directory, but for kernels.o."""
    w, b = weights()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "constants.bin").write_bytes(w.tobytes() + b.tobytes())
    program = (SOURCES / "linear_program.c").read_text(encoding="utf-8")
    (directory / "program.c").write_text(f'#define FEATURES "{features}"\n{program}')
    kernels = (SOURCES / "linear_kernels.c").read_text(encoding="utf-8")
    (directory / "kernels.c").write_text(kernels)


def build(directory: Path, target: Target, features: str = "") -> Path:
    """Compile and link to ``directory / "model.so"``."""
    write_sources(directory, features)
    flags = ["-target", zig_triple(target), "-mcpu=baseline", "-O2", "-fPIC", "-ffp-contract=off"]
    zig(["cc", *flags, "-c", "kernels.c", "-o", "kernels.o"], cwd=directory)
    return link_program(directory, target)

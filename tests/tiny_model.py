"""A model of one layer, and a back end that compiles nothing else: y = relu(W x + b)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.artifacts import Entry, Layers, Program, Step
from deepseek_edge.backends.tvm.link import link_program
from deepseek_edge.target import Target
from deepseek_edge.tensors import TensorSpec
from deepseek_edge.toolchain import zig, zig_triple

IN, OUT = 8, 4
LAYER = Step("/fc/Gemm", "Gemm+Relu", IN * OUT, 4 * (IN + IN * OUT + OUT), 4 * OUT, OUT)

_KERNEL = """
#include <stdint.h>
void layer(const float *x, const float *w, const float *b, float *y, int32_t begin, int32_t end) {
  for (int32_t task = begin; task < end; task++) {
    float sum = b[task % OUT] + ERROR;
    for (int i = 0; i < IN; i++) sum += x[task / OUT * IN + i] * w[task % OUT * IN + i];
    y[task] = sum > 0 ? sum : 0;
  }
}
"""

_PROGRAM = """
#include "dse_program.h"
__asm__(
    ".pushsection .rodata,\\"a\\",%progbits\\n.balign 16384\\n.hidden constants\\n"
    ".globl constants\\nconstants:\\n.incbin \\"constants.bin\\"\\n.popsection\\n");
extern __attribute__((visibility("hidden"))) const unsigned char constants[];
void layer(void);
enum { IN = 8, OUT = 4, BIAS = IN * OUT * 4, Y = 4096, ARENA = 8192 };
static const dse_ref refs[] = {
    {0, DSE_ARENA}, {0, DSE_CONSTANT}, {BIAS, DSE_CONSTANT}, {Y, DSE_ARENA}};
static const dse_step_info infos[] = {{"/fc/Gemm", "Gemm+Relu"}};
#define TENSORS(n) \\
  static const dse_tensor_row x##n[] = {{INPUT, DSE_FLOAT32, 2, {n, IN}, 0, n * IN * 4}}; \\
  static const dse_tensor_row y##n[] = {{OUTPUT, DSE_FLOAT32, 2, {n, OUT}, Y, n * OUT * 4}}; \\
  static const dse_step_row steps##n[] = {{layer, 0, 4, n * OUT, 64}};
#define ENTRY(n) {"batch" #n, x##n, y##n, steps##n, infos, refs, 1, 1, 1},
BATCHES(TENSORS)
static const dse_entry_table entries[] = {BATCHES(ENTRY)};
__attribute__((visibility("hidden"))) const dse_program_table dse_program = {
    DSE_ABI_VERSION, "", ARENA, constants, BIAS + OUT * 4, entries,
    sizeof entries / sizeof *entries, 0, &dse_cpu_executor, NULL};
"""


def parameters() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W (4, 8) and b (4,)."""
    generator = np.random.default_rng(3)
    weights = generator.standard_normal((OUT, IN)).astype(np.float32)
    return weights, generator.standard_normal(OUT).astype(np.float32)


def tiny_onnx(batch: int | str = 1) -> onnx.ModelProto:
    """The model; ``batch`` may be a name, for a dimension that is left open."""
    weights, bias = parameters()
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="/fc/Gemm", transB=1),
            helper.make_node("Relu", ["h"], ["y"], name="/relu/Relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, IN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, OUT])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@dataclass
class TinyBackend:
    """Stands in for TVM: builds a real library of the tiny model with zig.

    Attributes:
        error: added to each sum, so that the library computes something else.
        calls: what it was asked for, in order.
    """

    error: float = 0.0
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def __call__(
        self,
        model: onnx.ModelProto,
        target: Target,
        *,
        batches: tuple[int, ...],
        work_dir: Path,
        progress: Callable[[str, int, int], None],
    ) -> Program:
        assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu"]
        self.calls.append((target.id, batches))
        weights, bias = parameters()
        (work_dir / "constants.bin").write_bytes(weights.tobytes() + bias.tobytes())
        applied = " ".join(f"M({batch})" for batch in batches)
        names = (model.graph.input[0].name, model.graph.output[0].name)
        named = f'#define INPUT "{names[0]}"\n#define OUTPUT "{names[1]}"\n'
        program = f"{named}#define BATCHES(M) {applied}\n{_PROGRAM}"
        (work_dir / "program.c").write_text(program)
        sizes = f"enum {{ IN = {IN}, OUT = {OUT} }};\n#define ERROR {self.error!r}f\n"
        (work_dir / "kernels.c").write_text(sizes + _KERNEL)
        flags = ["-target", zig_triple(target), "-mcpu=baseline", "-O2", "-fPIC"]
        progress("kernels", 0, 1)
        zig(["cc", *flags, "-c", "kernels.c", "-o", "kernels.o"], cwd=work_dir)
        progress("kernels", 1, 1)
        library = link_program(work_dir, target)
        return describe(library, batches, names)


def describe(library: Path, batches: tuple[int, ...], names: tuple[str, str]) -> Program:
    """What a back end says of the library."""
    return Program(
        id="cpu-float32",
        backend="tvm",
        precision="float32",
        library=library,
        entries=tuple(entry(batch, *names) for batch in batches),
        features=(),
        size_bytes=library.stat().st_size,
        code_bytes=64,
        weights_bytes=4 * OUT * (IN + 1),
        arena_bytes=8192,
        layers=Layers(total=1, int8=0, float16=0, float32=1, int8_macs_share=0.0),
    )


def entry(batch: int, x: str, y: str) -> Entry:
    return Entry(
        name=f"batch{batch}",
        inputs=(TensorSpec(x, "float32", (batch, IN)),),
        outputs=(TensorSpec(y, "float32", (batch, OUT)),),
        steps=(LAYER,),
    )

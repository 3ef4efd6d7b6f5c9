"""CUDA programs: the same graph as on the CPU, its kernels for an NVIDIA GPU.

    prepare -> half floats -> schedule -> plan memory -> CUDA C++ -> NVRTC -> link

The library is for the target's CPU; it brings machine code for the target's GPU, and the runtime
launches that through the driver. No GPU is needed here. docs/adr/0012-cuda-programs.md says why
kernels are written as they are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.artifacts import Entry, Layers, Program, Step
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.target import Gpu, Target

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.backends.tvm.cuda.emit import LaunchRow
    from deepseek_edge.backends.tvm.cuda.launch import Board
    from deepseek_edge.backends.tvm.cuda.source import SourceTable
    from deepseek_edge.backends.tvm.emit import EntryTable, StepRow
    from deepseek_edge.backends.tvm.fuse import FusedStep
    from deepseek_edge.backends.tvm.graph import Graph

Progress = Callable[[str, int, int], None]


def compile_cuda_program(
    model: "onnx.ModelProto",
    target: Target,
    *,
    batches: Sequence[int],
    work_dir: Path,
    progress: Progress,
    precision: str | None = None,
) -> Program:
    """Compile a float or Q/DQ model with static shapes to ``work_dir/model.so``.

    Args:
        model: checked; every input's first dimension is the batch.
        target: what to compile for; its ``gpu`` says for which GPU.
        batches: one entry each, which share weights; (1,) keeps the model's own shapes.
        work_dir: an existing folder for the library and everything it is made of.
        progress: told (stage, steps done, steps in all).
        precision: of a float model: "float16" (the default) keeps weights and activations in half
            floats and sums in float32, "float32" is exact to rounding and slow. A Q/DQ model is
            computed on int8, what it leaves float in float32.

    Raises:
        UnsupportedError: the target has no GPU; an operator, attribute or dtype, naming the node.
        ModelError: shapes that aren't static or contradict each other.
        MissingToolError: NVRTC is not installed.
    """
    from deepseek_edge.backends.tvm.cuda.arena import place_counters
    from deepseek_edge.backends.tvm.cuda.emit import write_cuda_program
    from deepseek_edge.backends.tvm.cuda.source import SourceTable
    from deepseek_edge.backends.tvm.emit import Constants

    gpu = _gpu(target)
    kernels, constants = SourceTable(), Constants()
    compiled = [
        _compile_entry(model, target, batch, kernels, progress, precision=precision)
        for batch in batches
    ]
    progress("compile kernels", 0, kernels.count)
    (work_dir / "kernels.cubin").write_bytes(_cubin(kernels, gpu, work_dir))
    tables = place_counters([table for table, _, _, _ in compiled])
    rows = [launches for _, launches, _, _ in compiled]
    write_cuda_program(list(zip(tables, rows, strict=True)), kernels, constants, gpu, work_dir)
    progress("link", 0, 1)
    library = _link(work_dir, target)
    entries = [(entry, layers) for _, _, entry, layers in compiled]
    return _program(library, tables, entries, constants.size_bytes, precision)


def _cubin(kernels: "SourceTable", gpu: Gpu, work_dir: Path) -> bytes:
    """The kernels' machine code, checked; their text stays in the folder."""
    from deepseek_edge.backends.tvm.cuda.cubin import check_cubin
    from deepseek_edge.backends.tvm.cuda.nvrtc import compile_cubin

    text = kernels.text()
    (work_dir / "kernels.cu").write_text(text, encoding="utf-8")
    cubin = compile_cubin(text, gpu.arch)
    check_cubin(cubin, gpu.arch, kernels.names)
    return cubin


def _link(work_dir: Path, target: Target) -> Path:
    """The library, with the launcher besides the runtime."""
    from deepseek_edge.backends.tvm.link import link_program
    from deepseek_edge.toolchain import runtime_sources

    return link_program(
        work_dir,
        target,
        kernels=Path("kernels.cubin"),
        sources=tuple(sorted((runtime_sources() / "cuda").glob("*.c"))),
        libraries=("-ldl",),
    )


def _gpu(target: Target) -> Gpu:
    if target.gpu is None:
        raise UnsupportedError(
            f"target {target.id} has no GPU",
            hint="a CUDA program needs a target with [gpu], e.g. jetson-orin or host-cuda",
        )
    return target.gpu


def _program(
    library: Path,
    tables: "Sequence[EntryTable]",
    compiled: Sequence[tuple[Entry, Layers]],
    weights_bytes: int,
    precision: str | None,
) -> Program:
    """What is known of a linked program; it needs no feature of the CPU."""
    layers, size = compiled[0][1], library.stat().st_size
    kind = "int8" if layers.int8 else precision or "float16"
    return Program(
        id=f"cuda-{kind}",
        backend="tvm",
        precision=kind,
        library=library,
        entries=tuple(entry for entry, _ in compiled),
        features=(),
        size_bytes=size,
        code_bytes=size - weights_bytes,
        weights_bytes=weights_bytes,
        arena_bytes=max(table.arena.size_bytes for table in tables),
        layers=layers,
    )


def _compile_entry(
    model: "onnx.ModelProto",
    target: Target,
    batch: int,
    kernels: "SourceTable",
    progress: Progress,
    *,
    precision: str | None,
) -> "tuple[EntryTable, list[LaunchRow], Entry, Layers]":
    """One batch size: its kernels go into the shared table."""
    from deepseek_edge.backends.tvm import batch_name, prepare, views
    from deepseek_edge.backends.tvm.cuda.arena import plan_arena
    from deepseek_edge.backends.tvm.cuda.half import store_as_half
    from deepseek_edge.backends.tvm.cuda.launch import Board, is_fast
    from deepseek_edge.backends.tvm.cuda.rewrite import for_tensor_cores
    from deepseek_edge.backends.tvm.emit import EntryTable

    def rewrite(graph: "Graph", layers: Layers) -> None:
        if is_fast(target):
            for_tensor_cores(graph, is_half=is_half(layers))

    def is_half(layers: Layers) -> bool:
        return not layers.int8 and precision != "float32"

    graph, fused, layers = prepare(model, target, batch, storage="int8", rewrite=rewrite)
    roots = views(graph)
    board = Board.of(target, is_half=is_half(layers))
    if board.is_half:
        store_as_half(graph, roots)
        layers = Layers(layers.total, 0, layers.total, 0, None)
    rows, launches, steps = _schedule(
        fused, board, kernels, lambda n: progress(f"schedule {batch_name(batch)}", n, len(fused))
    )
    arena = plan_arena(graph, fused, rows, roots)
    table = EntryTable(
        batch_name(batch), tuple(graph.inputs), tuple(graph.outputs), tuple(rows), arena, roots
    )
    specs = [tuple(v.spec for v in values) for values in (graph.inputs, graph.outputs)]
    return table, launches, Entry(table.name, specs[0], specs[1], tuple(steps)), layers


def _schedule(
    fused: "list[FusedStep]",
    board: "Board",
    kernels: "SourceTable",
    progress: Callable[[int], None],
) -> "tuple[list[StepRow], list[LaunchRow], list[Step]]":
    """The step table's rows, how each is launched, and what the manifest says of it."""
    from deepseek_edge.backends.tvm.cuda.emit import LaunchRow
    from deepseek_edge.backends.tvm.cuda.schedules import launch_of
    from deepseek_edge.backends.tvm.emit import StepRow
    from deepseek_edge.backends.tvm.schedules.lowering import Lowering
    from deepseek_edge.backends.tvm.work import describe_step

    rows: list[StepRow] = []
    launches: list[LaunchRow] = []
    steps: list[Step] = []
    for number, step in enumerate(fused):
        progress(number)
        launch = launch_of(step, board)
        lowering = Lowering(None, launch.tensors, launch.blocks, launch.macs)
        work = describe_step(step, lowering, board.target)
        steps.append(work)
        launches.append(
            LaunchRow(kernels.add(launch), launch.grid, launch.threads, launch.shared_bytes)
        )
        rows.append(StepRow("0", launch.tensors, 1, 1, work.name, work.op))
    return rows, launches, steps

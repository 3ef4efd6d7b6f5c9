"""Ahead-of-time compilation for CPUs: ONNX -> shared library, with TVM's TensorIR and LLVM.

    import -> simplify -> channels last -> fuse -> schedule -> plan memory -> emit -> link

Each stage is a plain function in the module of its name; ``compile_program`` is the list.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_edge.artifacts import Entry, Layers, Program, Step
from deepseek_edge.target import Target

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.backends.tvm.choice import Choices
    from deepseek_edge.backends.tvm.emit import EntryTable, StepRow
    from deepseek_edge.backends.tvm.fuse import FusedStep
    from deepseek_edge.backends.tvm.graph import Graph, Value
    from deepseek_edge.backends.tvm.kernels import KernelTable

Progress = Callable[[str, int, int], None]


def compile_program(
    model: "onnx.ModelProto",
    target: Target,
    *,
    batches: Sequence[int],
    work_dir: Path,
    progress: Progress,
    choices: "Choices | None" = None,
) -> Program:
    """Compile a float or Q/DQ model with static shapes to ``work_dir/model.so``.

    Args:
        model: checked; every input's first dimension is the batch.
        target: what to compile for.
        batches: one entry each, which share weights; (1,) keeps the model's own shapes.
        work_dir: an existing folder for the library and everything it is made of.
        progress: told (stage, steps done, steps in all).
        choices: by step key (tuning.py), what a schedule is told to do otherwise.

    Raises:
        UnsupportedError: an operator, attribute or dtype, naming the node.
        ModelError: shapes that aren't static or contradict each other.
    """
    from deepseek_edge.backends.tvm.emit import Constants, write_program
    from deepseek_edge.backends.tvm.kernels import KernelTable, compile_kernels
    from deepseek_edge.backends.tvm.link import link_program

    kernels, constants = KernelTable(), Constants()
    compiled = [
        compile_entry(model, target, batch, kernels, progress, choices=choices or {})
        for batch in batches
    ]
    write_program([table for table, _, _ in compiled], constants, target.features, work_dir)
    progress("compile kernels", 0, len(kernels.functions))
    compile_kernels(kernels, target, work_dir / "kernels.o")
    progress("link", 0, 1)
    return _program(link_program(work_dir, target), target, compiled, constants.size_bytes)


def _program(
    library: Path,
    target: Target,
    compiled: "Sequence[tuple[EntryTable, Entry, Layers]]",
    weights_bytes: int,
) -> Program:
    """What is known of a linked program."""
    layers = compiled[0][2]
    precision = "int8" if layers.int8 else "float32"
    size = library.stat().st_size
    return Program(
        id=f"cpu-{precision}",
        backend="tvm",
        precision=precision,
        library=library,
        entries=tuple(entry for _, entry, _ in compiled),
        features=target.features,
        size_bytes=size,
        code_bytes=size - weights_bytes,
        weights_bytes=weights_bytes,
        arena_bytes=max(table.arena.size_bytes for table, _, _ in compiled),
        layers=layers,
    )


def compile_entry(
    model: "onnx.ModelProto",
    target: Target,
    batch: int,
    kernels: "KernelTable",
    progress: Progress,
    *,
    choices: "Choices",
) -> "tuple[EntryTable, Entry, Layers]":
    """One batch size of :func:`compile_program`: its kernels go into the shared table."""
    from deepseek_edge.backends.tvm.emit import EntryTable
    from deepseek_edge.backends.tvm.memory import lifetimes, plan
    from deepseek_edge.backends.tvm.tuning import with_choices

    graph, fused, layers = prepare(model, target, batch)
    fused = with_choices(fused, choices)
    rows, steps = _lower(
        fused, target, kernels, lambda n: progress(f"schedule {batch_name(batch)}", n, len(fused))
    )
    roots = views(graph)
    live = lifetimes(
        [[value for value in row.tensors if value.data is None] for row in rows],
        [step.outputs for step in fused],
        [*graph.inputs, *graph.outputs],
        roots,
    )
    table = EntryTable(
        batch_name(batch), tuple(graph.inputs), tuple(graph.outputs), tuple(rows), plan(live), roots
    )
    entry = Entry(
        table.name,
        tuple(v.spec for v in graph.inputs),
        tuple(v.spec for v in graph.outputs),
        tuple(steps),
    )
    return table, entry, layers


def prepare(
    model: "onnx.ModelProto",
    target: Target,
    batch: int,
    *,
    storage: str | None = None,
    rewrite: "Callable[[Graph, Layers], None] | None" = None,
) -> "tuple[Graph, list[FusedStep], Layers]":
    """Everything that comes before schedules: the graph, its steps, and how layers compute.

    Args:
        model: as :func:`compile_program` takes it.
        target: likewise.
        batch: of this entry.
        storage: how int8 activations lie in memory; None: as the target's CPU multiplies them.
        rewrite: the last pass before the graph is cut into steps.

    Raises:
        UnsupportedError, ModelError: as :func:`compile_program`.
    """
    from deepseek_edge.backends.tvm.fuse import fuse
    from deepseek_edge.backends.tvm.hoist import hoist_unary
    from deepseek_edge.backends.tvm.importer import import_onnx
    from deepseek_edge.backends.tvm.integer import lower_integers
    from deepseek_edge.backends.tvm.layout import channels_last
    from deepseek_edge.backends.tvm.schedules.dot import integer_unit
    from deepseek_edge.backends.tvm.simplify import own_outputs, simplify
    from deepseek_edge.backends.tvm.upsampling import deconvolutions

    graph = import_onnx(with_batch(model, batch))
    deconvolutions(graph)
    layers = lower_integers(graph, storage or integer_unit(target).storage)
    simplify(graph)
    hoist_unary(graph)
    channels_last(graph)
    if rewrite is not None:
        rewrite(graph, layers)
    own_outputs(graph, [info.name for info in model.graph.output])
    for node in graph.nodes:
        node.attrs["items"] = batch
        node.attrs["is_quantized_graph"] = bool(layers.int8)
    return graph, fuse(graph), layers


def _lower(
    fused: "list[FusedStep]",
    target: Target,
    kernels: "KernelTable",
    progress: Callable[[int], None],
) -> "tuple[list[StepRow], list[Step]]":
    """The step table's rows, and what the manifest says of each."""
    from deepseek_edge.backends.tvm.emit import StepRow
    from deepseek_edge.backends.tvm.schedules import lower
    from deepseek_edge.backends.tvm.schedules.lowering import grain
    from deepseek_edge.backends.tvm.work import describe_step

    rows: list[StepRow] = []
    steps: list[Step] = []
    for number, step in enumerate(fused):
        progress(number)
        lowering = lower(step, target)
        name = kernels.add(lowering.function)
        work = describe_step(step, lowering, target)
        steps.append(work)
        rows.append(
            StepRow(
                name,
                lowering.tensors,
                lowering.tasks,
                grain(lowering, target),
                work.name,
                work.op,
            )
        )
    return rows, steps


def batch_name(batch: int) -> str:
    """The name of the entry for a batch size."""
    return f"batch{batch}"


def with_batch(model: "onnx.ModelProto", batch: int) -> "onnx.ModelProto":
    """The model with the first dimension of every input set to ``batch``; 1 changes nothing.

    Reshapes to a constant shape that begins with 1 follow: it was the batch that was exported.
    """
    if batch == 1:
        return model
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    for info in copy.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name not in weights and len(dims):
            dims[0].dim_value = batch
    shapes = {node.input[1] for node in copy.graph.node if node.op_type == "Reshape"}
    for tensor in copy.graph.initializer:
        sizes = numpy_helper.to_array(tensor).copy() if tensor.name in shapes else None
        if sizes is not None and sizes.size and sizes.flat[0] == 1:
            sizes.flat[0] = batch
            tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))
    del copy.graph.value_info[:]
    return copy


def views(graph: "Graph") -> "dict[Value, Value]":
    """Every reshaped value -> the value whose memory it shares."""
    roots: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op == "Reshape":
            source = node.value(0)
            roots[node.output] = roots.get(source, source)
    return roots

"""``--precision auto``: float32 and INT8 are both compiled, and each layer goes where it is faster.

On the machine that the program is for, the layers' times are measured, and the result is never
slower than the better of the two programs: all are run in turns at the end. For another machine
the times are those of a roofline model.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from deepseek_edge.artifacts import Program
from deepseek_edge.backends.tvm.choice import Choices
from deepseek_edge.parity import Tensors, sample_inputs
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.placement import is_this_machine
from deepseek_edge.pipeline.precision import (
    Basis,
    LayerCost,
    all_float,
    choose_float,
    conversion_s,
    explain,
    layer_seconds,
    model_roof,
)
from deepseek_edge.pipeline.quantizing import Compiled
from deepseek_edge.profiling.comparison import compare_calls, compare_steps
from deepseek_edge.profiling.measure import measure_bandwidths
from deepseek_edge.profiling.roofline import least_s
from deepseek_edge.quantization import QuantizedModel
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.prepare import name_nodes
from deepseek_edge.report import Bandwidth, Roof
from deepseek_edge.target import Target

CompileProgram = Callable[..., Program]


@dataclass(frozen=True)
class Builder:
    """The back end, with all that it needs beside a graph.

    Attributes:
        work_dir: an existing folder.
    """

    compile_program: CompileProgram
    target: Target
    batches: Sequence[int]
    work_dir: Path
    progress: Callable[[str, int, int], None]

    def build(
        self, graph: onnx.ModelProto, folder: str = ".", choices: Choices | None = None
    ) -> Program:
        """Compile a graph in a folder of the work directory, some steps as they are told to.

        Raises:
            UnsupportedError, ModelError: it can't be.
        """
        work_dir = self.work_dir / folder
        work_dir.mkdir(exist_ok=True)
        compile_program = self.compile_program
        if choices is not None:
            compile_program = partial(compile_program, choices=choices)
        return compile_program(
            graph, self.target, batches=self.batches, work_dir=work_dir, progress=self.progress
        )

    def numbered(self, number: int) -> "Builder":
        """The same for a program that isn't the first one: in a folder of its own."""
        if number == 0:
            return self
        folder = self.work_dir / f"again-{number}"
        folder.mkdir(exist_ok=True)
        return replace(self, work_dir=folder)

    def rebuild(self, graph: onnx.ModelProto) -> Program:
        """Compile another form of a graph, beside it; raises what :meth:`build` raises."""
        return self.build(graph, "observed")


def compile_graph(
    precision: str | None,
    model: onnx.ModelProto,
    quantized: QuantizedModel | None,
    builder: Builder,
    narrate: Narrate,
) -> Compiled:
    """Compile a model in the precision that was asked for.

    Args:
        precision: of the request.
        model: with fixed shapes.
        quantized: its INT8 form; None if it is compiled as it is.
        builder: of programs.
        narrate: told lines for a person.

    Raises:
        UnsupportedError, ModelError: it can't be compiled.
    """
    narrate(f"{builder.target.id}: compiling")
    if quantized is None:
        return Compiled(model, None, builder.build(model))
    if precision == "auto":
        return choose_precision(model, quantized, builder, narrate)
    return Compiled(
        quantized.model, quantized, _explained(builder.build(quantized.model), quantized)
    )


@dataclass(frozen=True)
class Clocks:
    """How long things take on the machine that the program is for; replaced in tests.

    Attributes:
        calls: (libraries, inputs) -> seconds of a call of each.
        steps: (libraries, inputs) -> seconds of each step of each.
        bandwidths: (target, threads) -> of caches and memory.
    """

    calls: Callable[[Sequence[Path], Tensors], Sequence[float]] = compare_calls
    steps: Callable[[Sequence[Path], Tensors], Sequence[Sequence[float]]] = compare_steps
    bandwidths: Callable[[Target, int], Sequence[Bandwidth]] = measure_bandwidths


def choose_precision(
    model: onnx.ModelProto,
    quantized: QuantizedModel,
    builder: Builder,
    narrate: Narrate,
    clocks: Clocks | None = None,
) -> Compiled:
    """Compile both, find the layers that are faster in float, and compile the mix.

    Args:
        model: float, with fixed shapes.
        quantized: the same model, as far as accuracy lets it be INT8.
        builder: of programs.
        narrate: told lines for a person.
        clocks: real ones if None.

    Raises:
        UnsupportedError, ModelError: it can't be compiled.
    """
    target = builder.target
    programs = {
        "float32": builder.build(named(model), "float32"),
        "int8": builder.build(quantized.model, "int8"),
    }
    is_measured = is_this_machine(target)
    basis: Basis = "measured" if is_measured else "modelled"
    watch = _Measuring(model, target, clocks or Clocks()) if is_measured else _Modelling(target)
    costs = _layer_costs(quantized, programs, watch)
    mixed = quantized.keep_float(choose_float(costs, basis))
    if mixed.layers and mixed.layers != quantized.layers:
        narrate(f"{target.id}: compiling {len(mixed.layers)} of {len(costs)} layers in int8")
        programs["mixed"] = builder.build(mixed.model, "mixed")
    calls = dict(zip(programs, watch.calls(list(programs.values())), strict=True))
    pure = min(("float32", "int8"), key=lambda name: calls[name])
    best = min(calls, key=lambda name: calls[name])
    layers = explain(programs["float32"].layers, all_float(costs, basis))
    found = Compiled(model, None, replace(programs["float32"], layers=layers))
    if pure == "int8":
        program = _explained(programs[pure], quantized)
        found = Compiled(quantized.model, quantized, program, otherwise=found)
    if best == "mixed":
        program = _explained(programs[best], mixed)
        found = Compiled(mixed.model, mixed, program, otherwise=found)
    return replace(found, notes=(f"auto, {basis}: {best}, of {_times(calls)}",))


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have the names that its quantized form has."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    return copy


def _explained(program: Program, quantized: QuantizedModel) -> Program:
    reasons = {one.name: one.reason for one in quantized.kept_float}
    return replace(program, layers=explain(program.layers, reasons))


@dataclass(frozen=True)
class _Measuring:
    model: onnx.ModelProto
    target: Target
    clocks: Clocks

    def steps(self, programs: Sequence[Program]) -> Sequence[Sequence[float]]:
        return self.clocks.steps([one.library for one in programs], self._inputs(programs))

    def calls(self, programs: Sequence[Program]) -> Sequence[float]:
        return self.clocks.calls([one.library for one in programs], self._inputs(programs))

    def roof(self) -> Roof:
        measured = self.clocks.bandwidths(self.target, len(os.sched_getaffinity(0)))
        return model_roof(self.target, measured)

    def _inputs(self, programs: Sequence[Program]) -> Tensors:
        return sample_inputs(self.model, programs[0].entries[0].inputs, 0)


@dataclass(frozen=True)
class _Modelling:
    target: Target

    def steps(self, programs: Sequence[Program]) -> Sequence[Sequence[float]]:
        roof = self.roof()
        return [[least_s(roof, step) for step in one.entries[0].steps] for one in programs]

    def calls(self, programs: Sequence[Program]) -> Sequence[float]:
        return [sum(seconds) for seconds in self.steps(programs)]

    def roof(self) -> Roof:
        return model_roof(self.target)


def _layer_costs(
    quantized: QuantizedModel,
    programs: Mapping[str, Program],
    watch: _Measuring | _Modelling,
) -> list[LayerCost]:
    index = GraphIndex(quantized.parts.model)
    reasons = {one.name: one.reason for one in quantized.kept_float}
    layers = [node for node in index.nodes if node.name in reasons or node.name in quantized.layers]
    names = [node.name for node in layers]
    both = list(programs.values())
    float_s, int8_s = (
        layer_seconds(names, [step.name for step in one.entries[0].steps], seconds)
        for one, seconds in zip(both, watch.steps(both), strict=True)
    )
    roof = watch.roof()
    return [
        LayerCost(
            name=node.name,
            float_s=float_s[node.name],
            int8_s=int8_s[node.name],
            boundary_s=conversion_s(roof, math.prod(index.shape(node.input[0]))),
            reason=reasons.get(node.name),
        )
        for node in layers
    ]


def _times(calls: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds * 1e3:.3f} ms" for name, seconds in calls.items())

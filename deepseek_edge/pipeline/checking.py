"""Programs are run and compared with their graph."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from deepseek_edge.artifacts import Program
from deepseek_edge.distance import compare_float
from deepseek_edge.errors import ParityError
from deepseek_edge.parity import (
    Reference,
    Tensors,
    check_graph,
    golden_tolerance,
    measure_graph,
    output_steps,
    sample_inputs,
)
from deepseek_edge.pipeline.layer_parity import Call, check_layers, is_mixed, observable
from deepseek_edge.pipeline.placement import Place, estimate_s, open_program
from deepseek_edge.pipeline.plan import PlannedTarget
from deepseek_edge.report import ProgramReport

SAMPLES: Mapping[Place, int] = {"host": 3, "qemu": 1}

Narrate = Callable[[str], None]
Rebuild = Callable[[onnx.ModelProto], Program]


@dataclass(frozen=True)
class CheckedProgram:
    """A program whose outputs were compared with its graph's.

    Attributes:
        inputs, outputs: of one run of the first entry: the artifact's own outputs, or the
            reference's if it was run nowhere.
        call_s: seconds of the first call of each entry, its start included; empty: not run.
        notes: on how it was compared.
    """

    report: ProgramReport
    inputs: Tensors
    outputs: Tensors
    call_s: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tolerances(self) -> dict[str, float]:
        """How far each golden output may be missed elsewhere, absolute."""
        precision = self.report.program.precision
        return {name: golden_tolerance(value, precision) for name, value in self.outputs.items()}


def check_program(
    program: Program,
    one: PlannedTarget,
    model: onnx.ModelProto,
    reference: Reference,
    narrate: Narrate,
    *,
    rebuild: Rebuild | None = None,
) -> CheckedProgram:
    """Run every entry of a program and compare it with its graph (design law 5).

    Three samples an entry on the host, one under emulation. With no place to run it, the
    reference's outputs become the golden ones, and nothing is verified. A program of integer and
    float layers that fails end to end is compared layer by layer if ``rebuild`` can compile it
    with more outputs.

    Raises:
        ParityError: the program computes something else.
    """
    first = sample_inputs(model, program.entries[0].inputs, 0)
    if one.place is None:
        narrate(f"{one.target.id}: NOT RUN")
        return CheckedProgram(ProgramReport(program, None, None, None), first, reference.run(first))
    expected: list[Tensors] = []
    calls: list[Call] = []
    call_s: list[float] = []
    with open_program(program, one.target, one.place) as run:
        for number, entry in enumerate(program.entries):
            told = where(one.place, estimate_s(entry, one.place))
            narrate(f"{one.target.id}: checking {entry.name} on {told}")
            for sample in range(SAMPLES[one.place]):
                inputs = sample_inputs(model, entry.inputs, sample)
                expected.append(reference.run(inputs))
                started = time.perf_counter()
                calls.append(Call(number, inputs, run(inputs, number)))
                if sample == 0:
                    call_s.append(time.perf_counter() - started)
    actual = [call.outputs for call in calls]
    scales = output_steps(model, expected) if program.precision == "int8" else {}
    notes: tuple[str, ...] = ()
    try:
        check_graph(expected, actual, scales=scales, precision=program.precision)
    except ParityError as error:
        if rebuild is None or not is_mixed(program):
            raise
        narrate(f"{one.target.id}: {error}; checking each layer by itself")
        notes = (_by_layer(error, rebuild(observable(model)), one, model, calls),)
    graph = measure_graph(expected, actual, scales=scales, precision=program.precision)
    report = ProgramReport(program, one.place, graph, compare_float(expected, actual))
    return CheckedProgram(report, first, actual[0], tuple(call_s), notes)


def _by_layer(
    error: ParityError,
    observed: Program,
    one: PlannedTarget,
    model: onnx.ModelProto,
    calls: Sequence[Call],
) -> str:
    """Check each layer of a program that failed end to end, and say what was found."""
    assert one.place is not None
    with open_program(observed, one.target, one.place) as run:
        count = check_layers(model, run, calls)
    return (
        f"right layer by layer: each of {count} quantized tensors is what its layer makes of the "
        "program's own integers, to 1/100 step; end to end, where float rounding beside ties is "
        f"amplified, {str(error).removeprefix('parity failed: ')}"
    )


def where(place: Place, duration_s: float) -> str:
    """Where a program runs and, where that takes long, for how long."""
    return "this machine" if place == "host" else f"QEMU, about {duration_s:.0f} s"

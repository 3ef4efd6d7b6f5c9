"""Programs are run: compared with their graph, and judged by their task's metric."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from deepseek_edge.artifacts import Accuracy, Program
from deepseek_edge.datasets import Dataset, load_dataset
from deepseek_edge.errors import AccuracyError, ParityError, UsageError
from deepseek_edge.evaluation import evaluate, load_metric
from deepseek_edge.parity import (
    Reference,
    Tensors,
    check_graph,
    compare_float,
    graph_inputs,
    measure_graph,
    output_steps,
    sample_inputs,
)
from deepseek_edge.pipeline.layer_parity import Call, check_layers, observable
from deepseek_edge.pipeline.placement import Place, estimate_s, open_program
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget
from deepseek_edge.report import ProgramReport

SAMPLES: Mapping[Place, int] = {"host": 3, "qemu": 1}
# An evaluation under emulation that takes longer must be asked for: by a gate, which needs it.
EMULATED_EVALUATION_S = 120.0

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
            where = _where(one.place, estimate_s(entry, one.place))
            narrate(f"{one.target.id}: checking {entry.name} on {where}")
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
        check_graph(expected, actual, scales=scales)
    except ParityError as error:
        if rebuild is None or not (program.layers.int8 and program.layers.float32):
            raise
        narrate(f"{one.target.id}: {error}; checking each layer by itself")
        notes = (_by_layer(error, check_layers(model, rebuild(observable(model)), one, calls)),)
    graph = measure_graph(expected, actual, scales=scales)
    report = ProgramReport(program, one.place, graph, compare_float(expected, actual))
    return CheckedProgram(report, first, actual[0], tuple(call_s), notes)


def _by_layer(error: ParityError, count: int) -> str:
    return (
        f"right layer by layer: each of {count} quantized tensors is what its layer makes of the "
        "program's own integers, to 1/100 step; end to end, where float rounding beside ties is "
        f"amplified, {str(error).removeprefix('parity failed: ')}"
    )


def _where(place: Place, duration_s: float) -> str:
    return "this machine" if place == "host" else f"QEMU, about {duration_s:.0f} s"


@dataclass(frozen=True)
class Evaluation:
    """Labelled data, and what the float model makes of it.

    Attributes:
        of_float: the metric of the float model, in percent.
    """

    dataset: Dataset
    metric: str
    of_float: float


def prepare_evaluation(
    request: CompileRequest, model: onnx.ModelProto, reference: Reference
) -> Evaluation | None:
    """Load the data set of a request, or refuse it, before anything is compiled.

    Raises:
        UsageError: it has no labels, is for calibration, doesn't fit the model's inputs, or
            there is no entry for one sample.
    """
    if request.evaluation is None:
        return None
    dataset = load_dataset(request.evaluation)
    if dataset.split == "calibration":
        raise UsageError(
            f"{dataset.id} is for calibration: accuracy on it means nothing",
            hint="give another data set to --eval",
        )
    if dataset.targets is None:
        raise UsageError(f"{dataset.id} has no labels", hint="give labelled data to --eval")
    metric = request.metric or dataset.metric
    load_metric(metric)
    if 1 not in request.batches:
        raise UsageError("--eval runs one sample at a time", hint="add 1 to --batch")
    shapes = {spec.name: spec.shape for spec in graph_inputs(model)}
    dataset = dataset.for_inputs(tuple(shapes))
    for name, value in dataset.sample(0).items():
        if value.shape != shapes[name]:
            raise UsageError(
                f"a sample of {dataset.id} is {list(value.shape)}, input {name!r} of the model "
                f"takes {list(shapes[name])}",
                hint="the data set belongs to another model, or --shape is wrong",
            )
    of_float, _, _ = evaluate(reference.run, dataset, metric)
    return Evaluation(dataset, metric, of_float)


def judge(
    request: CompileRequest,
    evaluation: Evaluation | None,
    checked: CheckedProgram,
    one: PlannedTarget,
    *,
    narrate: Narrate,
) -> tuple[Accuracy | None, tuple[str, ...]]:
    """Measure the task metric on the artifact, and apply the gate.

    Under emulation only if that takes at most two minutes, or if a gate needs it.

    Returns:
        The accuracy, and notes on why there is none.

    Raises:
        AccuracyError: more is lost than ``request.max_drop_pp``.
    """
    if evaluation is None:
        return None, ()
    if one.place is None:
        return None, ("accuracy was not measured: the program was run nowhere",)
    dataset, metric, of_float = evaluation.dataset, evaluation.metric, evaluation.of_float
    number = request.batches.index(1)
    program = checked.report.program
    # The first emulated call may have built the emulator's loader, so the estimate may be nearer.
    call_s = min(checked.call_s[number], estimate_s(program.entries[number], "qemu"))
    duration_s = len(dataset) * call_s
    forced = one.place == "host" or request.max_drop_pp is not None
    if duration_s > EMULATED_EVALUATION_S and not forced:
        note = (
            f"accuracy was not measured: {len(dataset)} samples take about {duration_s:.0f} s "
            "under QEMU; --max-drop PP measures it nevertheless"
        )
        narrate(f"{one.target.id}: {note}")
        return None, (note,)
    where = _where(one.place, duration_s)
    narrate(f"{one.target.id}: {len(dataset)} samples of {dataset.id} on {where}")
    with open_program(program, one.target, one.place) as run:
        compiled, count, ci_pp = evaluate(lambda inputs: run(inputs, number), dataset, metric)
    drop_pp = of_float - compiled
    if request.max_drop_pp is not None and drop_pp > request.max_drop_pp:
        raise AccuracyError(
            f"{one.target.id} loses {drop_pp:.2f} pp of {metric} ({of_float:.2f} to "
            f"{compiled:.2f} %), {request.max_drop_pp} pp are allowed",
            hint="raise --max-drop, or compile with a higher --precision",
        )
    return Accuracy(metric, count, of_float, compiled, drop_pp, ci_pp), ()

"""The gate: an artifact that loses more than was promised is made in another way, or refused."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from deepseek_edge.artifacts import Accuracy, Rung
from deepseek_edge.errors import AccuracyError
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline.accuracy import measure_accuracy
from deepseek_edge.pipeline.checking import CheckedProgram, Narrate
from deepseek_edge.pipeline.choosing import Builder
from deepseek_edge.pipeline.evaluating import Evaluation, Judges
from deepseek_edge.pipeline.ladder import ON_THE_GRAPH, Way, describe_rung, next_way, tabulate
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget
from deepseek_edge.pipeline.quantizing import Compiled, Origin
from deepseek_edge.pipeline.workspace import Stopwatch
from deepseek_edge.quantization import QuantizedModel


@dataclass(frozen=True)
class Job:
    """One target's program, to be made.

    Attributes:
        origin: the model as it was given.
        build: the back end.
        clock: told how long the stages take.
        narrate: told lines for a person.
    """

    request: CompileRequest
    one: PlannedTarget
    origin: Origin
    build: Builder
    clock: Stopwatch
    narrate: Narrate


# (job, a Q/DQ graph or None for the model as it is, how many were made before) -> checked program
Make = Callable[[Job, QuantizedModel | None, int], tuple[Compiled, CheckedProgram]]


@dataclass(frozen=True)
class Passed:
    """A program that keeps what was promised, if anything was.

    Attributes:
        accuracy: None if it wasn't measured.
        notes: for the reader of the report.
        ladder: every measurement of a way to quantize, in order; empty without a gate.
    """

    compiled: Compiled
    checked: CheckedProgram
    accuracy: Accuracy | None
    notes: tuple[str, ...]
    ladder: tuple[Rung, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A form of the model: one way to quantize it, or neither: as it was given."""

    way: Way | None
    quantized: QuantizedModel | None

    @property
    def name(self) -> str:
        return "as given" if self.way is None else self.way.name


def pass_gate(job: Job, judges: Judges, make: Make) -> Passed:
    """Make the program as asked, and while it loses too much, in the next way of the ladder.

    A way that gives a graph which was tried already is passed over.

    Raises:
        AccuracyError: the last way loses too much as well; it says what was tried.
        ParityError: a program computes something else than its graph.
    """
    ladder: list[Rung] = []
    tried: list[tuple[Way, float]] = []
    made: list[tuple[QuantizedModel, float]] = []
    way = job.origin.first_way
    while True:
        with job.clock.stage("quantize"):
            quantized = job.origin.quantized_for(job.one.target, way, job.build.progress)
        drop_pp = next((pp for one, pp in made if one.model == _model(quantized)), None)
        if drop_pp is not None:
            job.narrate(f"{job.one.target.id}: it changes nothing")
        else:
            passed = _try(job, judges, make, _Candidate(way, quantized), ladder)
            if passed is not None:
                return replace(passed, ladder=tuple(ladder))
            drop_pp = ladder[-1].accuracy.drop_pp
        # Data that were kept for a verdict give no second choice.
        is_final = judges.validation is not None and ladder[-1].measured_on != ON_THE_GRAPH
        if way is None or quantized is None or is_final:
            raise _refusal(job, ladder)
        tried.append((way, drop_pp))
        made.append((quantized, drop_pp))
        way = next_way(tried, can_train=job.origin.can_train)
        if way is None:
            raise _refusal(job, ladder)
        job.narrate(f"{job.one.target.id}: too much; next: {way.name}")


def _model(quantized: QuantizedModel | None) -> onnx.ModelProto | None:
    return None if quantized is None else quantized.model


def _try(
    job: Job, judges: Judges, make: Make, candidate: _Candidate, ladder: list[Rung]
) -> Passed | None:
    """The program of one way, or None if it loses too much; what is found goes on the ladder."""
    number, quantized = len(ladder), candidate.quantized
    screen, of_graph = _screen(job, judges), None
    if screen is not None and quantized is not None:
        rung = _try_graph(job, screen, candidate.name, quantized)
        if not _add(job, rung, ladder):
            return None
        of_graph = rung.accuracy if screen is judges.evaluation else None
    compiled, checked = make(job, quantized, number)
    if quantized is None or compiled.graph is not quantized.model:
        of_graph = None
    with job.clock.stage("evaluation"):
        found, notes = measure_accuracy(
            job.request,
            judges.evaluation,
            checked,
            job.one,
            graph=compiled.graph,
            of_graph=of_graph,
            narrate=job.narrate,
        )
    passed = Passed(compiled, checked, found, notes)
    if found is None or judges.evaluation is None or job.request.max_drop_pp is None:
        return passed
    rung = Rung(
        name=candidate.name,
        dataset=judges.evaluation.dataset.id,
        measured_on=_measured_on(job, found),
        accuracy=found,
        int8_macs_share=compiled.program.layers.int8_macs_share,
        kept_float=() if compiled.quantized is None else tuple(compiled.quantized.parts.excluded),
        is_kept=_is_kept(job, found),
    )
    return passed if _add(job, rung, ladder) else None


def _try_graph(job: Job, screen: Evaluation, name: str, quantized: QuantizedModel) -> Rung:
    job.narrate(f"{job.one.target.id}: trying {name} on {screen.dataset.id}")
    with job.clock.stage("evaluation"):
        accuracy = screen.judge(Reference(quantized.model).run)
    return Rung(
        name=name,
        dataset=screen.dataset.id,
        measured_on=ON_THE_GRAPH,
        accuracy=accuracy,
        int8_macs_share=quantized.int8_macs_share,
        kept_float=tuple(quantized.parts.excluded),
        is_kept=_is_kept(job, accuracy),
    )


def _screen(job: Job, judges: Judges) -> Evaluation | None:
    """What a way is tried on before anything is compiled, if that is worth it."""
    if job.request.max_drop_pp is None or judges.evaluation is None:
        return None
    is_slow = job.one.place != "host" or job.request.tune_minutes is not None
    return judges.validation or (judges.evaluation if is_slow else None)


def _measured_on(job: Job, accuracy: Accuracy) -> str:
    found, place = accuracy.agreement, str(job.one.place)
    is_graphs = found is not None and found.same == found.samples
    return f"{ON_THE_GRAPH} and {place}" if is_graphs else place


def _is_kept(job: Job, accuracy: Accuracy) -> bool:
    promised = job.request.max_drop_pp
    return promised is None or accuracy.drop_pp <= promised


def _add(job: Job, rung: Rung, ladder: list[Rung]) -> bool:
    """Write a rung down, tell it, and say whether it keeps the promise."""
    ladder.append(rung)
    job.narrate(f"{job.one.target.id}: {describe_rung(rung)}")
    return rung.is_kept


def _refusal(job: Job, ladder: list[Rung]) -> AccuracyError:
    last = ladder[-1].accuracy
    hint = "raise --max-drop, or compile with a higher --precision"
    if job.request.recipe is not None and job.request.recipe.prune is not None:
        hint += ", or prune less and fine-tune longer"
    if job.origin.calibration is not None and not job.origin.can_train:
        hint += ", or train the quantized model: a --recipe with [qat]"
    return AccuracyError(
        f"{job.one.target.id} loses {last.drop_pp:.2f} pp of {last.metric} ({last.float:.2f} to "
        f"{last.compiled:.2f} %), {job.request.max_drop_pp} pp are allowed",
        rows=tabulate(ladder) if len(ladder) > 1 else (),
        hint=hint,
    )

"""INT8 in a compile: calibration data in, one Q/DQ graph for each kind of target out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from deepseek_edge.artifacts import LayerError, Program, Step
from deepseek_edge.datasets import Dataset, check_disjoint, load_dataset
from deepseek_edge.distance import compare_float
from deepseek_edge.errors import ModelError, ParityError, UsageError
from deepseek_edge.integer_form import is_quantized
from deepseek_edge.parity import Reference, Tensors
from deepseek_edge.pipeline.checking import CheckedProgram, Narrate, Rebuild, check_program
from deepseek_edge.pipeline.evaluating import Evaluation
from deepseek_edge.pipeline.given import FineTune, Given, Progress
from deepseek_edge.pipeline.ladder import Way
from deepseek_edge.pipeline.placement import Place, open_program
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.quantization.config import Scheme
from deepseek_edge.quantization.layer_errors import layer_errors
from deepseek_edge.quantization.quantizer import QuantizedModel, load_samples
from deepseek_edge.target import Target


def _silent(*_: object) -> None:
    pass


# Rounding keeps every live tensor of every sample in memory; more than this changes little.
DEFAULT_SAMPLES = 128
# That the artifact is compared with the float model on.
_COMPARED: Mapping[Place, int] = {"host": 8, "qemu": 1}


@dataclass(frozen=True)
class Calibration:
    """Data to take ranges from, and the graphs that were made with it.

    Attributes:
        samples: in memory, with a batch of 1.
        config: its scheme is the target's.
        fine_tune: quantization-aware training; None without data for it.
        trains_first: it is what was asked for, not what is left when all else fails.
    """

    model: onnx.ModelProto
    dataset: Dataset
    samples: Sequence[Tensors]
    config: QuantConfig = field(default_factory=QuantConfig)
    fine_tune: FineTune | None = None
    trains_first: bool = False
    _quantizers: dict[QuantConfig, Quantizer] = field(
        default_factory=dict, repr=False, compare=False
    )
    _graphs: dict[Way, QuantizedModel] = field(default_factory=dict, repr=False, compare=False)
    _errors: list[tuple[QuantizedModel, tuple[LayerError, ...]]] = field(
        default_factory=list, repr=False, compare=False
    )

    @property
    def first_way(self) -> Way:
        """What was asked for."""
        return Way(self.config, is_trained=self.trains_first)

    def quantized_for(
        self, target: Target, way: Way | None = None, progress: Progress = _silent
    ) -> QuantizedModel:
        """The Q/DQ graph for a target; targets that allow the same zero points share one.

        Args:
            target: says the scheme.
            way: what was asked for if None.
            progress: told (stage, done, total).

        Raises:
            InputError: the data can't serve.
            UnsupportedError: the graph's opset can't be converted, or a node can't be trained.
            TrainingError: the training failed.
        """
        way = way or self.first_way
        scheme: Scheme = "asymmetric" if target.qdq.zero_point else "symmetric"
        return self._quantized(
            replace(way, config=replace(way.config, quant_scheme=scheme)), progress
        )

    def _quantized(self, way: Way, progress: Progress) -> QuantizedModel:
        if way not in self._graphs:
            self._graphs[way] = self._quantize(way, progress)
        return self._graphs[way]

    def _quantize(self, way: Way, progress: Progress) -> QuantizedModel:
        if way.budget:
            whole = self._quantized(replace(way, budget=0.0), progress)
            return whole.keep_costly_float(self.samples, way.budget, progress=progress)
        if way.is_trained:
            assert self.fine_tune is not None
            return self.fine_tune(
                self._quantized(replace(way, is_trained=False), progress), progress
            )
        # Budgets share the ranges and sensitivities that are found once.
        shared = replace(way.config, float_budget=0.0)
        if shared not in self._quantizers:
            quantizer = Quantizer(self.model, shared, progress=progress)
            self._quantizers[shared] = quantizer.calibrate(list(self.samples))
        return self._quantizers[shared].quantize(float_budget=way.config.float_budget)

    def errors_of(self, quantized: QuantizedModel) -> tuple[LayerError, ...]:
        """Where the error enters a graph; computed once for all targets that share it."""
        for known, errors in self._errors:
            if known is quantized:
                return errors
        self._errors.append((quantized, layer_errors(quantized, self.samples)))
        return self._errors[-1][1]


def check_precision(request: CompileRequest, model: onnx.ModelProto) -> None:
    """Refuse a precision that the graph or the request doesn't allow, before anything runs.

    Raises:
        UsageError: INT8 without data.
        ModelError: a graph that is quantized already is to be calibrated, or to be float.
    """
    if is_quantized(model):
        if request.has_data or request.precision in ("auto", "float32"):
            raise ModelError(
                "the model is quantized already: there is nothing to calibrate or to choose",
                hint="leave --calib and --precision out, or give the float model",
            )
    elif request.precision in ("int8", "auto") and not request.has_data:
        raise UsageError(
            "INT8 needs data that the activations' ranges are taken from",
            hint="--calib SOURCE: an .npz, a data set's id, or a folder of images; without "
            "--precision the graph is compiled as it is",
        )


def prepare_calibration(
    request: CompileRequest, given: Given, evaluation: Evaluation | None
) -> Calibration | None:
    """Load the calibration data of an INT8 request, or refuse it, before anything is compiled.

    Args:
        request: as given.
        given: the model, and data if the request names none.
        evaluation: what accuracy is measured on, if anything.

    Returns:
        None if the graph stays as it is: float, or quantized already.

    Raises:
        UsageError: data for evaluation only, or shared with the evaluation.
    """
    asked = request.precision in ("int8", "auto") and request.has_data
    if not asked or is_quantized(given.model):
        return None
    if request.calibration is None:
        assert given.calibration is not None
        dataset = given.calibration
    else:
        dataset = _load_calibration(request.calibration, request, evaluation)
    return Calibration(
        model=given.model,
        dataset=dataset,
        samples=load_samples(given.model, dataset, request.samples or DEFAULT_SAMPLES),
        config=request.quantization or QuantConfig(),
        fine_tune=given.fine_tune,
        trains_first=given.trains_first,
    )


def _load_calibration(
    source: str, request: CompileRequest, evaluation: Evaluation | None
) -> Dataset:
    dataset = load_dataset(source, preprocess=request.preprocess)
    if dataset.split == "evaluation":
        raise UsageError(
            f"{dataset.id} is for evaluation: calibrated on it, a model's accuracy on it is not "
            "what others will see",
            hint="give another data set to --calib",
        )
    if evaluation is not None:
        check_disjoint(dataset, evaluation.dataset)
    return dataset


@dataclass(frozen=True)
class Origin:
    """The model that was asked for, as it was given.

    Attributes:
        model: with fixed shapes.
        reference: runs it.
        calibration: what quantizes it; None if it is compiled as it is.
    """

    model: onnx.ModelProto
    reference: Reference
    calibration: Calibration | None

    @property
    def first_way(self) -> Way | None:
        """To quantize it; None if it is compiled as it is."""
        return None if self.calibration is None else self.calibration.first_way

    @property
    def can_train(self) -> bool:
        """There are data for quantization-aware training."""
        return self.calibration is not None and self.calibration.fine_tune is not None

    def quantized_for(
        self, target: Target, way: Way | None, progress: Progress
    ) -> QuantizedModel | None:
        """None without calibration; raises what :meth:`Calibration.quantized_for` raises."""
        if self.calibration is None:
            return None
        return self.calibration.quantized_for(target, way, progress)


@dataclass(frozen=True)
class Compiled:
    """What became of a model.

    Attributes:
        graph: that ``program`` was compiled from.
        quantized: what wrote ``graph``; None if that is the model as it was given.
        notes: on how it was chosen.
        otherwise: what to take if this one doesn't compute what its graph says.
        is_tuned: schedules were told what to do.
        rebuild: compiles another form of the graph as this one was, if that isn't the usual way.
    """

    graph: onnx.ModelProto
    quantized: QuantizedModel | None
    program: Program
    notes: tuple[str, ...] = ()
    otherwise: "Compiled | None" = None
    is_tuned: bool = False
    rebuild: Rebuild | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of the program's first entry."""
        return self.program.entries[0].steps


def check_best(
    compiled: Compiled,
    one: PlannedTarget,
    origin: Origin,
    narrate: Narrate,
    rebuild: Rebuild | None = None,
) -> tuple[Compiled, CheckedProgram]:
    """Check a program, and the one in its place if it fails; a note says that it was so.

    Args, Raises:
        As :func:`check_against_origin`, of the last one.
    """
    # A tuned program is rebuilt with its own choices: another one says nothing of it.
    again = compiled.rebuild or rebuild
    try:
        return compiled, check_against_origin(compiled, one, origin, narrate, again)
    except ParityError as error:
        if compiled.otherwise is None:
            raise
        kind = "tuned" if compiled.is_tuned else compiled.program.precision
        note = f"the {kind} program was dropped: {error}"
        narrate(f"{one.target.id}: {note}")
        other = replace(compiled.otherwise, notes=(*compiled.notes, note))
        return check_best(other, one, origin, narrate, rebuild)


def check_against_origin(
    compiled: Compiled,
    one: PlannedTarget,
    origin: Origin,
    narrate: Narrate,
    rebuild: Rebuild | None = None,
) -> CheckedProgram:
    """Compare a program with its graph, and with the float model on data that this came from.

    Args:
        compiled: for ``one``.
        one: the target, and where to run it.
        origin: of the graph.
        narrate: told lines for a person.
        rebuild: compiles another graph for the same target, where layers must be compared.

    Raises:
        ParityError: the program computes something else than its graph.
    """
    calibration, quantized = origin.calibration, compiled.quantized
    program, graph = compiled.program, compiled.graph
    if calibration is None or quantized is None:
        return check_program(program, one, graph, origin.reference, narrate, rebuild=rebuild)
    checked = check_program(program, one, graph, Reference(graph), narrate, rebuild=rebuild)
    errors = calibration.errors_of(quantized)
    checked = replace(checked, report=replace(checked.report, layer_errors=errors))
    shapes = {spec.name: spec.shape for spec in program.entries[0].inputs}
    fits = all(value.shape == shapes[name] for name, value in calibration.samples[0].items())
    if one.place is None or not fits:
        return checked
    samples = calibration.samples[: _COMPARED[one.place]]
    expected = [origin.reference.run(sample) for sample in samples]
    with open_program(program, one.target, one.place) as run:
        actual = [run(sample, 0) for sample in samples]
    distance = compare_float(expected, actual)
    return replace(checked, report=replace(checked.report, parity_float=distance))

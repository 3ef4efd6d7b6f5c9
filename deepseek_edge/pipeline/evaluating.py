"""Labelled data, and the task's metric of the float model on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from deepseek_edge.artifacts import Accuracy
from deepseek_edge.datasets import Dataset, load_dataset
from deepseek_edge.errors import UsageError
from deepseek_edge.evaluation import Evaluated, compare, evaluate
from deepseek_edge.parity import Reference, Tensors, graph_inputs
from deepseek_edge.pipeline.given import Given
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.task_metrics import load_metric


@dataclass(frozen=True)
class Evaluation:
    """Labelled data, and what the float model makes of it."""

    dataset: Dataset
    of_float: Evaluated

    def judge(self, run: Callable[[dict[str, Any]], Tensors]) -> Accuracy:
        """Compare another form of the model with the float one, on the same samples.

        Args:
            run: inputs by name, with a batch of 1, to outputs by name.
        """
        return self.compare(evaluate(run, self.dataset, self.of_float.metric.name))

    def compare(self, compiled: Evaluated, indices: Sequence[int] | None = None) -> Accuracy:
        """What was made of the model beside the float model.

        Args:
            compiled: on the same samples.
            indices: of those, if it isn't all of them.
        """
        of_float = self.of_float
        if indices is not None:
            of_float = replace(of_float, kept=tuple(of_float.kept[index] for index in indices))
        drop = compare(of_float, compiled)
        return Accuracy(
            metric=of_float.metric.name,
            samples=len(compiled.kept),
            float=of_float.percent,
            compiled=compiled.percent,
            drop_pp=drop.pp,
            ci_pp=drop.ci_pp,
        )


@dataclass(frozen=True)
class Judges:
    """Data with what the float model makes of them.

    Attributes:
        evaluation: that the artifact is judged on; None: it isn't.
        validation: that ways to quantize are chosen on; None: they are chosen on ``evaluation``,
            which makes its figure a little too good.
    """

    evaluation: Evaluation | None = None
    validation: Evaluation | None = None


def prepare_judges(request: CompileRequest, given: Given) -> Judges:
    """Load the data set of a request, or refuse it, and run the float model, before any compile.

    Args:
        request: as given.
        given: the model, what it was before it was pruned, and data to choose on.

    Raises:
        UsageError: it has no labels, is for calibration, doesn't fit the model's inputs, or
            there is no entry for one sample.
    """
    if request.evaluation is None:
        return Judges()
    dataset = load_evaluation(request, request.evaluation)
    model = given.unpruned or given.model
    metric, reference = request.metric or dataset.metric, Reference(model)
    evaluation = evaluation_on(dataset, metric, model, reference)
    if given.validation is None or request.max_drop_pp is None:
        return Judges(evaluation)
    return Judges(evaluation, evaluation_on(given.validation, metric, model, reference))


def load_evaluation(request: CompileRequest, source: str) -> Dataset:
    """Load the data that a request is judged on.

    Raises:
        UsageError: as :func:`prepare_judges`.
    """
    dataset = load_dataset(source)
    if dataset.split == "calibration":
        raise UsageError(
            f"{dataset.id} is for calibration: accuracy on it means nothing",
            hint="give another data set to --eval",
        )
    if dataset.targets is None:
        raise UsageError(f"{dataset.id} has no labels", hint="give labelled data to --eval")
    if 1 not in request.batches:
        raise UsageError("--eval runs one sample at a time", hint="add 1 to --batch")
    return dataset


def evaluation_on(
    dataset: Dataset, metric: str, model: onnx.ModelProto, reference: Reference
) -> Evaluation:
    """Run the float model on a data set.

    Raises:
        UsageError: no such metric, or the data don't fit the model's inputs.
    """
    load_metric(metric)
    dataset = fit(dataset, model)
    return Evaluation(dataset, evaluate(reference.run, dataset, metric))


def fit(dataset: Dataset, model: onnx.ModelProto) -> Dataset:
    """A data set for a model's inputs.

    Raises:
        UsageError: they have other names or shapes.
    """
    shapes = {spec.name: spec.shape for spec in graph_inputs(model)}
    dataset = dataset.for_inputs(tuple(shapes))
    for name, value in dataset.sample(0).items():
        if value.shape != shapes[name]:
            raise UsageError(
                f"a sample of {dataset.id} is {list(value.shape)}, input {name!r} of the model "
                f"takes {list(shapes[name])}",
                hint="the data set belongs to another model, or --shape is wrong",
            )
    return dataset

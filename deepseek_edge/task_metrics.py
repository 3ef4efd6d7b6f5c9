"""Metrics of a task: what is kept of each sample, and the figure that samples make together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UsageError
from deepseek_edge.importing import import_function, is_function_reference

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Tensors = Mapping[str, Array]
    # How often each sample counts, (n,), to the metric, 0 to 1.
    Figure = Callable[[Array], float]

# Scores this near count the same: a hundredth of a percentage point, as reports show them.
SAME_SCORE = 1e-4

METRICS = ("top1", "top5", "f1", "map", "map50")


@dataclass(frozen=True)
class Metric:
    """A metric that need not be a mean of scores.

    Attributes:
        name: as the command line takes it.
        keep: (outputs of one sample by name, its label (1, ...)) -> what to keep of them.
        pool: (what was kept of n samples) -> the metric, 0 to 1, as a function of how often each
            sample counts. So an interval by resampling runs no model again.
        is_mean: ``keep`` gives a score from 0 to 1, and the metric is the mean of those.
        is_same: whether what was kept of one sample, of two models, counts the same but for
            float rounding.
    """

    name: str
    keep: Callable[[Tensors, Array], Any]
    pool: Callable[[Sequence[Any]], Figure]
    is_mean: bool = False
    is_same: Callable[[Any, Any], bool] = operator.eq


def load_metric(name: str) -> Metric:
    """The metric of a name.

    Args:
        name: "top1", "top5", "f1" (macro), "map" (COCO's mean average precision, IoU 0.50 to
            0.95), "map50" (IoU 0.50), or "package.module:function" that takes outputs by name
            (n, ...) and labels (n, ...) and returns each sample's score from 0 to 1, shape (n,).

    Raises:
        UsageError: no such metric.
    """
    if name in {"top1", "top5"}:
        count = int(name.removeprefix("top"))
        return _mean(name, lambda outputs, labels: top_k(outputs, labels, count))
    if name == "f1":
        return Metric(name, keep_classes, pool_f1)
    if name in {"map", "map50"}:
        from deepseek_edge.detection import (
            IOUS,
            has_same_matches,
            keep_matches,
            pool_average_precision,
        )

        ious = IOUS if name == "map" else IOUS[:1]
        return Metric(
            name,
            lambda outputs, labels: keep_matches(outputs, labels, ious),
            pool_average_precision,
            is_same=lambda first, second: has_same_matches(first, second, SAME_SCORE),
        )
    if is_function_reference(name):
        return _mean(name, import_function(name))
    raise UsageError(
        f"there is no metric {name}", hint=f"{', '.join(METRICS)}, or package.module:function"
    )


def _mean(name: str, score: Callable[[Tensors, Array], Array]) -> Metric:
    import numpy as np

    def keep(outputs: Tensors, labels: Array) -> float:
        value = np.asarray(score(outputs, labels))
        if value.shape != (1,) or not 0.0 <= value[0] <= 1.0:
            raise UsageError(
                f"metric {name} returned {value!r} for one sample",
                hint="return an array of one score from 0 to 1 for each sample",
            )
        return float(value[0])

    return Metric(name, keep, _pool_mean, is_mean=True, is_same=_has_same_score)


def _has_same_score(first: float, second: float) -> bool:
    return abs(first - second) <= SAME_SCORE


def _pool_mean(scores: Sequence[float]) -> Figure:
    import numpy as np

    values = np.asarray(scores, np.float64)
    return lambda counts: float(values @ counts / counts.sum())


def top_k(outputs: Tensors, labels: Array, k: int) -> Array:
    """Whether the label is among the k largest values of the first output.

    Args:
        outputs: the first one is (n, classes), or (n, classes, 1, 1).
        labels: (n,) class indices.
        k: how many may compete; of equal values the lower index counts as larger.

    Returns:
        (n,) float64, 0 or 1.

    Raises:
        UsageError: labels are no class indices, or one lies outside the classes.
    """
    import numpy as np

    logits = _logits(outputs, labels)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    hits: Array = (best == labels[:, None]).any(axis=1).astype(np.float64)
    return hits


def _logits(outputs: Tensors, labels: Array) -> Array:
    """The first output, (n, classes)."""
    if labels.ndim != 1:
        raise UsageError(
            f"labels of shape {list(labels.shape)} are no class indices",
            hint="--metric map is for boxes",
        )
    logits = next(iter(outputs.values()))
    logits = logits.reshape(len(labels), -1)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(
            f"a label is {int(labels.max())}, but the model has {logits.shape[1]} classes",
            hint="the data set belongs to another model",
        )
    return logits


def keep_classes(outputs: Tensors, labels: Array) -> tuple[int, int]:
    """The class of the largest value of the first output, and the one that is right.

    Args:
        outputs: of one sample; the first one is (1, classes), or (1, classes, 1, 1).
        labels: (1,) class index.

    Raises:
        UsageError: as :func:`top_k`.
    """
    return int(_logits(outputs, labels)[0].argmax()), int(labels[0])


def pool_f1(kept: Sequence[tuple[int, int]]) -> Figure:
    """Macro-averaged F1: the mean over classes of 2 TP / (2 TP + FP + FN).

    A class that is neither predicted nor right counts for nothing. Y. Yang and X. Liu, A
    re-examination of text categorization methods (SIGIR 1999).

    Args:
        kept: (predicted class, right class) of each sample.
    """
    import numpy as np

    predicted, right = np.asarray(kept, np.int64).T
    classes = int(max(predicted.max(), right.max())) + 1

    def figure(counts: Array) -> float:
        hits = np.bincount(right, counts * (predicted == right), classes)
        # 2 TP + FP + FN: each class as often as it was predicted, and as often as it was right.
        both = np.bincount(predicted, counts, classes) + np.bincount(right, counts, classes)
        return float((2 * hits[both > 0] / both[both > 0]).mean())

    return figure

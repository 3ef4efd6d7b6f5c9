"""Task metrics of a program on labelled data, with their confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UsageError
from deepseek_edge.importing import import_function, is_function_reference

if TYPE_CHECKING:
    import numpy as np

    from deepseek_edge.datasets import Dataset

    Tensors = Mapping[str, np.ndarray[Any, Any]]
    # Outputs and labels (n,) of n samples -> score of each, 0 to 1.
    Metric = Callable[[Tensors, np.ndarray[Any, Any]], np.ndarray[Any, Any]]

# The normal distribution's 97.5 % quantile: two-sided intervals of 95 %.
_Z = 1.959963984540054


def signal_to_noise_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def evaluate(
    run: Callable[[dict[str, Any]], Mapping[str, Any]], dataset: Dataset, metric: str
) -> tuple[float, int, float]:
    """Run a model on every sample of a labelled data set, one at a time.

    Args:
        run: inputs by name, with a batch of 1, to outputs by name.
        dataset: with labels.
        metric: "top1", "top5", or "package.module:function" that takes outputs by name
            (n, ...) and labels (n,) and returns each sample's score from 0 to 1, shape (n,).

    Returns:
        The mean score in percent, the number of samples, and half the width of the 95 %
        confidence interval in percentage points: Wilson's if every score is 0 or 1, else the
        normal one.

    Raises:
        UsageError: no such metric, no labels, or the metric's result has another form.
        InputError: an image can't be read.
    """
    import numpy as np

    score = load_metric(metric)
    if dataset.targets is None:
        raise UsageError(
            f"{dataset.id} has no labels, so nothing can be measured on it",
            hint="an .npz needs an array named 'labels', a folder a file labels.txt",
        )
    scores = np.empty(len(dataset), np.float64)
    for index in range(len(dataset)):
        outputs = run(dataset.sample(index))
        value = np.asarray(score(outputs, dataset.targets[index : index + 1]))
        if value.shape != (1,) or not 0.0 <= value[0] <= 1.0:
            raise UsageError(
                f"metric {metric} returned {value!r} for one sample",
                hint="return an array of one score from 0 to 1 for each sample",
            )
        scores[index] = value[0]
    return 100.0 * float(scores.mean()), len(dataset), 100.0 * _half_width(scores)


def load_metric(metric: str) -> Metric:
    """The function of a metric's name; see :func:`evaluate`.

    Raises:
        UsageError: no such metric.
    """
    if metric in {"top1", "top5"}:
        count = int(metric.removeprefix("top"))
        return lambda outputs, labels: top_k(outputs, labels, count)
    if is_function_reference(metric):
        return import_function(metric)
    raise UsageError(f"there is no metric {metric}", hint="top1, top5, or package.module:function")


def top_k(outputs: Tensors, labels: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Whether the label is among the k largest values of the first output.

    Args:
        outputs: the first one is (n, classes), or (n, classes, 1, 1).
        labels: (n,) class indices.
        k: how many may compete; of equal values the lower index counts as larger.

    Returns:
        (n,) float64, 0 or 1.

    Raises:
        UsageError: a label lies outside the classes.
    """
    import numpy as np

    logits = next(iter(outputs.values()))
    logits = logits.reshape(len(labels), -1)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(
            f"a label is {int(labels.max())}, but the model has {logits.shape[1]} classes",
            hint="the data set belongs to another model",
        )
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    hits: np.ndarray[Any, Any] = (best == labels[:, None]).any(axis=1).astype(np.float64)
    return hits


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal
    of the American Statistical Association 22 (1927), 209-212.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.

    Returns:
        Lower and upper limit, 0 to 1.
    """
    share = successes / trials
    centre = (share + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    half = _Z * spread / (1 + _Z**2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def _half_width(scores: np.ndarray[Any, Any]) -> float:
    import numpy as np

    if np.isin(scores, (0.0, 1.0)).all():
        low, high = wilson_interval(int(scores.sum()), len(scores))
        return (high - low) / 2
    if len(scores) == 1:
        return 0.5  # one score says nothing about its spread
    return _Z * float(scores.std(ddof=1)) / math.sqrt(len(scores))

"""Task metrics of models on labelled data, and how certain the difference of two is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UsageError
from deepseek_edge.task_metrics import Metric, load_metric

if TYPE_CHECKING:
    import numpy as np

    from deepseek_edge.datasets import Dataset

    Array = np.ndarray[Any, Any]

# The normal distribution's 97.5 % quantile: two-sided intervals of 95 %.
_Z = 1.959963984540054
# Samples that are drawn for an interval which no formula gives.
RESAMPLED = 1000


@dataclass(frozen=True)
class Evaluated:
    """What a model made of a data set.

    Attributes:
        kept: of each sample, what ``metric`` needs.
    """

    metric: Metric
    kept: tuple[Any, ...]

    @property
    def percent(self) -> float:
        """The metric of all samples, each counted once."""
        import numpy as np

        return 100.0 * self.metric.pool(self.kept)(np.ones(len(self.kept)))


@dataclass(frozen=True)
class Drop:
    """By how much one model is worse than another on the same samples.

    Attributes:
        pp: percentage points; negative if it is better.
        ci_pp: half the width of the 95 % confidence interval of that difference.
    """

    pp: float
    ci_pp: float


def evaluate(
    run: Callable[[dict[str, Any]], Mapping[str, Any]], dataset: Dataset, metric: str
) -> Evaluated:
    """Run a model on every sample of a labelled data set, one at a time.

    Args:
        run: inputs by name, with a batch of 1, to outputs by name.
        dataset: with labels.
        metric: as ``load_metric`` takes it.

    Raises:
        UsageError: no such metric, no labels, or outputs or labels that the metric isn't for.
        InputError: an image can't be read.
    """
    loaded = load_metric(metric)
    if dataset.targets is None:
        raise UsageError(
            f"{dataset.id} has no labels, so nothing can be measured on it",
            hint="an .npz needs an array named 'labels', a folder a file labels.txt",
        )
    kept = tuple(
        loaded.keep(run(dataset.sample(index)), dataset.targets[index : index + 1])
        for index in range(len(dataset))
    )
    return Evaluated(loaded, kept)


def compare(before: Evaluated, after: Evaluated) -> Drop:
    """How much is lost from one model to another, with its interval.

    The samples are the same, so the interval is that of paired observations: Bonett and Price's
    for scores of 0 or 1, the normal one of the differences for other scores, and for what is no
    mean of scores the middle 95 % of 1000 differences on resampled data, drawn with seed 0
    (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), section 13.3).

    Args:
        before: usually the float model.
        after: of the same metric and samples.
    """
    import numpy as np

    pp = before.percent - after.percent
    if not before.metric.is_mean:
        return Drop(pp, 100 * _resampled_half_width(before, after))
    first, second = np.asarray(before.kept), np.asarray(after.kept)
    if np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all():
        lost, won = int((first > second).sum()), int((second > first).sum())
        low, high = paired_interval(lost, won, len(first))
        return Drop(pp, 50 * (high - low))
    if len(first) == 1:
        return Drop(pp, 100.0)  # one score says nothing about its spread
    return Drop(pp, 100 * _Z * float((first - second).std(ddof=1)) / math.sqrt(len(first)))


def paired_interval(lost: int, won: int, samples: int) -> tuple[float, float]:
    """95 % interval of the difference of two proportions of the same samples.

    Wald's, with one added to each of the two counts that McNemar's test looks at: D. G. Bonett and
    R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data, Journal of Educational and Behavioral Statistics 37 (2012), 479-488.

    Args:
        lost: samples that the first model has right and the second one wrong.
        won: the other way round.
        samples: all, at least 1.

    Returns:
        Lower and upper limit of first minus second, -1 to 1.
    """
    share_lost, share_won = (lost + 1) / (samples + 2), (won + 1) / (samples + 2)
    centre = share_lost - share_won
    half = _Z * math.sqrt((share_lost + share_won - centre**2) / (samples + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


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


def _resampled_half_width(before: Evaluated, after: Evaluated) -> float:
    import numpy as np

    count = len(before.kept)
    figures = [one.metric.pool(one.kept) for one in (before, after)]
    random = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLED):
        counts = np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)
        differences.append(figures[0](counts) - figures[1](counts))
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(high - low) / 2

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepseek_edge.datasets import Dataset, load_dataset
from deepseek_edge.errors import UsageError
from deepseek_edge.evaluation import Evaluated, compare, evaluate, paired_interval, wilson_interval
from deepseek_edge.task_metrics import Metric, load_metric

Tensors = Mapping[str, NDArray[np.float32]]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in
        # Medicine 17 (1998), 857-872, table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_failures_have_the_mirrored_interval() -> None:
    low, high = wilson_interval(3, 20)
    assert wilson_interval(17, 20) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("lost", "won", "samples", "low", "high"),
    [
        # By hand, with p = (lost + 1) / (n + 2), q = (won + 1) / (n + 2) and
        # p - q -+ 1.959964 sqrt((p + q - (p - q)^2) / (n + 2)).
        (1, 7, 21, -0.5084, -0.0134),
        (0, 0, 98, -0.0277, 0.0277),
        (30, 20, 9998, -0.000412, 0.002412),
        (3, 0, 3, -0.1012, 1.0),  # beyond 1 there is nothing
    ],
)
def test_the_interval_of_paired_proportions_by_hand(
    lost: int, won: int, samples: int, low: float, high: float
) -> None:
    assert paired_interval(lost, won, samples) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_the_interval_turns_with_its_models(lost: int, won: int, equal: int) -> None:
    samples = max(1, lost + won + equal)
    low, high = paired_interval(lost, won, samples)
    assert paired_interval(won, lost, samples) == pytest.approx((-high, -low))
    assert -1 <= low < high <= 1


def evaluated(*scores: float) -> Evaluated:
    return Evaluated(load_metric("top1"), scores)


def test_a_drop_is_that_of_the_samples_that_changed() -> None:
    before, after = [1.0] * 9 + [0.0], [0.0, 0.0, *[1.0] * 8]
    drop = compare(evaluated(*before), evaluated(*after))
    low, high = paired_interval(2, 1, 10)
    assert drop.pp == pytest.approx(10.0)
    assert drop.ci_pp == pytest.approx(50 * (high - low))


def test_two_models_that_agree_are_compared_more_sharply_than_each_is_known() -> None:
    scores = [1.0, 0.0] * 500
    drop = compare(evaluated(*scores), evaluated(*scores))
    assert drop.pp == 0.0
    # One proportion of 1000 samples is known to 3.1 pp.
    assert 0.2 < drop.ci_pp < 0.3


def test_scores_between_0_and_1_have_the_interval_of_their_differences() -> None:
    drop = compare(evaluated(0.5, 1.0, 1.0, 0.5), evaluated(0.25, 1.0, 0.5, 0.5))
    assert drop.pp == pytest.approx(18.75)
    # Differences 0.25 0 0.5 0: standard deviation 0.239357, over sqrt(4), times 1.959964.
    assert drop.ci_pp == pytest.approx(23.457, abs=1e-3)
    assert compare(evaluated(0.5), evaluated(0.5)).ci_pp == 100.0


def test_what_is_no_mean_has_an_interval_by_resampling_that_repeats() -> None:
    mean = Metric(
        "mean", lambda o, y: 0, lambda kept: lambda n: float(np.array(kept) @ n / n.sum())
    )
    random = np.random.default_rng(1)
    first = (random.random(400) < 0.9).astype(float)
    second = np.where(random.random(400) < 0.05, 1 - first, first)
    before, after = Evaluated(mean, tuple(first)), Evaluated(mean, tuple(second))
    found = compare(before, after)
    # The same scores as a mean have the formula's interval.
    expected = compare(evaluated(*first), evaluated(*second))
    assert found.pp == expected.pp
    assert found.ci_pp == pytest.approx(expected.ci_pp, rel=0.1)
    assert compare(before, after) == found


def dataset(tmp_path: Path, labels: list[int] | None) -> Dataset:
    arrays: dict[str, NDArray[np.generic]] = {"x": np.eye(4, dtype=np.float32)}
    if labels is not None:
        arrays["labels"] = np.array(labels)
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    return load_dataset(str(tmp_path / "d.npz"))


def same(inputs: Tensors) -> Tensors:
    assert all(len(value) == 1 for value in inputs.values())
    return {"y": inputs["x"]}


def test_a_model_is_run_on_one_sample_after_the_other(tmp_path: Path) -> None:
    found = evaluate(same, dataset(tmp_path, [0, 1, 2, 0]), "top1")
    assert (found.percent, found.kept) == (75.0, (1.0, 1.0, 1.0, 0.0))


def test_f1_is_that_of_all_samples_together(tmp_path: Path) -> None:
    found = evaluate(same, dataset(tmp_path, [0, 1, 1, 3]), "f1")
    # Class 1: TP 1, FN 1; class 2: FP 1; classes 0 and 3 are right.
    assert found.percent == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)


def test_data_without_labels_can_not_be_evaluated_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no labels"):
        evaluate(same, dataset(tmp_path, None), "top1")


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 classes"):
        evaluate(same, dataset(tmp_path, [0, 1, 2, 9]), "top1")

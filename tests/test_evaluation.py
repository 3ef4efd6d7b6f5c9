from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepseek_edge.datasets import Dataset, load_dataset
from deepseek_edge.errors import UsageError
from deepseek_edge.evaluation import evaluate, top_k, wilson_interval

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


def test_top_k_counts_the_label_among_the_k_largest() -> None:
    outputs = {"y": np.array([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]], np.float32)}
    labels = np.array([2, 0])
    assert top_k(outputs, labels, 1).tolist() == [0, 1]
    assert top_k(outputs, labels, 2).tolist() == [1, 1]


def test_of_equal_values_the_lower_index_wins() -> None:
    outputs = {"y": np.zeros((2, 3), np.float32)}
    assert top_k(outputs, np.array([0, 1]), 1).tolist() == [1, 0]


def test_outputs_with_trailing_ones_count_as_classes() -> None:
    outputs = {"y": np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)}
    assert top_k(outputs, np.array([2]), 1).tolist() == [1]


def dataset(tmp_path: Path, labels: list[int] | None) -> Dataset:
    arrays: dict[str, NDArray[np.generic]] = {"x": np.eye(4, dtype=np.float32)}
    if labels is not None:
        arrays["labels"] = np.array(labels)
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    return load_dataset(str(tmp_path / "d.npz"))


def same(inputs: Tensors) -> Tensors:
    assert all(len(value) == 1 for value in inputs.values())
    return {"y": inputs["x"]}


def test_evaluate_gives_percent_samples_and_half_of_wilsons_interval(tmp_path: Path) -> None:
    value, samples, ci_pp = evaluate(same, dataset(tmp_path, [0, 1, 2, 0]), "top1")
    low, high = wilson_interval(3, 4)
    assert (value, samples) == (75.0, 4)
    assert ci_pp == pytest.approx(50 * (high - low))


def half(outputs: Tensors, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(labels == 0, 0.5, 1.0)


def wrong(outputs: Tensors, labels: NDArray[np.int64]) -> float:
    return 90.0


def test_a_metric_of_the_users_is_averaged(tmp_path: Path) -> None:
    metric = f"{__name__}:half"
    value, samples, ci_pp = evaluate(same, dataset(tmp_path, [0, 1, 2, 0]), metric)
    assert (value, samples) == (75.0, 4)
    # Scores 0.5 1 1 0.5: standard deviation 0.288675, over sqrt(4), times 1.959964.
    assert ci_pp == pytest.approx(28.289, abs=1e-3)


def test_a_metric_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="returned array"):
        evaluate(same, dataset(tmp_path, [0, 1, 2, 0]), f"{__name__}:wrong")


@pytest.mark.parametrize("metric", ["top2", "absent.module:f", f"{__name__}:absent"])
def test_an_unknown_metric_is_refused(tmp_path: Path, metric: str) -> None:
    with pytest.raises(UsageError):
        evaluate(same, dataset(tmp_path, [0, 1, 2, 0]), metric)


def test_data_without_labels_can_not_be_evaluated_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no labels"):
        evaluate(same, dataset(tmp_path, None), "top1")


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 classes"):
        evaluate(same, dataset(tmp_path, [0, 1, 2, 9]), "top1")

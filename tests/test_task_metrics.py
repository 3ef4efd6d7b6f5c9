from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepseek_edge.errors import UsageError
from deepseek_edge.task_metrics import load_metric, pool_f1, top_k

Tensors = Mapping[str, NDArray[np.float32]]


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


@pytest.mark.parametrize("name", ["top1", "f1"])
def test_labels_that_are_no_classes_are_refused(name: str) -> None:
    outputs = {"y": np.zeros((1, 3), np.float32)}
    keep = load_metric(name).keep
    with pytest.raises(UsageError, match="3 classes"):
        keep(outputs, np.array([3]))
    with pytest.raises(UsageError, match="no class indices"):
        keep(outputs, np.zeros((1, 2, 5)))


# Predicted and right: class 0 has TP 2, FP 1, FN 1; class 1 TP 1, FP 1, FN 1; class 3 FN 1, FP 1;
# class 2 is in none. F1 are 4/6, 2/4 and 0.
PAIRS = [(0, 0), (0, 0), (0, 1), (1, 1), (3, 0), (1, 3)]


def test_f1_is_the_mean_over_the_classes_that_occur() -> None:
    assert pool_f1(PAIRS)(np.ones(6)) == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_f1_takes_the_largest_output_as_the_prediction() -> None:
    metric = load_metric("f1")
    outputs = {"y": np.array([[0.1, 0.7, 0.2]], np.float32)}
    assert metric.keep(outputs, np.array([2])) == (1, 2)
    assert not metric.is_mean


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12
    ).filter(lambda rows: any(row[2] for row in rows))
)
def test_a_sample_that_counts_twice_is_as_good_as_two(rows: list[tuple[int, int, int]]) -> None:
    pairs = [(predicted, right) for predicted, right, _ in rows]
    counts = [count for _, _, count in rows]
    repeated = [pair for pair, count in zip(pairs, counts, strict=True) for _ in range(count)]
    expected = pool_f1(repeated)(np.ones(len(repeated)))
    assert pool_f1(pairs)(np.array(counts, np.float64)) == pytest.approx(expected)


def half(outputs: Tensors, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(labels == 0, 0.5, 1.0)


def wrong(outputs: Tensors, labels: NDArray[np.int64]) -> float:
    return 90.0


def test_a_metric_of_the_users_is_averaged() -> None:
    metric = load_metric(f"{__name__}:half")
    scores = [metric.keep({}, np.array([label])) for label in (0, 1, 2, 0)]
    assert scores == [0.5, 1.0, 1.0, 0.5]
    assert metric.pool(scores)(np.ones(4)) == 0.75
    assert metric.pool(scores)(np.array([3.0, 0.0, 0.0, 1.0])) == 0.5


def test_results_are_the_same_but_for_what_a_report_does_not_show() -> None:
    metric = load_metric(f"{__name__}:half")
    assert metric.is_same(0.5, 0.5 + 5e-5)
    assert not metric.is_same(0.5, 0.5 + 2e-4)
    assert not load_metric("top1").is_same(0.0, 1.0)
    assert load_metric("f1").is_same((1, 2), (1, 2))
    assert not load_metric("f1").is_same((1, 2), (0, 2))


def test_a_metric_of_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match="returned array"):
        load_metric(f"{__name__}:wrong").keep({}, np.array([0]))


@pytest.mark.parametrize("metric", ["top2", "absent.module:f", f"{__name__}:absent"])
def test_an_unknown_metric_is_refused(metric: str) -> None:
    with pytest.raises(UsageError):
        load_metric(metric)

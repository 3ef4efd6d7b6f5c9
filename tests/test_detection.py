from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.detection import (
    IOUS,
    Matches,
    average_precision,
    keep_matches,
    match,
    overlaps,
    pool_average_precision,
    suppress,
)
from deepseek_edge.errors import UsageError
from deepseek_edge.task_metrics import load_metric

Array = np.ndarray[Any, Any]


def test_overlaps_by_hand() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [9, 9, 9, 9]], np.float32)
    # Shared 2 x 4 of 16 + 16 - 8.
    assert overlaps(boxes, boxes) == pytest.approx(
        np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    )


def test_the_best_of_overlapping_boxes_is_kept_class_by_class() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9]], np.float32)
    scores = np.array([[0.6, 0.3], [0.9, 0.01], [0.2, 0.01]], np.float32)
    found = suppress(boxes, scores)
    assert found[:, 0].tolist() == [0, 1, 0]
    assert found[:, 1] == pytest.approx([0.9, 0.3, 0.2])
    assert found[0, 2:].tolist() == [0, 0, 4, 5]


def test_at_most_a_hundred_boxes_of_an_image_count() -> None:
    corners = 2.0 * np.arange(150)[:, None]
    boxes = np.concatenate([corners, corners, corners + 1, corners + 1], axis=1)
    assert len(suppress(boxes, np.linspace(0.1, 0.9, 150)[:, None])) == 100


def test_an_object_is_found_once_by_the_best_box_that_overlaps_enough() -> None:
    iou = np.array([[0.9, 0.6], [0.8, 0.7], [0.95, 0.0]])
    assert match(iou, (0.5, 0.75)).tolist() == [[True, True, False], [True, False, False]]
    assert match(np.zeros((2, 0)), (0.5,)).tolist() == [[False, False]]


def test_average_precision_by_hand() -> None:
    right = np.array([[True, False, True]])
    # Precision 1 up to recall 0.5 (51 levels), then 2/3 (50 levels).
    expected = (51 + 50 * 2 / 3) / 101
    assert average_precision(right, np.ones(3), 2) == pytest.approx(expected)
    # A third object is never found: 67 levels above 2/3 give nothing.
    expected = (34 + 33 * 2 / 3) / 101
    assert average_precision(right, np.ones(3), 3) == pytest.approx(expected)
    assert average_precision(np.zeros((1, 0), bool), np.ones(0), 3) == 0.0


def image(boxes: list[list[float]], scores: list[list[float]]) -> dict[str, Array]:
    return {"boxes": np.array([boxes], np.float32), "scores": np.array([scores], np.float32)}


def test_map_is_the_mean_over_classes_and_thresholds() -> None:
    metric = load_metric("map")
    # Class 0 is hit with IoU 10/12 = 0.83: at 7 of 10 thresholds. Class 1 is missed.
    found = image([[0, 0, 1, 12]], [[0.9, 0.0, 0.0]])
    labels = np.array([[[0, 0, 0, 1, 10], [1, 5, 5, 6, 6], [-1, 0, 0, 0, 0]]], np.float64)
    kept = metric.keep(found, labels)
    assert kept.objects == {0: 1, 1: 1}
    assert metric.pool([kept])(np.ones(1)) == pytest.approx(0.7 / 2)
    half = load_metric("map50")
    assert half.pool([half.keep(found, labels)])(np.ones(1)) == pytest.approx(0.5)


def test_two_detectors_find_the_same_whatever_their_scores_are_rounded_to() -> None:
    metric = load_metric("map50")
    label = np.array([[[0, 0, 0, 1, 1]]], np.float64)
    boxes = [[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]]
    found = metric.keep(image(boxes, [[0.9], [0.8]]), label)
    assert metric.is_same(found, metric.keep(image(boxes, [[0.90001], [0.8]]), label))
    assert not metric.is_same(found, metric.keep(image(boxes, [[0.7], [0.8]]), label))
    assert not metric.is_same(found, metric.keep(image(boxes, [[0.95], [0.8]]), label))
    assert not metric.is_same(found, metric.keep(image(boxes, [[0.9], [0.01]]), label))
    other = metric.keep(image(boxes, [[0.9, 0.0], [0.0, 0.8]]), label)
    assert not metric.is_same(found, other)


def test_a_class_that_is_nowhere_counts_for_nothing_but_false_boxes_of_others_do() -> None:
    metric = load_metric("map50")
    label = np.array([[[0, 0, 0, 1, 1]]], np.float64)
    none = np.full((1, 1, 5), -1.0)
    hit = metric.keep(image([[0, 0, 1, 1]], [[0.5, 0.0]]), label)
    false = metric.keep(image([[0, 0, 1, 1]], [[0.9, 0.8]]), none)
    assert metric.pool([hit, false])(np.ones(2)) == pytest.approx(0.5)
    assert metric.pool([false])(np.ones(1)) == 0.0


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (image([[0, 0, 1, 1]], [[0.5]]), np.array([0]), "no boxes"),
        (image([[0, 0, 1, 1]], [[0.5]]), np.array([[[1, 0, 0, 1, 1]]]), "1 classes"),
        ({"y": np.zeros((1, 10))}, np.full((1, 1, 5), -1.0), "with scores"),
        ({"y": np.zeros((1, 3, 4)), "z": np.zeros((1, 2, 1))}, np.full((1, 1, 5), -1.0), "scores"),
    ],
)
def test_what_is_no_detector_is_refused(
    outputs: dict[str, Array], labels: Array, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        keep_matches(outputs, labels, IOUS)


@given(
    st.lists(
        st.tuples(st.lists(st.booleans(), max_size=5), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_an_image_that_counts_twice_is_as_good_as_two(
    rows: list[tuple[list[bool], int, int]], random: Random
) -> None:
    # No two images share a score: the order of right and false boxes would be left to chance.
    ranks = random.sample(range(30), 30)
    images, counts = [], []
    for boxes, missed, count in rows:
        scores = np.array(sorted((ranks.pop() / 30 for _ in boxes), reverse=True))
        right = np.array(boxes, bool).reshape(1, -1)
        images.append(Matches({0: scores}, {0: right}, {0: missed + sum(boxes)}))
        counts.append(count)
    repeated = [one for one, count in zip(images, counts, strict=True) for _ in range(count)]
    found = pool_average_precision(images)(np.array(counts, np.float64))
    expected = pool_average_precision(repeated)(np.ones(len(repeated))) if repeated else 0.0
    assert found == pytest.approx(expected)

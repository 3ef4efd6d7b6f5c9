"""Mean average precision of a detector, as COCO's evaluation computes it.

T.-Y. Lin et al., Microsoft COCO: Common Objects in Context (ECCV 2014); the rules are those of
https://cocodataset.org/#detection-eval: 101 recall levels, IoU 0.50 to 0.95 in steps of 0.05, at
most 100 boxes an image. Areas, crowds and difficult objects aren't told apart.

A raw detector's overlapping boxes are suppressed first, with the constants of T.-Y. Lin et al.,
Focal Loss for Dense Object Detection (ICCV 2017), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

IOUS = tuple(0.5 + 0.05 * step for step in range(10))
LEAST_SCORE = 0.05
SUPPRESSED_IOU = 0.5
MOST_CANDIDATES = 1000
MOST_BOXES = 100
_RECALLS = 101
# Class, left, top, right, bottom.
_BOX = 5


@dataclass(frozen=True)
class Matches:
    """What a detector found in one image, by class.

    Attributes:
        scores: of the boxes of each class, falling.
        right: (thresholds, boxes) of each class: the box is that of an object not found before.
        objects: how many there are, of each class that has one.
    """

    scores: Mapping[int, Array]
    right: Mapping[int, Array]
    objects: Mapping[int, int]


def keep_matches(outputs: Mapping[str, Array], labels: Array, ious: Sequence[float]) -> Matches:
    """Compare the boxes found in one image with those that are there.

    Args:
        outputs: the first one is boxes (1, n, 4) as left, top, right, bottom, the second one
            scores (1, n, classes) from 0 to 1.
        labels: (1, m, 5), each row the class and the box of an object; class -1 fills up.
        ious: by which a box must at least overlap.

    Raises:
        UsageError: outputs or labels of other shapes, or a label outside the classes.
    """
    import numpy as np

    boxes, scores = _boxes_and_scores(list(outputs.values()))
    if labels.ndim != 3 or labels.shape[2] != _BOX:
        raise UsageError(
            f"labels of shape {list(labels.shape)} are no boxes",
            hint="labels (samples, objects, 5): class, left, top, right, bottom; class -1 fills up",
        )
    objects = labels[0][labels[0, :, 0] >= 0]
    if len(objects) and objects[:, 0].max() >= scores.shape[1]:
        raise UsageError(
            f"a label is {int(objects[:, 0].max())}, but the model has {scores.shape[1]} classes",
            hint="the data set belongs to another model",
        )
    found = suppress(boxes, scores)
    classes = sorted({int(c) for c in objects[:, 0]} | {int(c) for c in found[:, 0]})
    right = {}
    for one in classes:
        there = objects[objects[:, 0] == one, 1:]
        right[one] = match(overlaps(found[found[:, 0] == one, 2:], there), ious)
    return Matches(
        scores={one: found[found[:, 0] == one, 1] for one in classes},
        right=right,
        objects={one: int(np.count_nonzero(objects[:, 0] == one)) for one in classes},
    )


def has_same_matches(first: Matches, second: Matches, tolerance: float) -> bool:
    """Whether boxes of the same classes are right, with the same scores but for rounding.

    Args:
        first: what one model found in an image.
        second: what another one found in it.
        tolerance: of a score.
    """
    import numpy as np

    return first.right.keys() == second.right.keys() and all(
        np.array_equal(right, second.right[one])
        # Average precision orders the boxes of all images by their scores.
        and np.allclose(first.scores[one], second.scores[one], rtol=0.0, atol=tolerance)
        for one, right in first.right.items()
    )


def _boxes_and_scores(outputs: Sequence[Array]) -> tuple[Array, Array]:
    """(n, 4) and (n, classes)."""
    shapes = [value.shape for value in outputs[:2]]
    if (
        len(shapes) < 2
        or any(len(shape) != 3 or shape[0] != 1 for shape in shapes)
        or shapes[0][2] != 4
        or shapes[0][1] != shapes[1][1]
    ):
        raise UsageError(
            f"outputs of shapes {', '.join(str(list(shape)) for shape in shapes)} are no boxes "
            "with scores",
            hint="--metric map needs two outputs: boxes (1, n, 4) and scores (1, n, classes)",
        )
    return outputs[0][0], outputs[1][0]


def suppress(boxes: Array, scores: Array) -> Array:
    """Of boxes of one class that overlap, keep the one with the highest score.

    Args:
        boxes: (n, 4).
        scores: (n, classes); those below 0.05 are dropped, of the others 1000 a class are looked
            at, and the best 100 of all classes are kept.

    Returns:
        (k, 6) float64, rows of class, score and box, falling by score.
    """
    import numpy as np

    kept = []
    for one in range(scores.shape[1]):
        order = np.argsort(-scores[:, one], kind="stable")[:MOST_CANDIDATES]
        order = order[scores[order, one] >= LEAST_SCORE]
        iou = overlaps(boxes[order], boxes[order])
        is_left = np.ones(len(order), bool)
        for place in range(len(order)):
            if is_left[place]:
                is_left[place + 1 :] &= iou[place, place + 1 :] <= SUPPRESSED_IOU
        rows = order[is_left]
        kept.append(np.column_stack([np.full(len(rows), one), scores[rows, one], boxes[rows]]))
    found: Array = np.concatenate(kept).astype(np.float64)
    return found[np.argsort(-found[:, 1], kind="stable")[:MOST_BOXES]]


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of each pair of boxes.

    Args:
        first: (n, 4) as left, top, right, bottom.
        second: (m, 4).

    Returns:
        (n, m) float64; 0 for a pair without area.
    """
    import numpy as np

    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(axis=-1) for box in (a, b)]
    both = areas[0] + areas[1] - shared
    result: Array = np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)
    return result


def match(iou: Array, ious: Sequence[float]) -> Array:
    """Give each box, best score first, the object that it overlaps most and that is still free.

    Args:
        iou: (boxes, objects), boxes falling by score.
        ious: thresholds.

    Returns:
        (thresholds, boxes) bool: the box got an object.
    """
    import numpy as np

    right = np.zeros((len(ious), len(iou)), bool)
    for number, least in enumerate(ious):
        free = np.ones(iou.shape[1], bool)
        for box, row in enumerate(iou):
            candidates = np.where(free & (row >= least - 1e-9), row, -1.0)
            best = int(candidates.argmax()) if len(candidates) else -1
            if best >= 0 and candidates[best] >= 0:
                right[number, box] = True
                free[best] = False
    return right


def pool_average_precision(kept: Sequence[Matches]) -> Callable[[Array], float]:
    """The mean over classes and thresholds of the precision at 101 levels of recall.

    Classes that no image has an object of count for nothing.

    Args:
        kept: of each image.
    """
    import numpy as np

    classes = sorted({one for image in kept for one in image.objects})
    pooled = [_pool_class(kept, one) for one in classes]

    def figure(counts: Array) -> float:
        found = [
            average_precision(right, counts[images], float(objects @ counts))
            for right, images, objects in pooled
            if objects @ counts > 0
        ]
        return float(np.mean(found)) if found else 0.0

    return figure


def _pool_class(kept: Sequence[Matches], one: int) -> tuple[Array, Array, Array]:
    """(thresholds, boxes) right, each box's image, and each image's number of objects."""
    import numpy as np

    with_class = [(number, image) for number, image in enumerate(kept) if one in image.objects]
    scores = np.concatenate([image.scores[one] for _, image in with_class])
    images = np.repeat(
        [number for number, _ in with_class], [len(image.scores[one]) for _, image in with_class]
    )
    right = np.concatenate([image.right[one] for _, image in with_class], axis=1)
    order = np.argsort(-scores, kind="stable")
    objects = np.array([image.objects.get(one, 0) for image in kept], np.float64)
    return right[:, order], images[order].astype(np.int64), objects


def average_precision(right: Array, counts: Array, objects: float) -> float:
    """Precision, averaged over 101 levels of recall and over thresholds.

    At each level it is the best one that is reached with this recall or more.

    Args:
        right: (thresholds, boxes) bool, falling by score.
        counts: (boxes,) how often each box counts.
        objects: how many there are to be found, above 0.
    """
    import numpy as np

    if not right.shape[1]:
        return 0.0
    hits, seen = np.cumsum(right * counts, axis=1), np.cumsum(counts)
    precision = hits / np.maximum(seen, 1e-9)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / objects
    levels = np.linspace(0, 1, _RECALLS)
    total = 0.0
    for reached, values in zip(recall, best, strict=True):
        places = np.searchsorted(reached, levels - 1e-9)
        total += float(values[places[places < len(values)]].sum()) / _RECALLS
    return total / len(right)

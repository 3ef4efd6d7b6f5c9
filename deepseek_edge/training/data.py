"""From a data set to tensors that are trained on, and a part of them kept to validate with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import InputError, UsageError
from deepseek_edge.preprocess import Preprocess, parse_preprocess
from deepseek_edge.training.config import Augment, TrainingData

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deepseek_edge.datasets import Dataset


def load_training_data(
    dataset: Dataset, *, limit: int | None = None, augment: Augment | None = None
) -> TrainingData:
    """Take the samples of a labelled data set into memory, preprocessed.

    Grey images that come as one array and keep their size are scaled all at once; other images
    one by one.

    Args:
        dataset: with labels, and one input.
        limit: the first so many samples; None: all.
        augment: changes batches during training.

    Returns:
        Inputs as ``dataset.sample`` gives them, bit for bit, (n, ...) float32.

    Raises:
        InputError: no labels, an image can't be read, or images have different sizes.
        UsageError: several inputs.
    """
    import torch

    if dataset.targets is None:
        raise InputError(
            f"{dataset.id} has no labels to train on",
            hint="an .npz needs an array named 'labels', a folder a file labels.txt",
        )
    if isinstance(dataset.content, Mapping) and len(dataset.content) > 1:
        raise UsageError(
            f"{dataset.id} has the inputs {', '.join(dataset.content)}",
            hint="a model with one input can be trained",
        )
    inputs = _pixels_scaled(dataset, limit)
    if inputs is None:
        arrays, _ = dataset.arrays(limit)
        (inputs,) = arrays.values()
    labels = torch.from_numpy(dataset.targets[: len(inputs)].copy())
    return TrainingData(torch.from_numpy(inputs), labels, augment)


def scale_pixels(
    pixels: np.ndarray[Any, Any], preprocess: Preprocess
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scale grey images that keep their size, all at once.

    Args:
        pixels: (n, h, w) uint8.
        preprocess: of "gray" images, without resize and crop.

    Returns:
        (n, 1, h, w) float32, or (n, h, w, 1).
    """
    import numpy as np

    # Each of the 256 values is scaled once, as for a single image; 60,000 images look it up.
    mean, std = np.float32(preprocess.mean[0]), np.float32(preprocess.std[0])
    table = (np.arange(256).astype(np.float32) - mean) / std
    scaled: np.ndarray[Any, np.dtype[np.float32]] = table[pixels]
    return scaled[:, None] if preprocess.layout == "nchw" else scaled[..., None]


def split(
    data: TrainingData, *, validation: int = 5000, seed: int = 0
) -> tuple[TrainingData, TrainingData]:
    """Keep a part of the data to validate with.

    Args:
        data: n samples.
        validation: samples to keep, 1 to n - 1.
        seed: of the choice.

    Returns:
        The samples to train on, with the augmentation, and those to validate with, without.

    Raises:
        UsageError: nothing would be left of one of them.
    """
    import torch

    if not 0 < validation < len(data):
        raise UsageError(
            f"{validation} of {len(data)} samples to validate with",
            hint=f"choose 1 to {len(data) - 1}",
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held, kept = order[:validation].sort().values, order[validation:].sort().values
    return (
        TrainingData(data.inputs[kept], data.labels[kept], data.augment),
        TrainingData(data.inputs[held], data.labels[held]),
    )


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that don't show every class, or show others.

    Args:
        labels: (n,) int64.
        classes: number of them.

    Raises:
        InputError: classes are missing, or a label is none of 0 to ``classes`` - 1.
    """
    import torch

    found = set(torch.unique(labels).tolist())
    if missing := sorted(set(range(classes)) - found):
        raise InputError(
            f"no sample of {len(missing)} of the {classes} classes: "
            f"{', '.join(map(str, missing[:10]))}{', ...' if len(missing) > 10 else ''}",
            hint="a model can't learn what it never sees: add samples, or have fewer classes",
        )
    if unknown := sorted(found - set(range(classes))):
        raise InputError(
            f"a label is {unknown[0]}, but there are {classes} classes",
            hint=f"labels are 0 to {classes - 1}",
        )


def _pixels_scaled(
    dataset: Dataset, limit: int | None
) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """All inputs at once, or None if the images can't be treated alike."""
    if isinstance(dataset.content, tuple | Mapping) or dataset.preprocess is None:
        return None
    preprocess = parse_preprocess(dataset.preprocess)
    changed = preprocess.resize is not None or preprocess.crop is not None
    if changed or preprocess.color != "gray" or dataset.content.ndim != 3:
        return None
    return scale_pixels(dataset.content[:limit], preprocess)

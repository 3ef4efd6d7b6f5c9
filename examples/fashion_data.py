"""Fashion-MNIST as tensors: out of its Debian package, or out of one file made of it.

python -m examples.fashion_data FILE.npz writes that file, for machines without the package.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from deepseek_edge.datasets import load_dataset, load_preprocess
from deepseek_edge.errors import InputError
from deepseek_edge.files import atomic_path
from deepseek_edge.training import TrainingData, load_training_data, split
from deepseek_edge.training.data import scale_pixels

TRAIN, TEST = "fashion-mnist-train", "fashion-mnist-test"
_PREPROCESS = load_preprocess(TRAIN)
# What is around the clothes, on the scale that networks see.
BLACK = -_PREPROCESS.mean[0] / _PREPROCESS.std[0]


def load_fashion(
    file: Path | None = None, *, validation: int = 0, seed: int = 0
) -> tuple[TrainingData, TrainingData]:
    """Images to train on and images to judge by.

    Args:
        file: that :func:`pack` wrote; None: the package's files, fetched on first use.
        validation: judge by so many of the training images, which then are not trained on; 0:
            by the 10,000 test images.
        seed: of the choice of those.

    Returns:
        Two sets of (n, 1, 28, 28) float32 and labels.

    Raises:
        InputError: the file is damaged or another one.
        DeepSeekEdgeError: the package can't be fetched.
    """
    if file is None:
        sets = [load_training_data(load_dataset(name)) for name in (TRAIN, TEST)]
    else:
        sets = _unpack(file)
    return split(sets[0], validation=validation, seed=seed) if validation else (sets[0], sets[1])


def pack(file: Path) -> None:
    """Write all images and labels to one .npz of about 55 MB.

    Raises:
        DeepSeekEdgeError: the package can't be fetched, or the file can't be written.
    """
    arrays = {}
    for name in (TRAIN, TEST):
        dataset = load_dataset(name)
        arrays[f"{name}/images"] = np.asarray(dataset.content)
        arrays[f"{name}/labels"] = np.asarray(dataset.targets)
    with atomic_path(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _unpack(file: Path) -> list[TrainingData]:
    sets = []
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            for name in (TRAIN, TEST):
                inputs = scale_pixels(archive[f"{name}/images"], _PREPROCESS)
                labels = archive[f"{name}/labels"]
                sets.append(TrainingData(torch.from_numpy(inputs), torch.from_numpy(labels)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} holds no Fashion-MNIST: {error}",
            hint="write it with python -m examples.fashion_data FILE.npz",
        ) from error
    return sets


if __name__ == "__main__":
    pack(Path(sys.argv[1]))

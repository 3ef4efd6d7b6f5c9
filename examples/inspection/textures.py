"""Photos of brick, grass and gravel with small defects rendered on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from deepseek_edge.datasets import load_dataset

Image = NDArray[np.float32]

SIZE = 64
CLASSES = ("fine", "scratch", "spot")
TEXTURES = ("brick.png", "grass.png", "gravel.png")
# Of the photos' width: what is left of it is trained on, what is right of it judges.
DIVIDED_AT = 0.65


def load_textures() -> list[Image]:
    """The grey photos (512, 512) of scikit-image, 0 to 1; fetched on first use."""
    content = load_dataset("skimage-photos").content
    paths = {path.name: path for path in content if isinstance(path, Path)}
    images = [PIL.Image.open(paths[name]).convert("L") for name in TEXTURES]
    return [np.asarray(image, np.float32) / np.float32(255) for image in images]


def render(
    textures: list[Image], count: int, seed: int, *, judges: bool
) -> tuple[Image, NDArray[np.int64]]:
    """Cut images out of the photos, a third each without a defect, with a scratch, with a spot.

    Args:
        textures: photos.
        count: of images.
        seed: of places, light and defects.
        judges: from the part of the photos that nothing is trained on.

    Returns:
        Images (n, 1, 64, 64), about -2 to 2, and their classes (n,).
    """
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    images = np.empty((count, 1, SIZE, SIZE), np.float32)
    for index, label in enumerate(labels):
        texture = textures[random.integers(len(textures))]
        image = _cut(texture, random, judges=judges)
        if label == 1:
            image = image + _contrast(random) * scratch(random)
        elif label == 2:
            image = image + _contrast(random) * spot(random)
        light = random.uniform(0.8, 1.2) * image + random.uniform(-0.08, 0.08)
        images[index, 0] = (np.clip(light, 0, 1) - 0.5) / 0.25
    return images, labels


def _cut(texture: Image, random: np.random.Generator, *, judges: bool) -> Image:
    height, width = texture.shape
    divided = int(DIVIDED_AT * width)
    low, high = (divided, width - SIZE) if judges else (0, divided - SIZE)
    row, column = random.integers(0, height - SIZE + 1), random.integers(low, high + 1)
    image = texture[row : row + SIZE, column : column + SIZE]
    return image[:, ::-1] if random.random() < 0.5 else image


def _contrast(random: np.random.Generator) -> float:
    """How much brighter or darker than the texture a defect is."""
    return float(random.choice([-1.0, 1.0]) * random.uniform(0.3, 0.6))


def scratch(random: np.random.Generator) -> Image:
    """A straight line of 16 to 40 pixels, about 1.5 pixels wide: (64, 64), 0 to 1."""
    length, angle = random.uniform(16, 40), random.uniform(0, np.pi)
    along, across = _axes(random, angle, margin=10)
    beyond = np.maximum(np.abs(along) - length / 2, 0)
    return _soft(np.hypot(across, beyond), radius=random.uniform(0.6, 1.0))


def spot(random: np.random.Generator) -> Image:
    """A round to oval spot of 4 to 8 pixels: (64, 64), 0 to 1."""
    along, across = _axes(random, random.uniform(0, np.pi), margin=6)
    return _soft(np.hypot(along, across * random.uniform(1, 1.5)), radius=random.uniform(2, 4))


def _axes(random: np.random.Generator, angle: float, margin: int) -> Iterator[Any]:
    """Coordinates along and across an angle, from a place inside of the image."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - random.uniform(margin, SIZE - margin, (2, 1, 1))
    yield rows * np.cos(angle) + columns * np.sin(angle)
    yield columns * np.cos(angle) - rows * np.sin(angle)


def _soft(distance: NDArray[np.float64], radius: float) -> Image:
    """1 inside of the radius, falling to 0 over a pixel."""
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)

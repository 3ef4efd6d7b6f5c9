"""Random changes of whole batches of images (n, channels, h, w), on the device they lie on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deepseek_edge.errors import UsageError
from deepseek_edge.training.config import Augment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Zhong et al., https://arxiv.org/abs/1708.04896, section 4.2.
_LEAST_ERASED = 0.02
_ERASED_ASPECTS = (0.3, 1 / 0.3)


def compose(*augments: Augment) -> Augment:
    """One augmentation after the other, all drawing from the same generator."""

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        for augment in augments:
            images = augment(images, generator)
        return images

    return apply


def random_crop(padding: int, *, fill: float = 0.0) -> Augment:
    """Move each image by up to ``padding`` pixels along both axes.

    Args:
        padding: pixels, at least 1.
        fill: what is seen outside of the image.

    Raises:
        UsageError: the padding is below 1.
    """
    if padding < 1:
        raise UsageError(f"a random crop with a padding of {padding}", hint="at least 1 pixel")

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        import torch
        from torch.nn import functional

        count, _, height, width = images.shape
        padded = functional.pad(images, (padding,) * 4, value=fill)
        offsets = torch.randint(
            2 * padding + 1, (2, count, 1), generator=generator, device=images.device
        )
        rows = offsets[0] + torch.arange(height, device=images.device)
        columns = offsets[1] + torch.arange(width, device=images.device)
        sample = torch.arange(count, device=images.device)
        # Index tensors around a slice put the channels last, which is how convolutions like it.
        cut = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return cut.permute(0, 3, 1, 2)

    return apply


def random_flip(probability: float = 0.5) -> Augment:
    """Mirror an image left to right.

    Args:
        probability: of each image.

    Raises:
        UsageError: the probability is not within 0 to 1.
    """
    _check_probability(probability)

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        import torch

        flipped = _drawn(images, generator) < probability
        return torch.where(flipped, images.flip(3), images)

    return apply


def random_erase(share: float = 0.25, *, probability: float = 0.5, fill: float = 0.0) -> Augment:
    """Overwrite a random rectangle of an image, as a thing in front of it would.

    Zhong et al., https://arxiv.org/abs/1708.04896, algorithm 1, except that a rectangle that is
    longer than the image is cut to it instead of drawn again.

    Args:
        share: largest area of the rectangle as a share of the image; the smallest is 0.02.
        probability: of each image.
        fill: what is written.

    Raises:
        UsageError: the share is not within 0.02 to 1, or the probability not within 0 to 1.
    """
    _check_probability(probability)
    if not _LEAST_ERASED <= share <= 1:
        raise UsageError(
            f"random erasing of a share of {share}", hint=f"a share from {_LEAST_ERASED} to 1"
        )

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        erased = _drawn(images, generator) < probability
        least, most = _LEAST_ERASED * height * width, share * height * width
        area = least + (most - least) * _drawn(images, generator)
        low, high = (math.log(aspect) for aspect in _ERASED_ASPECTS)
        aspect = (low + (high - low) * _drawn(images, generator)).exp()
        rows = _within((area * aspect).sqrt(), height, _drawn(images, generator), dim=2)
        columns = _within((area / aspect).sqrt(), width, _drawn(images, generator), dim=3)
        return images.masked_fill(erased & rows & columns, fill)

    return apply


def _within(length: Tensor, size: int, position: Tensor, *, dim: int) -> Tensor:
    """Whether a pixel's coordinate along ``dim`` lies in each image's interval.

    Args:
        length: (n, 1, 1, 1) of the interval, cut to 1 to ``size``.
        size: of the image along ``dim``.
        position: (n, 1, 1, 1), from 0 to below 1, of the interval's start among the possible ones.
        dim: 2 for rows, 3 for columns.

    Returns:
        (n, 1, size, 1) or (n, 1, 1, size) bool.
    """
    import torch

    length = length.round().clamp(1, size)
    start = (position * (size - length + 1)).floor()
    shape = [1, 1, 1, 1]
    shape[dim] = size
    pixels = torch.arange(size, device=length.device).view(shape)
    return (pixels >= start) & (pixels < start + length)


def _drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, 1, 1) float32, uniform from 0 to below 1."""
    import torch

    return torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise UsageError(f"a probability of {probability}", hint="from 0 to 1")

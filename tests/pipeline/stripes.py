"""A small network that tells stripes apart, and images of them: a whole recipe in seconds."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 12


def factory() -> tuple[nn.Module, tuple[Tensor]]:
    """Two convolutions and a classifier of four directions, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 4),
        )
    return network.eval(), (torch.zeros(1, 1, SIZE, SIZE),)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn a batch upside down and left to right, half of the time: directions stay."""
    turned = torch.rand(1, generator=generator, device=images.device).item() < 0.5
    return images.flip(2, 3) if turned else images


def save_stripes(path: Path, count: int, seed: int, *, noise: float = 0.4) -> str:
    """Write stripes in four directions with noise, any phase; returns the path."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    angles = labels[:, None, None] * np.pi / 4
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phase = random.uniform(0, 2 * np.pi, (count, 1, 1))
    along = rows * np.cos(angles) + columns * np.sin(angles)
    images = np.sin(1.6 * along + phase) + random.normal(0, noise, (count, SIZE, SIZE))
    np.savez(path, input=images[:, None].astype(np.float32), labels=labels)
    return str(path)

"""A small network that looks for small things at three scales."""

import torch
from torch import Tensor, nn

from examples.inspection.textures import CLASSES, SIZE
from examples.models import ImageModel, convolution


class Inspector(nn.Module):
    """Images (n, 1, h, w) to logits (n, 3).

    A defect fills a few pixels of thousands, so its strongest response counts and not the mean:
    each of three scales gives the maximum of every feature. Thin scratches show at the finest one,
    spots at the coarser ones too.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 32, 48)) -> None:
        super().__init__()
        first, second, third = widths
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    convolution(1, first, 5, stride=2, activation=nn.ReLU),
                    convolution(first, first, 3, activation=nn.ReLU),
                ),
                nn.Sequential(
                    convolution(first, second, 3, stride=2, activation=nn.ReLU),
                    convolution(second, second, 3, activation=nn.ReLU),
                ),
                nn.Sequential(
                    convolution(second, third, 3, stride=2, activation=nn.ReLU),
                    convolution(third, third, 3, activation=nn.ReLU),
                ),
            ]
        )
        self.strongest = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(sum(widths), len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for scale in self.scales:
            x = scale(x)
            found.append(self.strongest(x).flatten(1))
        return self.classifier(torch.cat(found, dim=1))


def inspector() -> ImageModel:
    """The network with seeded random weights, and an example input; to be trained by a recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Inspector().eval(), (torch.zeros(1, 1, SIZE, SIZE),)

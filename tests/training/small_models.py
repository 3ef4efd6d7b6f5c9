"""Networks and data that train in milliseconds."""

import torch
from torch import Tensor, nn

from deepseek_edge.training import TrainingData


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a value of the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def perceptron() -> nn.Module:
    """(n, 6) to 3 classes, without batch statistics and dropout."""
    return seeded(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))


class Block(nn.Module):
    """A residual block with batch statistics and dropout; counts its forward passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(0.2)
        )
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return torch.relu(x + self.layers(x))


def blocks() -> nn.Sequential:
    """(n, 1, h, w) to 3 classes, with all that makes a training run hard to repeat."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sequential(Block(4), Block(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    seeded(model)
    return model


def vectors(count: int = 48) -> TrainingData:
    """Inputs (n, 6) of 3 classes that a perceptron can tell apart."""
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return TrainingData(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


def images(count: int = 48) -> TrainingData:
    """Images (n, 1, 6, 6) of 3 classes."""
    generator = torch.Generator().manual_seed(2)
    return TrainingData(
        torch.randn(count, 1, 6, 6, generator=generator),
        torch.randint(3, (count,), generator=generator),
    )


def parameters(model: nn.Module) -> list[Tensor]:
    """Copies of all that was learnt, buffers included."""
    return [value.detach().clone() for value in model.state_dict().values()]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same bits."""
    return all(map(torch.equal, parameters(one), parameters(other)))

"""Small torch modules that the tests export by name."""

import torch


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.stem(x).mean((2, 3)))
        return logits


class FixedBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(1, 12) + torch.ones(1, 12)


class TwoOutputs(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a * b


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def small() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return Small().eval(), (torch.zeros(1, 3, 8, 8),)


def fixed_batch() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    return FixedBatch(), (torch.zeros(1, 3, 4),)


def two_outputs() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    return TwoOutputs(), (torch.zeros(1, 4), torch.zeros(1, 4))


def branching() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    return Branching(), (torch.zeros(1, 4),)


def no_pair() -> torch.nn.Module:
    return Small()

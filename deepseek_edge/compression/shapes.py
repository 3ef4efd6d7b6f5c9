"""What a layer is to something that says what it costs."""

import math
from dataclasses import dataclass
from typing import Literal

LayerOp = Literal["conv", "conv_transpose", "linear"]


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer without its weights.

    Attributes:
        op: of a linear layer the fields on kernels are empty.
        in_channels, out_channels: of the whole layer, not of one of its groups.
        kernel, stride, padding, dilation: one number a spatial axis.
        size: of the input: its spatial axes, or of a linear layer how many vectors a sample has.
        batch: samples a call.
    """

    op: LayerOp
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    size: tuple[int, ...] = (1,)
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a call."""
        # A transposed convolution multiplies at each position of its input.
        places = self.output_size if self.op == "conv" else self.size
        weights = self.in_channels // self.groups * self.out_channels * math.prod(self.kernel)
        return self.batch * math.prod(places) * weights

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial axes of a convolution's output; of other layers, those of the input."""
        if self.op != "conv":
            return self.size
        windows = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in windows
        )

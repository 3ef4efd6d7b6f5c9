"""The arithmetic of sliding windows: strides, padding, and which taps miss the image."""

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.backends.tvm.schedules.kernel import Expr, index


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution or pooling, in elements; input and output are channels last.

    With ``channels_first`` the input alone is NCHW. One spatial dimension is a height of 1.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    channels_first: bool

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...]) -> "Geometry":
        """Read a node's attributes; ``kernel`` is (height, width)."""
        shape, out = node.value(0).shape, node.output.shape
        first = bool(node.attrs.get("channels_first_input"))
        if first:
            shape = (shape[0], *shape[2:], shape[1])
        flat = len(shape) == 3
        if flat:
            shape, out = (shape[0], 1, *shape[1:]), (out[0], 1, *out[1:])
        strides = _pair(node.attrs.get("strides"), flat, 1)
        dilations = _pair(node.attrs.get("dilations"), flat, 1)
        given = node.attrs["pads"]
        pads: tuple[int, int] = (0, given[0]) if flat else (given[0], given[1])
        return cls(
            shape[0],
            shape[1],
            shape[2],
            shape[3],
            out[1],
            out[2],
            kernel[0],
            kernel[1],
            *strides,
            *dilations,
            *pads,
            first,
        )

    @property
    def pixel_stride(self) -> int:
        """Distance between neighbouring pixels of a row."""
        return 1 if self.channels_first else self.channels

    @property
    def channel_stride(self) -> int:
        """Distance between neighbouring channels of a pixel; 1 if there is only one."""
        return self.height * self.width if self.channels_first and self.channels > 1 else 1

    def has_lines(self, depth: int) -> bool:
        """True if what a filter row reads lies end to end: all ``depth`` channels of its pixels."""
        return (
            self.kernel_w > 1
            and self.dilation_w == 1
            and self.channel_stride == 1
            and depth == self.pixel_stride
        )

    def is_dense(self) -> bool:
        """True if output pixel i reads exactly input pixel i of a 1x1 kernel."""
        return (self.stride_h, self.stride_w, self.pad_top, self.pad_left) == (1, 1, 0, 0) and (
            self.out_height,
            self.out_width,
        ) == (self.height, self.width)

    def split_row(self, row: Expr) -> tuple[Expr, Expr]:
        """(batch item, output line) of a flat output row."""
        if self.batch == 1:
            return index(0), row
        return tirx.indexdiv(row, index(self.out_height)), tirx.indexmod(
            row, index(self.out_height)
        )

    def line(self, batch: Expr, y: Expr) -> Expr:
        """Where input line ``y`` of a batch item starts."""
        if self.channels_first:
            return (batch * index(self.channels * self.height) + y) * index(self.width)
        return (batch * index(self.height) + y) * index(self.width * self.channels)

    def can_miss_rows(self) -> bool:
        """True if some filter row of some output lies above or below the image."""
        last = (self.out_height - 1) * self.stride_h - self.pad_top
        return self.pad_top > 0 or last + (self.kernel_h - 1) * self.dilation_h >= self.height

    def row_exists(self, y: Expr) -> Expr | bool:
        """The condition under which input line ``y`` is inside the image."""
        if not self.can_miss_rows():
            return True
        return tirx.And(y >= index(0), y < index(self.height))


@dataclass(frozen=True)
class Span:
    """``count`` tiles of ``width`` output pixels from ``start`` that emit the same code."""

    start: int
    width: int
    count: int
    is_inside: bool

    def hits(self, row: int, s: int, shape: Geometry) -> bool:
        """True if filter column ``s`` of pixel ``row`` is inside the image."""
        if self.is_inside:
            return True
        x = (self.start + row) * shape.stride_w - shape.pad_left + s * shape.dilation_w
        return 0 <= x < shape.width


def spans(shape: Geometry, parts: list[int]) -> list[Span]:
    """Cut a row of outputs into tiles of the given widths; join equal inner neighbours."""
    joined: list[Span] = []
    start = 0
    reach = (shape.kernel_w - 1) * shape.dilation_w
    for width in parts:
        first = start * shape.stride_w - shape.pad_left
        last = (start + width - 1) * shape.stride_w - shape.pad_left + reach
        inside = first >= 0 and last < shape.width
        before = joined[-1] if joined else None
        if inside and before and before.is_inside and before.width == width:
            joined[-1] = Span(before.start, width, before.count + 1, True)
        else:
            joined.append(Span(start, width, 1, inside))
        start += width
    return joined


def _pair(values: Any, flat: bool, default: int) -> tuple[int, int]:
    if not values:
        return default, default
    return (1, values[0]) if flat else (values[0], values[1])

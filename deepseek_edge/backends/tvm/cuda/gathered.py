"""A matrix product whose left side is gathered from an image, as all kernels for it see it."""

from dataclasses import dataclass

import numpy as np

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.launch import Board
from deepseek_edge.backends.tvm.cuda.value import Epilogue
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.weights import INTEGER, zero_point_sums


@dataclass(frozen=True)
class Gathered:
    """A product whose left matrix is gathered from an image.

    Attributes:
        shape: of the convolution; a matrix product's is one tap over a line of pixels.
        taps: weights (group, column, kernel_h, kernel_w, channel).
    """

    node: Node
    step: FusedStep
    board: Board
    shape: Geometry
    taps: Array

    @property
    def is_integer(self) -> bool:
        """True if it multiplies int8."""
        return self.node.op in INTEGER

    @property
    def rows(self) -> int:
        """Of the result: output pixels."""
        return self.shape.batch * self.shape.out_height * self.shape.out_width

    @property
    def macs(self) -> int:
        """Of the whole product."""
        return self.rows * int(np.size(self.taps))

    @property
    def columns(self) -> int:
        """Of the result: output channels."""
        groups, each = self.taps.shape[:2]
        return int(groups * each)

    @property
    def zero_point(self) -> int:
        """What int8 input stands for 0."""
        return int(self.node.attrs["zero_point"]) if self.is_integer else 0

    def epilogue(self, *, corrects: bool) -> Epilogue:
        """``corrects``: sums are of raw int8, so that the zero point's share is still in them."""
        node = self.node
        fusion = DeviceFusion(self.step, self.board.target)
        if not self.is_integer:
            return Epilogue.of(fusion, {"bias": _flat(node.optional(2))}, "float32")
        start = _flat(node.optional(3))
        ordered = self.taps.transpose(0, 2, 3, 4, 1)
        first, _ = zero_point_sums(node, ordered)  # refuses sums that may overflow
        if corrects and first.any():
            start = constant(f"{node.source}/start", first.reshape(-1))
        tables = {"start": start, "factor": _flat(node.value(2)), "offset": _flat(node.optional(4))}
        return Epilogue.of(fusion, tables, "int32")

    def constants(self) -> dict[str, int]:
        """What gather.cuh needs to know."""
        sizes = {"CG": self.taps.shape[4], "K": self.taps[0, 0].size, "N": self.taps.shape[1]}
        return {**window_constants(self.shape), **sizes}

    def weights(self, array: Array, *, dtype: str) -> Value:
        """A packed form of ``taps``: int8 where it is that, else of the dtype."""
        kind = "int8" if self.is_integer else dtype
        return constant(f"{self.source}/packed", array.astype(kind).reshape(-1))

    @property
    def sum_type(self) -> str:
        """Of C."""
        return "int" if self.is_integer else "float"

    @property
    def source(self) -> str:
        """What its constants are named after."""
        return self.node.source or self.node.output.name


def window_constants(shape: Geometry) -> dict[str, int]:
    """Of gather.cuh, those of the windows alone."""
    first = shape.channels_first
    last = (shape.out_width - 1) * shape.stride_w - shape.pad_left
    misses_columns = (
        shape.pad_left > 0 or last + (shape.kernel_w - 1) * shape.dilation_w >= shape.width
    )
    return {
        "BATCH": shape.batch,
        "H": shape.height,
        "W": shape.width,
        "OH": shape.out_height,
        "OW": shape.out_width,
        "KH": shape.kernel_h,
        "KW": shape.kernel_w,
        "SH": shape.stride_h,
        "SW": shape.stride_w,
        "DH": shape.dilation_h,
        "DW": shape.dilation_w,
        "PT": shape.pad_top,
        "PL": shape.pad_left,
        "BATCH_STRIDE": shape.height * shape.width * shape.channels,
        "LINE_STRIDE": shape.width * (1 if first else shape.channels),
        "PIXEL_STRIDE": shape.pixel_stride,
        "CHANNEL_STRIDE": shape.height * shape.width if first else 1,
        "M": shape.batch * shape.out_height * shape.out_width,
        "IS_PADDED": int(shape.can_miss_rows() or misses_columns),
    }


def _flat(value: Value | None) -> Value | None:
    if value is None or value.data is None:
        return None
    return constant(value.name, value.data.reshape(-1))

"""Convolutions and matrix products on a GPU.

With constant weights they are one thing, a matrix product whose left side is gathered from the
image: on tensor cores where the GPU has those of mma_gemm.cuh and the program's numbers are half
floats or int8, else without. Depthwise convolutions read each input a few times only and need no
product. Two activations are multiplied a result a thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.launch import Board, Launch, Template, Workspace
from deepseek_edge.backends.tvm.cuda.threads import Tensor, launch_threads
from deepseek_edge.backends.tvm.cuda.tiles import Product, Tile, choose_tile
from deepseek_edge.backends.tvm.cuda.value import C_MEMORY, Epilogue
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Array, Node, Value, constant
from deepseek_edge.backends.tvm.schedules.fusion import broadcast_row
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.kernel import (
    Expr,
    bind,
    index,
    load,
    local,
    loop,
    rounded,
    store,
)
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div
from deepseek_edge.backends.tvm.schedules.weights import INTEGER, zero_point_sums
from deepseek_edge.errors import UnsupportedError

_SIMT_TILE = 64
_SIMT_SHARED = 4 * (16 * 68 + 16 * 64)


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
        return self.rows * self.taps.size

    @property
    def columns(self) -> int:
        """Of the result: output channels."""
        return self.taps.shape[0] * self.taps.shape[1]

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
        shape, channels = self.shape, self.taps.shape[4]
        first = shape.channels_first
        is_padded = shape.can_miss_rows() or self._misses_columns()
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
            "CG": channels,
            "BATCH_STRIDE": shape.height * shape.width * shape.channels,
            "LINE_STRIDE": shape.width * (1 if first else shape.channels),
            "PIXEL_STRIDE": shape.pixel_stride,
            "CHANNEL_STRIDE": shape.height * shape.width if first else 1,
            "M": self.rows,
            "IS_PADDED": int(is_padded),
            "K": self.taps[0, 0].size,
            "N": self.taps.shape[1],
        }

    def _misses_columns(self) -> bool:
        shape = self.shape
        last = (shape.out_width - 1) * shape.stride_w - shape.pad_left
        return shape.pad_left > 0 or last + (shape.kernel_w - 1) * shape.dilation_w >= shape.width

    @property
    def source(self) -> str:
        """What its constants are named after."""
        return self.node.source or self.node.output.name


def _flat(value: Value | None) -> Value | None:
    if value is None or value.data is None:
        return None
    return constant(value.name, value.data.reshape(-1))


def convolution(node: Node, step: FusedStep, board: Board) -> Launch:
    """Conv and IntegerConv with constant weights (out, in / group, kh, kw)."""
    weights = node.value(1).data
    if weights is None or any(v is not None and v.data is None for v in node.inputs[2:]):
        raise UnsupportedError(f"Conv (node {node.source!r}) has weights that aren't constant")
    if weights.ndim == 3:
        weights = weights[:, :, None, :]
    shape = Geometry.of(node, weights.shape[2:])
    groups = node.attrs.get("group", 1)
    taps = weights.reshape(groups, -1, *weights.shape[1:]).transpose(0, 1, 3, 4, 2)
    product = Gathered(node, step, board, shape, taps)
    if groups > 1 and taps.shape[1] == taps.shape[4] == 1:
        return depthwise(product)
    return gemm(product)


def matmul(node: Node, step: FusedStep, board: Board) -> Launch:
    """MatMul: (..., m, k) x (k, n) with constant weights, or a batch of both."""
    a, b = node.value(0), node.value(1)
    if b.data is None or any(size != 1 for size in b.shape[:-2]):
        return activation_product(node, DeviceFusion(step, board.target))
    depth = a.shape[-1]
    matrix = b.data.reshape(depth, -1)
    rows = a.elements // depth
    shape = Geometry(1, 1, rows, depth, 1, rows, 1, 1, 1, 1, 1, 1, 0, 0, False)
    return gemm(Gathered(node, step, board, shape, matrix.T[None, :, None, None, :]))


def gemm(product: Gathered) -> Launch:
    """On tensor cores if that is possible, else without."""
    board = product.board
    uses_half = board.is_half and not product.is_integer
    if board.has_fast_matrices and (product.is_integer or uses_half):
        return mma_gemm(product)
    return simt_gemm(product)


def depthwise(product: Gathered) -> Launch:
    """A thread computes some channels of a pixel."""
    taps, shape = product.taps, product.shape
    ordered = np.ascontiguousarray(taps[:, 0, :, :, 0].transpose(1, 2, 0))
    packed = _weights(product, ordered, "float16" if product.board.is_half else "float32")
    epilogue = product.epilogue(corrects=False)
    width = next(v for v in (8, 4, 1) if shape.channels % v == 0)
    numbers = {
        **product.constants(),
        "C": shape.channels,
        "OFFSET": product.zero_point,
        "V": width,
    }
    tensors = [product.node.value(0), packed, *epilogue.tensors]
    functor = epilogue.text(2, product.columns, width)
    call = f"dse_depthwise<S>(t0, t1, {functor})"
    threads = 128
    blocks = ceil_div(product.rows * shape.channels // width, threads)
    kernel = _template(
        "depthwise.cuh", tensors, numbers, _sum_type(product), call, epilogue, threads
    )
    return Launch(kernel, tuple(tensors), (blocks, 1, 1), product.macs, threads)


def simt_gemm(product: Gathered) -> Launch:
    """64 x 64 results a block, by multiplications of single numbers."""
    groups, columns = product.taps.shape[:2]
    padded = ceil_div(columns, _SIMT_TILE) * _SIMT_TILE
    lines = product.taps.reshape(groups, columns, -1).transpose(0, 2, 1)
    lines = np.pad(lines, [(0, 0), (0, 0), (0, padded - columns)])
    packed = _weights(product, lines, "float16" if product.board.is_half else "float32")
    epilogue = product.epilogue(corrects=False)
    width = 4 if columns % 4 == 0 else 1
    numbers = {
        **product.constants(),
        "N_PADDED": padded,
        "OFFSET": product.zero_point,
        "V": width,
    }
    tensors = [product.node.value(0), packed, *epilogue.tensors]
    call = f"dse_simt_gemm<S>(t0, t1, {epilogue.text(2, product.columns, width)})"
    grid = (ceil_div(product.rows, _SIMT_TILE), padded // _SIMT_TILE, groups)
    kernel = _template("simt_gemm.cuh", tensors, numbers, _sum_type(product), call, epilogue, 256)
    return Launch(kernel, tuple(tensors), grid, product.macs, 256, _SIMT_SHARED)


def mma_gemm(product: Gathered) -> Launch:
    """On tensor cores, by a tile that tiles.py chooses."""
    groups, columns = product.taps.shape[:2]
    size = 1 if product.is_integer else 2
    depth = product.taps[0, 0].size
    sizes = Product(product.rows, columns, depth * size, groups, size)
    tile = choose_tile(sizes, product.board)
    packed, numbers = _packed(product, tile, size)
    epilogue = product.epilogue(corrects=True)
    width = 8 if columns % 8 == 0 else 1
    numbers["V"] = width
    grid = (
        ceil_div(product.rows, tile.bm),
        numbers["N_PADDED"] // tile.bn,
        groups * tile.splits,
    )
    tensors: list[Value] = [product.node.value(0), packed]
    joining = "nullptr, nullptr"
    if tile.splits > 1:
        elements = grid[0] * grid[1] * grid[2] * tile.bm * tile.bn
        tensors += [Workspace(f"{product.source}/sums", "float32", (elements,))]
        tensors += [product.board.counters]
        joining = f"({_sum_type(product)} *)t2, t3"
    functor = epilogue.text(len(tensors), product.columns, width)
    tensors += epilogue.tensors
    call = f"dse_mma_gemm<S>(t0, t1, {joining}, {functor})"
    kernel = _template(
        "mma_gemm.cuh", tensors, numbers, _sum_type(product), call, epilogue, tile.threads
    )
    return Launch(kernel, tuple(tensors), grid, product.macs, tile.threads, tile.shared_bytes)


def _packed(product: Gathered, tile: Tile, size: int) -> tuple[Value, dict[str, int]]:
    """The weights in rows of k, and the constants of mma_gemm.cuh."""
    groups, columns = product.taps.shape[:2]
    rows = product.taps.reshape(groups, columns, -1)
    n_padded = ceil_div(columns, tile.bn) * tile.bn
    k_padded = ceil_div(rows.shape[2] * size, tile.bk) * tile.bk
    room = [(0, 0), (0, n_padded - columns), (0, k_padded // size - rows.shape[2])]
    packed = _weights(product, np.pad(rows, room), "float16")
    constants = product.constants()
    # A copy must lie in one tap, and start at a multiple of its size.
    run = constants["CG"] * size
    pitch = product.shape.channels * size
    direct = constants["CHANNEL_STRIDE"] == 1 and product.node.value(0).dtype != "float32"
    vec = next((v for v in (16, 8, 4) if direct and run % v == 0 and pitch % v == 0), 0)
    numbers = {
        **constants,
        "ZERO": product.zero_point,
        "BM": tile.bm,
        "BN": tile.bn,
        "WARPS_M": tile.warps_m,
        "WARPS_N": tile.warps_n,
        "BK": tile.bk,
        "STAGES": tile.stages,
        "SPLITS": tile.splits,
        "N_PADDED": n_padded,
        "K_PADDED": k_padded,
        "VEC": vec,
    }
    return packed, numbers


def _weights(product: Gathered, array: Array, kind: str) -> Value:
    dtype = "int8" if product.is_integer else kind
    return constant(f"{product.source}/packed", array.astype(dtype).reshape(-1))


def _sum_type(product: Gathered) -> str:
    return "int" if product.is_integer else "float"


def _template(
    header: str,
    tensors: Sequence[Value],
    numbers: Mapping[str, int],
    sum_type: str,
    call: str,
    epilogue: Epilogue,
    threads: int,
) -> Template:
    """The kernel's text; its constants are a type of its own, which the header is told."""
    element = "int8_t" if sum_type == "int" else "uint16_t"
    constants = "\n".join(f"    static constexpr int {k} = {v};" for k, v in numbers.items())
    *inputs, out = [
        f"{C_MEMORY[value.dtype]} *__restrict__ t{number}" for number, value in enumerate(tensors)
    ]
    parameters = ", ".join(
        [
            name if isinstance(value, Workspace) else f"const {name}"
            for name, value in zip(inputs, tensors, strict=False)
        ]
        + [out]
    )
    text = f"""\
struct KERNEL_constants {{
{constants}
    typedef {sum_type} Sum;
    typedef {element} T;
    DSE_DEVICE T packed(float x) {{ return (T)dse_half(x); }}
    DSE_DEVICE T packed(T x) {{ return x; }}
}};
extern "C" __global__ void __launch_bounds__({threads}) KERNEL({parameters}) {{
  typedef KERNEL_constants S;
  {call};
}}
"""
    return Template(header, text, epilogue.function())


def activation_product(node: Node, fusion: DeviceFusion) -> Launch:
    """(..., m, k) x (..., k, n) of two activations: a thread a result; int8 exactly."""
    a, b = node.value(0), node.value(1)
    a_shape = a.shape if len(a.shape) > 1 else (1, *a.shape)
    b_shape = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    rows, depth = a_shape[-2:]
    columns, batch = b_shape[-1], tuple(np.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
    is_integer = node.op in INTEGER
    sum_type, whole = "int32" if is_integer else "float32", (*batch, 1)
    zeros = [int(node.attrs.get(key, 0)) for key in ("zero_point", "second_zero_point")]
    extra = [constant(node.value(2).name, node.value(2).data)] if is_integer else []  # type: ignore[arg-type]

    def factor(tensor: Tensor, at: Expr, zero: int) -> Expr:
        value = tensor.load(at)
        return tirx.Cast("int32", value) - tirx.const(zero, "int32") if is_integer else value

    def body(tensors: Sequence[Tensor], number: Expr) -> None:
        left, right, *rest = tensors
        fusion.take(rest[len(extra) :])
        row, column = (
            bind(tirx.indexdiv(number, index(columns))),
            tirx.indexmod(number, index(columns)),
        )
        item = bind(tirx.indexdiv(row, index(rows)))
        a_base = broadcast_row((*a_shape[:-2], 1), whole, item) * index(rows * depth)
        a_base = bind(a_base + tirx.indexmod(row, index(rows)) * index(depth))
        b_base = broadcast_row((*b_shape[:-2], 1), whole, item) * index(depth * columns)
        b_base = bind(b_base + column)
        total = local(sum_type, 1)
        store(total, 0, 1, tirx.const(0, sum_type))
        with loop(depth) as k:
            x = factor(left, a_base + k, zeros[0])
            y = factor(right, b_base + k * index(columns), zeros[1])
            store(total, 0, 1, load(total, 0, 1) + x * y)
        result = load(total, 0, 1)
        if is_integer:
            result = rounded(tirx.Cast("float32", result) * rest[0].load(0), 1)
        fusion.finish_flat(result, number)

    tensors = [a, b, *extra, *fusion.tensors]
    outputs = int(np.prod(batch)) * rows * columns
    return launch_threads(tensors, outputs, body, work=outputs * depth)

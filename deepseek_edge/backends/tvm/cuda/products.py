"""Convolutions and matrix products on a GPU.

With constant weights they are one thing, a matrix product whose left side is gathered from the
image: on tensor cores where the GPU has those of mma_gemm.cuh and the program's numbers are half
floats or int8, else without. Depthwise convolutions read each input a few times only and need no
product. Two activations are multiplied a result a thread.
"""

import numpy as np

from deepseek_edge.backends.tvm.cuda.activations import activation_product
from deepseek_edge.backends.tvm.cuda.fusion import DeviceFusion
from deepseek_edge.backends.tvm.cuda.gathered import Gathered
from deepseek_edge.backends.tvm.cuda.launch import Board, Launch, Workspace
from deepseek_edge.backends.tvm.cuda.template import template
from deepseek_edge.backends.tvm.cuda.tiles import Product, Tile, choose_tile
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Node, Value
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.lowering import ceil_div
from deepseek_edge.backends.tvm.schedules.weights import filters_of

_SIMT_TILE = 64
_SIMT_SHARED = 4 * (16 * 68 + 16 * 64)


def convolution(node: Node, step: FusedStep, board: Board) -> Launch:
    """Conv and IntegerConv with constant weights (out, in / group, kh, kw)."""
    weights = filters_of(node)
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
    packed = product.weights(ordered, dtype="float16" if product.board.is_half else "float32")
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
    kernel = template(
        "depthwise.cuh",
        tensors,
        numbers=numbers,
        call=call,
        epilogue=epilogue,
        threads=threads,
    )
    return Launch(kernel, tuple(tensors), (blocks, 1, 1), product.macs, threads)


def simt_gemm(product: Gathered) -> Launch:
    """64 x 64 results a block, by multiplications of single numbers, or of four int8."""
    groups, columns = product.taps.shape[:2]
    padded = ceil_div(columns, _SIMT_TILE) * _SIMT_TILE
    constants = product.constants()
    in_fours = product.is_integer and constants["CHANNEL_STRIDE"] == 1
    in_fours &= constants["CG"] % 4 == 0 and product.shape.channels % 4 == 0
    step = 4 if in_fours else 1
    lines = product.taps.reshape(groups, columns, -1, step).transpose(0, 2, 1, 3)
    lines = np.pad(lines, [(0, 0), (0, 0), (0, padded - columns), (0, 0)])
    packed = product.weights(lines, dtype="float16" if product.board.is_half else "float32")
    epilogue = product.epilogue(corrects=in_fours)
    width = 4 if columns % 4 == 0 else 1
    numbers = {
        **constants,
        "K": constants["K"] // step,
        "STEP": step,
        "N_PADDED": padded,
        "OFFSET": product.zero_point,
        "ZERO": product.zero_point,
        "V": width,
    }
    tensors = [product.node.value(0), packed, *epilogue.tensors]
    grid = (ceil_div(product.rows, _SIMT_TILE), padded // _SIMT_TILE, groups)
    kernel = template(
        "simt_gemm.cuh",
        tensors,
        numbers=numbers,
        call=f"dse_simt_gemm<S>(t0, t1, {epilogue.text(2, product.columns, width)})",
        epilogue=epilogue,
        threads=256,
    )
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
        joining = f"({product.sum_type} *)t2, t3"
    functor = epilogue.text(len(tensors), product.columns, width)
    tensors += epilogue.tensors
    call = f"dse_mma_gemm<S>(t0, t1, {joining}, {functor})"
    kernel = template(
        "mma_gemm.cuh",
        tensors,
        numbers=numbers,
        call=call,
        epilogue=epilogue,
        threads=tile.threads,
    )
    return Launch(kernel, tuple(tensors), grid, product.macs, tile.threads, tile.shared_bytes)


def _packed(product: Gathered, tile: Tile, size: int) -> tuple[Value, dict[str, int]]:
    """The weights in rows of k, and the constants of mma_gemm.cuh."""
    groups, columns = product.taps.shape[:2]
    rows = product.taps.reshape(groups, columns, -1)
    n_padded = ceil_div(columns, tile.bn) * tile.bn
    k_padded = ceil_div(rows.shape[2] * size, tile.bk) * tile.bk
    room = [(0, 0), (0, n_padded - columns), (0, k_padded // size - rows.shape[2])]
    packed = product.weights(np.pad(rows, room), dtype="float16")
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

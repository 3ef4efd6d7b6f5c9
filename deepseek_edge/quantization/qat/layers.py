"""ONNX operators that multiply, pool or normalize, in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepseek_edge.quantization.products import same_pads
from deepseek_edge.quantization.qat.batch_axes import reduced_axes
from deepseek_edge.quantization.qat.nodes import Node

Function = Callable[..., Any]
Pads = Sequence[tuple[int, int]]


def layer(node: Node) -> Function | None:
    """The function of a node's inputs, or None if it is another kind of operator."""
    built = _BUILT.get(node.op)
    return None if built is None else built(node)


@dataclass(frozen=True)
class _Window:
    """Of a convolution or pooling, by axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def even_pads(self) -> tuple[int, ...] | None:
        """Pads that torch's operators take, None if both ends differ."""
        if all(before == after for before, after in self.pads):
            return tuple(before for before, _ in self.pads)
        return None


def _window(node: Node, kernel: Sequence[int]) -> _Window:
    rank = len(kernel)
    if rank not in (1, 2):
        raise node.refusal(f"it has {rank} spatial dimensions, 1 and 2 are supported")
    strides = tuple(node.attribute("strides", [1] * rank))
    dilations = tuple(node.attribute("dilations", [1] * rank))
    given = node.attribute("pads", [0] * 2 * rank)
    pads = list(zip(given[:rank], given[rank:], strict=True))
    automatic = node.attribute("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        lower = automatic == "SAME_LOWER"
        size = node.shape()[2:]
        pads = [same_pads(size[i], kernel[i], strides[i], dilations[i], lower) for i in range(rank)]
    return _Window(tuple(kernel), strides, dilations, pads)


def _flat(pads: Pads) -> list[int]:
    """As functional.pad wants them: last axis first."""
    return [end for pair in reversed(pads) for end in pair]


def _convolution(node: Node) -> Function:
    window, groups = _window(node, node.shape(1)[2:]), node.attribute("group", 1)
    function: Function = functional.conv1d if window.rank == 1 else functional.conv2d
    even = window.even_pads

    def run(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        if even is None:
            x = functional.pad(x, _flat(window.pads))
        padding = even or (0,) * window.rank
        result: Tensor = function(
            x, weights, bias, window.strides, padding, window.dilations, groups
        )
        return result

    return run


def _transposed(node: Node) -> Function:
    if node.attribute("auto_pad", "NOTSET") != "NOTSET" or node.attribute("output_shape", None):
        raise node.refusal("its pads follow from its output's shape", "export it with pads")
    window, groups = _window(node, node.shape(1)[2:]), node.attribute("group", 1)
    function: Function = (
        functional.conv_transpose1d if window.rank == 1 else functional.conv_transpose2d
    )
    more = tuple(node.attribute("output_padding", [0] * window.rank))
    size = node.output_shape[2:]
    starts = [before for before, _ in window.pads]
    even = window.even_pads

    def run(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        padding = even or (0,) * window.rank
        y: Tensor = function(
            x, weights, bias, window.strides, padding, more, groups, window.dilations
        )
        if even is None:
            for axis, (start, length) in enumerate(zip(starts, size, strict=True), 2):
                y = y.narrow(axis, start, length)
        return y

    return run


def _gemm(node: Node) -> Function:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    transposed = node.attribute("transB", 0)

    def run(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        if alpha == beta == 1.0 and (bias is None or bias.dim() == 1):
            return functional.linear(x, weights if transposed else weights.t(), bias)
        y: Tensor = alpha * functional.linear(x, weights if transposed else weights.t())
        return y if bias is None else y + beta * bias

    return run


def _mat_mul(_: Node) -> Function:
    return torch.matmul


def _max_pool(node: Node) -> Function:
    window = _window(node, node.attribute("kernel_shape", []))
    function: Function = functional.max_pool1d if window.rank == 1 else functional.max_pool2d
    even = window.even_pads
    native = even is not None and all(
        2 * pad <= size for pad, size in zip(even, window.kernel, strict=True)
    )
    ceil = bool(node.attribute("ceil_mode", 0))
    pads = _filled(node, window)

    def run(x: Tensor) -> Tensor:
        padding: tuple[int, ...] = (0,) * window.rank
        if native and not ceil:
            padding = even or padding
        else:
            x = functional.pad(x, _flat(pads), value=float("-inf"))
        y: Tensor = function(x, window.kernel, window.strides, padding, window.dilations)
        return y

    return run


def _filled(node: Node, window: _Window) -> Pads:
    """Pads with which as many windows fit as the output has places."""
    size, out = node.shape()[2:], node.output_shape[2:]
    pads = []
    for i, (before, after) in enumerate(window.pads):
        reach = (out[i] - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1
        pads.append((before, max(after, reach - size[i] - before)))
    return pads


class _AveragePool(nn.Module):
    """Sums of windows, divided by how many elements each one counts."""

    shares: Tensor

    def __init__(self, node: Node, window: _Window) -> None:
        super().__init__()
        self.window = window
        self.pads = _filled(node, window)
        ones = torch.ones(1, 1, *node.shape()[2:])
        if node.attribute("count_include_pad", 0):
            ones = functional.pad(ones, _flat(window.pads), value=1.0)
            rest = [
                (0, after - given)
                for (_, after), (_, given) in zip(self.pads, window.pads, strict=True)
            ]
            ones = functional.pad(ones, _flat(rest))
        else:
            ones = functional.pad(ones, _flat(self.pads))
        self.register_buffer("shares", 1.0 / self._mean(ones))

    def _mean(self, x: Tensor) -> Tensor:
        if self.window.rank == 1:
            return functional.avg_pool1d(x, self.window.kernel, self.window.strides)
        return functional.avg_pool2d(x, self.window.kernel, self.window.strides)

    def forward(self, x: Tensor) -> Tensor:
        return self._mean(functional.pad(x, _flat(self.pads))) * self.shares


def _average_pool(node: Node) -> Function:
    window = _window(node, node.attribute("kernel_shape", []))
    if set(window.dilations) != {1}:
        raise node.refusal("it is dilated")
    if not any(end for pair in _filled(node, window) for end in pair):
        function: Function = functional.avg_pool1d if window.rank == 1 else functional.avg_pool2d
        return lambda x: function(x, window.kernel, window.strides)
    return _AveragePool(node, window)


def _global_average(node: Node) -> Function:
    axes = tuple(range(2, len(node.shape())))
    return lambda x: x.mean(axes, keepdim=True)


def _global_max(node: Node) -> Function:
    axes = tuple(range(2, len(node.shape())))
    return lambda x: x.amax(axes, keepdim=True)


def _softmax(node: Node) -> Function:
    axis = node.axis(-1)
    if node.op == "LogSoftmax":
        return lambda x: torch.log_softmax(x, axis)
    return lambda x: torch.softmax(x, axis)


def _layer_normalization(node: Node) -> Function:
    shape, epsilon = node.shape()[node.axis(-1) :], node.attribute("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, shape, scale, bias, epsilon)

    return run


def _instance_normalization(node: Node) -> Function:
    epsilon = node.attribute("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _response_normalization(node: Node) -> Function:
    size = node.attribute("size", 1)
    if size % 2 == 0:
        raise node.refusal(f"its window of {size} channels has no middle")
    alpha, beta = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    bias = node.attribute("bias", 1.0)
    return lambda x: functional.local_response_norm(x, size, alpha, beta, bias)


def _reduce(node: Node) -> Function:
    axes, keep = tuple(reduced_axes(node)), bool(node.attribute("keepdims", 1))
    if not axes:
        return lambda x: x
    run = _REDUCTIONS[node.op]
    return lambda x: run(x, axes, keep)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
}
_BUILT: dict[str, Callable[[Node], Function]] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "InstanceNormalization": _instance_normalization,
    "LRN": _response_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax,
    "MatMul": _mat_mul,
    "MaxPool": _max_pool,
    "Softmax": _softmax,
}

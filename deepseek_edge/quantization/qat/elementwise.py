"""ONNX operators that compute element by element, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepseek_edge.quantization.qat.nodes import Node

Function = Callable[..., Any]


def elementwise(node: Node) -> Function | None:
    """The function of a node's inputs, or None if it is another kind of operator."""
    if node.op in _PLAIN:
        return _PLAIN[node.op]
    built = _BUILT.get(node.op)
    return None if built is None else built(node)


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition, yes, no)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda *values: reduce(function, values)


def _mean(*values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


# fmt: off
_PLAIN: dict[str, Function] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil,
    "Cos": torch.cos, "Div": _divide, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "HardSwish": functional.hardswish, "Identity": lambda x: x, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "Max": _folded(torch.maximum), "Mean": _mean,
    "Min": _folded(torch.minimum), "Mish": functional.mish, "Mul": torch.mul, "Neg": torch.neg,
    "Not": torch.logical_not, "Or": torch.logical_or, "PRelu": _prelu,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": functional.softplus, "Softsign": functional.softsign, "Sqrt": torch.sqrt,
    "Sub": torch.sub, "Sum": _folded(torch.add), "Tanh": torch.tanh, "Where": _where,
    "Xor": torch.logical_xor,
}
# fmt: on


def _clip(node: Node) -> Function:
    bounds = [node.constant(1), node.constant(2)]
    low, high = (None if b is None else float(b.reshape(())) for b in bounds)
    if low is None and high is None:
        return lambda x: x
    return lambda x: torch.clamp(x, low, high)


def _hard_sigmoid(node: Node) -> Function:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def _leaky_relu(node: Node) -> Function:
    alpha = node.attribute("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def _elu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def _celu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def _selu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    gamma = node.attribute("gamma", 1.05070102214813232421875)
    return lambda x: gamma * functional.elu(x, alpha)


def _thresholded_relu(node: Node) -> Function:
    alpha = node.attribute("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _gelu(node: Node) -> Function:
    approximate = node.attribute("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _power(node: Node) -> Function:
    if node.index.is_constant(node.proto.input[1]):
        exponent = node.index.value(node.proto.input[1])
        if exponent.size == 1 and math.prod(node.shape(0)) >= 1:
            number = float(exponent.reshape(()))
            return lambda x, _: torch.pow(x, number)
    return torch.pow


_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16,
}  # fmt: skip


def _cast(node: Node) -> Function:
    dtype = _DTYPES.get(int(node.attribute("to", 1)))
    if dtype is None:
        raise node.refusal("torch or the compiler lacks its dtype")
    return lambda x: x.to(dtype)


_BUILT: dict[str, Callable[[Node], Function]] = {
    "Cast": _cast,
    "Celu": _celu,
    "Clip": _clip,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "Pow": _power,
    "Selu": _selu,
    "ThresholdedRelu": _thresholded_relu,
}

"""Weights to integers so that the layer's *output* changes least.

Rounding each weight to its nearest step leaves errors that add up. Second-order compensation
rounds one input's weights after the other and lets those that follow make up for each error:
B. Hassibi, D. Stork, Second order derivatives for network pruning: Optimal Brain Surgeon (NIPS
1992); E. Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers (ICLR 2023), algorithm 1. Coordinate descent then revisits every weight: K. Behdin
et al., QuantEase: Optimization-based Quantization for Language Models (2023), algorithm 1.

A layer is a batch of products: ``groups`` matrices (rows, k), each times inputs of k values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_edge.quantization.affine import WEIGHT_MAX

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# Of the largest weight of a channel: what a search for the best step tries.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
_BLOCK = 64
DESCENTS = 2
_TINY = 1e-12


def largest_scales(weights: Array) -> Array:
    """The step that covers every weight of a row.

    Args:
        weights: (groups, rows, k) float64.

    Returns:
        (groups, rows) float32, positive.
    """
    import numpy as np

    scales: Array = np.maximum(np.abs(weights).max(axis=2) / WEIGHT_MAX, _TINY).astype(np.float32)
    return scales


def best_scales(weights: Array, importance: Array) -> Array:
    """The step with the smallest squared error of a row, each weight's weighted.

    Args:
        weights: (groups, rows, k) float64.
        importance: (groups, k), of each input; its mean square.

    Returns:
        (groups, rows) float32, positive.
    """
    import numpy as np

    full = largest_scales(weights)
    best, least = full, np.full(full.shape, np.inf)
    for share in _SHARES:
        scales = (full * np.float32(share)).astype(np.float32)
        error = weights - _nearest(weights, scales) * scales[..., None].astype(np.float64)
        cost = np.einsum("grk,gk->gr", error * error, importance)
        best = np.where(cost < least, scales, best)
        least = np.minimum(cost, least)
    return best


def _nearest(weights: Array, scales: Array) -> Array:
    import numpy as np

    steps = np.rint(weights / scales[..., None].astype(weights.dtype))
    kept: Array = np.clip(steps, -WEIGHT_MAX, WEIGHT_MAX)
    return kept


def round_nearest(weights: Array, scales: Array) -> Array:
    """Each weight to its nearest step; shapes as in ``round_compensated``."""
    import numpy as np

    return _nearest(weights, scales).astype(np.int8)


def round_compensated(weights: Array, scales: Array, hessian: Array) -> Array:
    """Weights as integers that change the layer's output little.

    Args:
        weights: (groups, rows, k) float64.
        scales: (groups, rows) float32.
        hessian: (groups, k, k) float64, positive definite: the mean of x x^T over inputs x.

    Returns:
        (groups, rows, k) int8, -127 to 127.
    """
    import numpy as np

    steps = _compensate(weights, scales, hessian)
    # Which integer is nearest needs no more digits, and both time and memory are half.
    weights, hessian = weights.astype(np.float32), hessian.astype(np.float32)
    for _ in range(DESCENTS):
        if not _descend(weights, scales, hessian, steps):
            break
    # A greedy search may lose; a row then keeps its nearest steps.
    nearest = _nearest(weights, scales)
    is_better = output_error(weights, scales, steps, hessian) <= output_error(
        weights, scales, nearest, hessian
    )
    return np.where(is_better[..., None], steps, nearest).astype(np.int8)


def output_error(weights: Array, scales: Array, steps: Array, hessian: Array) -> Array:
    """Mean squared error of each row's output: e H e^T, (groups, rows)."""
    import numpy as np

    error = weights - steps * scales[..., None].astype(weights.dtype)
    cost: Array = np.einsum("grk,grk->gr", error @ hessian, error)
    return cost


def _compensate(weights: Array, scales: Array, hessian: Array) -> Array:
    """From the last input to the first, each rounded where those before it leave the least error.

    With H = R^T R this is Babai's nearest plane, which is GPTQ in the opposite order without an
    inverse: J. Chen et al., The Geometry of LLM Quantization (2025), theorem 4.
    """
    import numpy as np

    # The inputs that matter most go first, while all others can still make up for them.
    order = np.argsort(np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    goal = np.take_along_axis(weights, order[:, None, :], axis=2)
    group = np.arange(len(order))[:, None, None]
    lower = np.linalg.cholesky(hessian[group, order[:, :, None], order[:, None, :]])
    lower /= np.einsum("gkk->gk", lower)[:, None, :].copy()
    # The upper factor, each row over its diagonal.
    factor = lower.astype(np.float32).transpose(0, 2, 1)
    del lower
    goal, wide = goal.astype(np.float32), scales
    steps, error = np.empty_like(goal), np.zeros_like(goal)
    for end in range(goal.shape[2], 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        carried = error[:, :, end:] @ factor[:, start:end, end:].transpose(0, 2, 1)
        for j in range(end - 1, start - 1, -1):
            inside = np.einsum("grk,gk->gr", error[:, :, j + 1 : end], factor[:, j, j + 1 : end])
            ideal = (goal[:, :, j] + carried[:, :, j - start] + inside) / wide
            steps[:, :, j] = np.clip(np.rint(ideal), -WEIGHT_MAX, WEIGHT_MAX)
            error[:, :, j] = goal[:, :, j] - steps[:, :, j] * wide
    result = np.empty_like(steps)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], steps.shape), steps, axis=2)
    return result


def _descend(weights: Array, scales: Array, hessian: Array, steps: Array) -> bool:
    """Move each integer to where the error is least, the others held; True if any moved."""
    import numpy as np

    wide = scales
    error = weights - steps * wide[..., None]
    moved = False
    for start in range(0, weights.shape[2], _BLOCK):
        block = slice(start, start + _BLOCK)
        slope = error @ hessian[:, :, block]
        inner = hessian[:, block, block]
        for j in range(slope.shape[2]):
            column = steps[:, :, start + j]
            ideal = column + slope[:, :, j] / (inner[:, None, j, j] * wide)
            better = np.clip(np.rint(ideal), -WEIGHT_MAX, WEIGHT_MAX)
            change = (better - column) * wide
            if change.any():
                moved = True
                steps[:, :, start + j] = better
                error[:, :, start + j] -= change
                slope -= change[:, :, None] * inner[:, None, j, :]
    return moved

"""Weights to integers so that the layer's *output* changes least.

Rounding each weight to its nearest step leaves errors that add up. Second-order compensation
rounds one input's weights after the other and lets those that follow make up for each error:
B. Hassibi, D. Stork, Second order derivatives for network pruning: Optimal Brain Surgeon (NIPS
1992); E. Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers (ICLR 2023), algorithm 1. Coordinate descent then revisits every weight: K. Behdin
et al., QuantEase: Optimization-based Quantization for Language Models (2023), equation 6.

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

    steps = np.rint(weights / scales[..., None].astype(np.float64))
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
    for _ in range(DESCENTS):
        if not _descend(weights, scales, hessian, steps):
            break
    return steps.astype(np.int8)


def output_error(weights: Array, scales: Array, steps: Array, hessian: Array) -> Array:
    """Mean squared error of each row's output: e H e^T, (groups, rows) float64."""
    import numpy as np

    error = weights - steps * scales[..., None].astype(np.float64)
    cost: Array = np.einsum("grk,grk->gr", error @ hessian, error)
    return cost


def _compensate(weights: Array, scales: Array, hessian: Array) -> Array:
    import numpy as np

    # The inputs that matter most go first, while all others can still make up for them.
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    rest = np.take_along_axis(weights, order[:, None, :], axis=2)
    permuted = np.take_along_axis(
        np.take_along_axis(hessian, order[:, :, None], axis=1), order[:, None, :], axis=2
    )
    # Upper factor U of the inverse: inverse(H) = U^T U.
    factor = np.linalg.cholesky(np.linalg.inv(permuted)).transpose(0, 2, 1)
    k = weights.shape[2]
    wide = scales.astype(np.float64)
    steps = np.empty_like(rest)
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        errors = np.empty((*rest.shape[:2], end - start))
        for j in range(start, end):
            kept = np.clip(np.rint(rest[:, :, j] / wide), -WEIGHT_MAX, WEIGHT_MAX)
            steps[:, :, j] = kept
            error = (rest[:, :, j] - kept * wide) / factor[:, None, j, j]
            rest[:, :, j:end] -= error[:, :, None] * factor[:, None, j, j:end]
            errors[:, :, j - start] = error
        rest[:, :, end:] -= errors @ factor[:, start:end, end:]
    result = np.empty_like(steps)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], steps.shape), steps, axis=2)
    return result


def _descend(weights: Array, scales: Array, hessian: Array, steps: Array) -> bool:
    """Move each integer to where the error is least, the others held; True if any moved."""
    import numpy as np

    wide = scales.astype(np.float64)
    # How the error changes with each weight: (w - s q) H.
    slope = (weights - steps * wide[..., None]) @ hessian
    moved = False
    for j in range(weights.shape[2]):
        ideal = steps[:, :, j] + slope[:, :, j] / (hessian[:, None, j, j] * wide)
        better = np.clip(np.rint(ideal), -WEIGHT_MAX, WEIGHT_MAX)
        change = (better - steps[:, :, j]) * wide
        if change.any():
            moved = True
            steps[:, :, j] = better
            slope -= change[:, :, None] * hessian[:, None, j, :]
    return moved

"""How far an artifact's outputs are from the float model's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek_edge.artifacts import ParityFloat

Tensors = Mapping[str, NDArray[Any]]


def signal_to_noise_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def compare_float(reference: Sequence[Tensors], artifact: Sequence[Tensors]) -> ParityFloat:
    """Measure the distance to the float model, pooled over all float outputs and samples.

    SQNR is 10 log10(sum f^2 / sum (f - q)^2), infinite when all outputs are equal.
    ``top1_agreement`` is the share of rows whose largest element is at the same place, if the
    first output is a (rows, classes) float matrix with several classes; else None.
    """
    signal = noise = product = power = 0.0
    agreed = rows = 0
    for expected, actual in zip(reference, artifact, strict=True):
        for index, (name, value) in enumerate(expected.items()):
            if value.dtype.kind != "f":
                continue
            f = np.nan_to_num(value.astype(np.float64), posinf=0.0, neginf=0.0)
            q = np.nan_to_num(actual[name].astype(np.float64), posinf=0.0, neginf=0.0)
            signal += float((f * f).sum())
            power += float((q * q).sum())
            product += float((f * q).sum())
            noise += float(((f - q) ** 2).sum())
            if index == 0 and f.ndim == 2 and f.shape[1] > 1:
                agreed += int((f.argmax(axis=1) == q.argmax(axis=1)).sum())
                rows += f.shape[0]
    both = math.sqrt(signal * power)
    return ParityFloat(
        samples=len(reference),
        cosine=product / both if both else float(signal == power),
        sqnr_db=signal_to_noise_db(signal, noise),
        top1_agreement=agreed / rows if rows else None,
    )

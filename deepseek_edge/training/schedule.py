"""The learning rate of each step."""

import math


def learning_rate_at(step: int, total: int, *, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 0.

    Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983, equation 5, without restarts;
    the warm-up is that of Goyal et al., https://arxiv.org/abs/1706.02677, section 2.2.

    Args:
        step: 0 for the first.
        total: number of steps, above ``step``.
        peak: reached by step ``warmup`` - 1.
        warmup: steps of warm-up, at most ``total``.

    Returns:
        Above 0 for every step.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

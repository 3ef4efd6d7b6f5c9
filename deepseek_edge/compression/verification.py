"""Whether a module without channels computes what the whole one does with them at zero."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepseek_edge.compression.groups import ChannelGraph
from deepseek_edge.compression.removal import Doomed, remove_channels, silence_channels

TOLERANCE = 1e-3
"""Of the range of an output: sums over fewer channels round otherwise."""


def find_difference(
    model: nn.Module, example_inputs: tuple[Any, ...], graph: ChannelGraph, doomed: Doomed
) -> str | None:
    """Run both on noise; say how they differ, or None if they agree.

    Args:
        model: the whole one.
        example_inputs: noise takes the place of its float tensors; others are used as they are.
        graph: the groups of ``model``.
        doomed: the units that went.
    """
    inputs = _noise(example_inputs)
    expected = outputs(silence_channels(model, graph, doomed), inputs)
    try:
        found = outputs(remove_channels(model, graph, doomed), inputs)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        return f"the code fixes a size: {str(error).splitlines()[0]}"
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return f"an output changes its shape from {tuple(one.shape)} to {tuple(other.shape)}"
        if not one.is_floating_point():
            continue  # an index of something, which float noise may change
        span = float(one.max() - one.min()) if one.numel() else 0.0
        apart = float((one - other).abs().max()) if one.numel() else 0.0
        if not apart <= TOLERANCE * max(span, float(np.finfo(np.float32).tiny)):
            return "the code computes something from their number"
    return None


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """All tensors that a module returns in evaluation mode."""
    module = copy.deepcopy(model).eval()
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(module(*inputs))
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]


def _noise(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(value.shape, generator=generator).to(value)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for value in inputs
    )

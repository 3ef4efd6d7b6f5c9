"""Channels that stay or go together: a union-find over all channels of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

FIXED = -1
"""The id of an element that is no channel, e.g. of an image's row: it always stays."""


@dataclass
class Channels:
    """Numbers channels, and remembers which are tied and which must stay, and why.

    Attributes:
        pins: (a channel, why it has to stay), in the order in which that was found.
    """

    pins: list[tuple[int, str]] = field(default_factory=list)
    _parents: list[int] = field(default_factory=list)

    def new(self, count: int) -> Ids:
        """Ids of ``count`` more channels, tied to none."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, left: Ids, right: Ids, why: str) -> None:
        """Let each channel of ``left`` go only with the one at the same place of ``right``.

        Args:
            left: ids of any shape; what is opposite of ``FIXED`` has to stay.
            right: of the same shape.
            why: the reason to give for what has to stay.
        """
        for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True):
            if FIXED in (a, b):
                self._pin(max(a, b), why)
            else:
                self._parents[self._root(a)] = self._root(b)

    def pin(self, ids: Ids, why: str) -> None:
        """Let channels stay for a reason that a person understands."""
        for channel in ids.ravel().tolist():
            self._pin(channel, why)

    def roots(self) -> Ids:
        """Of each channel the one that stands for all that it is tied to."""
        return np.array([self._root(channel) for channel in range(len(self._parents))], np.int64)

    def _pin(self, channel: int, why: str) -> None:
        if channel != FIXED:
            self.pins.append((channel, why))

    def _root(self, channel: int) -> int:
        parents = self._parents
        while parents[channel] != channel:
            parents[channel] = parents[parents[channel]]
            channel = parents[channel]
        return channel


def fixed(count: int) -> Ids:
    """Labels of an axis that has no channels."""
    return np.full(count, FIXED, np.int64)


def has_channels(ids: Ids) -> bool:
    """Whether any element could go."""
    return bool((ids != FIXED).any())


def first_with_channels(axes: Sequence[Ids]) -> Ids:
    """The first axis that has channels, else the first."""
    return next((ids for ids in axes if has_channels(ids)), axes[0])

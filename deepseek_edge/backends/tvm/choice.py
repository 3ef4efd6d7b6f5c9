"""What a contraction's schedule decides by a model of the machine, and can be told instead."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import msgspec


@dataclass(frozen=True)
class Choice:
    """How a contraction is computed; None leaves it to the model.

    What a step can't do is not done: there the model decides.

    Attributes:
        filtering: "direct", or minimal filtering of 2x2 or 4x4 outputs, of 3x3 convolutions.
        rows, vectors: of a register tile.
        blocks_outer: weights are read once and the data often, instead of the other way around.
        unroll: steps of the inner loop that are written out.
    """

    filtering: Literal["direct", "F2", "F4"] | None = None
    rows: Annotated[int, msgspec.Meta(ge=1, le=32)] | None = None
    vectors: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    blocks_outer: bool | None = None
    unroll: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None

    def over(self, other: "Choice") -> "Choice":
        """This choice, and ``other``'s where it says nothing."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **said)


Choices = Mapping[str, Choice]
BY_MODEL = Choice()

"""One node of a graph with all that is known of it before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UnsupportedError
from deepseek_edge.quantization.graph import GraphIndex, attribute

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Node:
    """A node in its graph.

    Attributes:
        proto: as written.
        index: of the graph.
        batch_axes: of each tensor that has a sample's values, the axis that counts samples.
    """

    proto: onnx.NodeProto
    index: GraphIndex
    batch_axes: Mapping[str, int]

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.proto.op_type)

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value, or the default."""
        return attribute(self.proto, name, default)

    def has(self, place: int) -> bool:
        """True if an optional input is there."""
        return place < len(self.proto.input) and bool(self.proto.input[place])

    def shape(self, place: int = 0) -> tuple[int, ...]:
        """Of an input, with a batch of 1."""
        return self.index.shape(self.proto.input[place])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output, with a batch of 1."""
        return self.index.shape(self.proto.output[0])

    @property
    def output_batch_axis(self) -> int | None:
        """Of the first output; None if it is the same for all samples."""
        return self.batch_axes.get(self.proto.output[0])

    def constant(self, place: int) -> Array | None:
        """An input that must be constant, or None if it is left out.

        Raises:
            UnsupportedError: it is computed.
        """
        if not self.has(place):
            return None
        if not self.index.is_constant(self.proto.input[place]):
            raise self.refusal(f"its input {place} is computed", "it must be a constant")
        return self.index.value(self.proto.input[place])

    def integers(self, place: int) -> list[int] | None:
        """As ``constant``, a list."""
        value = self.constant(place)
        return None if value is None else [int(number) for number in value.reshape(-1)]

    def axis(self, default: int) -> int:
        """The attribute "axis", counted from the front."""
        return int(self.attribute("axis", default)) % max(len(self.shape()), 1)

    def refusal(self, reason: str, hint: str | None = None) -> UnsupportedError:
        """An error that names the node."""
        return UnsupportedError(
            f"node {self.proto.name!r} ({self.op}) can't be trained: {reason}",
            hint=hint or "quantize this model without training",
        )

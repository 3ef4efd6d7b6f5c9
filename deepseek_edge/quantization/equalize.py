"""Cross-layer equalization: give the channels of a tensor like ranges before one scale covers all.

A channel that a convolution makes k times larger and the next one divides by k again changes
nothing in float, if what lies between is linear or Relu; it changes what one int8 scale can
resolve. M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(ICCV 2019), section 4.1, there from weights; G. Xiao et al., SmoothQuant (ICML 2023), equation 4,
from the activations that were seen, as here: weights have a scale of each output channel anyway.

Clip(0, c) is left alone: scaled channels would be cut off at what few samples reached, and
ten photos did not reach enough for EfficientNet-Lite0: others lost 3 to 15 dB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.quantization.calibrate import session, with_outputs
from deepseek_edge.quantization.graph import GraphIndex, attribute, set_initializer

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]
    Sample = Mapping[str, Array]

LARGEST_FACTOR = 4.0
# How much of the difference in range is made up: readers' weights pay for it, and what samples
# reached is not all that inputs can reach.
SHARE = 0.5


@dataclass(frozen=True)
class Link:
    """A tensor whose channels can be scaled.

    Attributes:
        tensor: that the readers read.
        maker: the convolution it comes from.
        readers: convolutions that read it, all of them.
    """

    tensor: str
    maker: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]


def find_links(index: GraphIndex) -> list[Link]:
    """Every tensor of a prepared graph whose channels can be scaled, in order."""
    links = []
    for node in index.nodes:
        if node.op_type == "Conv" and _is_plain(index, node):
            link = _link(index, node)
            if link is not None:
                links.append(link)
    return links


def _is_plain(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """True if weights and bias are constants of this node alone."""
    return all(
        index.is_constant(name) and len(index.consumers[name]) == 1
        for name in node.input[1:]
        if name
    )


def _link(index: GraphIndex, maker: onnx.NodeProto) -> Link | None:
    tensor = maker.output[0]
    follower = index.sole_consumer(tensor)
    if follower is not None and follower.op_type == "Relu":
        tensor = follower.output[0]
    readers = tuple(node for node, _ in index.consumers.get(tensor, []))
    if not readers or tensor in index.outputs:
        return None
    channels = index.shape(tensor)[1]
    for reader in readers:
        groups = attribute(reader, "group", 1)
        if reader.op_type != "Conv" or not _is_plain(index, reader) or reader.input[0] != tensor:
            return None
        if groups not in (1, channels):
            return None
    return Link(tensor, maker, readers)


def channel_factors(model: onnx.ModelProto, samples: Sequence[Sample]) -> dict[str, Array]:
    """What to scale each channel by, from the largest values that samples give it.

    Args:
        model: prepared.
        samples: checked calibration samples.

    Returns:
        (channels,) float32 by tensor; tensors that can't be scaled are left out.
    """
    import numpy as np

    index = GraphIndex(model)
    links = find_links(index)
    if not links:
        return {}
    names = [link.tensor for link in links]
    run = session(with_outputs(model, names), optimize=True)
    largest = {name: np.zeros(index.shape(name)[1]) for name in names}
    for sample in samples:
        for name, value in zip(names, run.run(names, dict(sample)), strict=True):
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            largest[name] = np.maximum(largest[name], np.abs(value).max(axis=axes))
    return {name: _factors(largest[name]) for name in names}


def _factors(largest: Array) -> Array:
    import numpy as np

    ratio = np.where(largest > 0, largest.max() / np.maximum(largest, 1e-12), 1.0)
    factors: Array = np.clip(ratio**SHARE, 1.0, LARGEST_FACTOR).astype(np.float32)
    return factors


def equalize(model: onnx.ModelProto, factors: Mapping[str, Array]) -> onnx.ModelProto:
    """Scale channels by their factors, and their readers' weights by the inverse.

    Args:
        model: prepared; not changed.
        factors: as ``channel_factors`` gave them for this model.

    Returns:
        A copy that computes the same, up to float rounding.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    index = GraphIndex(copy)
    values: dict[str, Array] = {}

    def scale(name: str, by: Array) -> None:
        values[name] = values.get(name, index.value(name)) * by

    for link in find_links(index):
        factor = factors.get(link.tensor)
        if factor is None:
            continue
        rank = len(index.shape(link.maker.input[1]))
        scale(link.maker.input[1], factor.reshape((-1,) + (1,) * (rank - 1)))
        if len(link.maker.input) > 2 and link.maker.input[2]:
            scale(link.maker.input[2], factor)
        for reader in link.readers:
            ends = (1,) * (rank - 2)
            depthwise = attribute(reader, "group", 1) > 1
            # A depthwise reader with several outputs a channel has them side by side.
            times = index.shape(reader.input[1])[0] // len(factor)
            inverse = (1 / factor).repeat(times) if depthwise else 1 / factor
            shape = (-1, 1, *ends) if depthwise else (1, -1, *ends)
            scale(reader.input[1], inverse.reshape(shape))
    for name, value in values.items():
        set_initializer(copy, name, value.astype("float32"))
    return copy

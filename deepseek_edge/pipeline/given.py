"""What a compile starts from: a model as it was read, or one that a recipe has made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx

from deepseek_edge.artifacts import PrunedSize
from deepseek_edge.datasets import Dataset
from deepseek_edge.quantization import QuantizedModel

Progress = Callable[[str, int, int], None]
# (what post-training quantization made, progress) -> the same, trained
FineTune = Callable[[QuantizedModel, Progress], QuantizedModel]


@dataclass(frozen=True)
class Given:
    """A float or quantized graph with fixed shapes, and what is known of where it came from.

    Attributes:
        model: to be compiled.
        unpruned: that accuracy is compared with; None: ``model``.
        pruned: what was removed between the two.
        calibration: to quantize with, if the request names nothing else.
        validation: labelled, to choose between ways to quantize on.
        fine_tune: quantization-aware training, if there are data for it.
        trains_first: it was asked for in any case.
        time_s: seconds by stage.
    """

    model: onnx.ModelProto
    unpruned: onnx.ModelProto | None = None
    pruned: PrunedSize | None = None
    calibration: Dataset | None = None
    validation: Dataset | None = None
    fine_tune: FineTune | None = None
    trains_first: bool = False
    time_s: Mapping[str, float] = field(default_factory=dict)

"""How to quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.quantization.observers import OBSERVERS, Observer
from deepseek_edge.quantization.reconstruct import ROUNDINGS, Rounding

Scheme = Literal["symmetric", "asymmetric"]


@dataclass(frozen=True)
class QuantConfig:
    """What a quantizer does; the defaults are chosen on held-out calibration data.

    Attributes:
        activation_bit: 8.
        weight_bit: 8.
        quant_scheme: of activations. "symmetric": zero point 0, which TensorRT asks for;
            "asymmetric": any zero point, so that Relu's range wastes no integers.
        observer: that takes the activations' ranges.
        rounding: of weights; "gptq" needs data, "nearest" doesn't.
        equalization: scale channels where that is exact in float; needs data.
        float_budget: share of the multiply-accumulates, 0 to 1, that may stay float: of the
            layers that cost most accuracy, found with data.
    """

    activation_bit: int = 8
    weight_bit: int = 8
    quant_scheme: Scheme = "asymmetric"
    observer: Observer = "minmax"
    rounding: Rounding = "gptq"
    equalization: bool = True
    float_budget: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UnsupportedError: other widths than 8.
            UsageError: an unknown scheme, observer or rounding, or a budget outside 0 to 1.
        """
        if (self.activation_bit, self.weight_bit) != (8, 8):
            raise UnsupportedError(
                f"{self.activation_bit}-bit activations with {self.weight_bit}-bit weights are "
                "not supported",
                hint="8 and 8 are",
            )
        for value, known in (
            (self.quant_scheme, get_args(Scheme)),
            (self.observer, OBSERVERS),
            (self.rounding, ROUNDINGS),
        ):
            if value not in known:
                raise UsageError(f"unknown: {value!r}", hint=f"one of {', '.join(known)}")
        if not 0.0 <= self.float_budget <= 1.0:
            raise UsageError(
                f"a budget of {self.float_budget} can't be meant",
                hint="it is a share of the work, 0 to 1",
            )

    @property
    def is_symmetric(self) -> bool:
        """True if every zero point is 0."""
        return self.quant_scheme == "symmetric"

"""The ways to run a model that are compared on CPUs: our own programs and five others.

Each lives in a module with a class named ``Runner``, and runs in a process of its own
(``process.py`` starts it, ``worker.py`` is it): their thread pools and memory never meet, and a
crash of one is a reason in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OURS = "deepseek_edge"
# Each with the packages that it needs; the first one's version names its conversions.
PEERS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "pnnx"),
    "executorch": ("executorch", "pnnx"),
}


@dataclass(frozen=True)
class Source:
    """What to run.

    Attributes:
        graph: ONNX file with static shapes, float or Q/DQ.
        float_graph: the float model behind a Q/DQ graph, for a peer that quantizes by itself;
            otherwise ``graph``.
    """

    graph: Path
    float_graph: Path

    @property
    def is_quantized(self) -> bool:
        """Is it a Q/DQ graph?"""
        return self.graph != self.float_graph


class PeerError(Exception):
    """A peer can't run this model; the message is the reason that a table shows."""


class Runner(Protocol):
    """A model, loaded, with its inputs in place once it was run."""

    @staticmethod
    def convert(source: Source, folder: Path) -> Path:
        """Make the file that the peer loads.

        Args:
            source: the model.
            folder: an empty folder for it.

        Returns:
            The file, in ``folder`` unless the peer loads the ONNX file itself.

        Raises:
            PeerError: the peer can't represent it.
        """

    def __init__(self, file: Path, source: Source, threads: int) -> None:
        """Load what ``convert`` made."""

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Set the inputs, run once, and return copies of the outputs in the graph's order."""

    def time(self, calls: int) -> list[float]:
        """Run on the inputs in place; the milliseconds of each call, without copies."""

"""Calibration tables: the ranges that a data set gave a graph's tensors, as a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from deepseek_edge.errors import UsageError
from deepseek_edge.files import write_atomic
from deepseek_edge.quantization.affine import Affine

SCHEMA = 1


@dataclass(frozen=True)
class TensorRange:
    """What one activation tensor is quantized with.

    Attributes:
        min, max: the range that the observer chose.
        scale: of one step.
        zero_point: -128 to 127.
    """

    min: float
    max: float
    scale: float
    zero_point: int

    @property
    def affine(self) -> Affine:
        """Scale and zero point alone."""
        return Affine(self.scale, self.zero_point)


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of a graph's tensors, and what they come from.

    Attributes:
        schema: of this form.
        graph_sha256: of the float graph with fixed shapes.
        dataset_sha256: of the samples.
        samples: how many were run.
        observer: that chose the ranges.
        tensors: by name, in the graph's order.
    """

    schema: int
    graph_sha256: str
    dataset_sha256: str
    samples: int
    observer: str
    tensors: Mapping[str, TensorRange]

    @property
    def affines(self) -> dict[str, Affine]:
        """Scale and zero point of each tensor."""
        return {name: entry.affine for name, entry in self.tensors.items()}

    @property
    def is_symmetric(self) -> bool:
        """True if every zero point is 0."""
        return all(entry.zero_point == 0 for entry in self.tensors.values())


def write_table(path: Path, table: CalibrationTable) -> None:
    """Write a table as JSON.

    Raises:
        OutputError: the file can't be written.
    """
    write_atomic(path, (json.dumps(asdict(table), indent=1, allow_nan=False) + "\n").encode())


def read_table(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        UsageError: there is no such file, it is not a table, or a value is impossible.
    """
    try:
        table = msgspec.convert(json.loads(path.read_text("utf-8")), CalibrationTable)
    except (OSError, UnicodeDecodeError, ValueError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{path} is no calibration table: {error}",
            hint="write one with deepseek-edge calibrate MODEL --calib SOURCE -o TABLE.json",
        ) from error
    if table.schema != SCHEMA:
        raise UsageError(f"{path} has schema {table.schema}, this version reads {SCHEMA}")
    for name, entry in table.tensors.items():
        numbers = (entry.min, entry.max, entry.scale)
        if not all(map(math.isfinite, numbers)) or entry.scale <= 0 or entry.min > entry.max:
            raise UsageError(f"{path}: the range of tensor {name!r} is impossible")
        if not -128 <= entry.zero_point <= 127:
            raise UsageError(f"{path}: the zero point of tensor {name!r} is not int8")
    return table


def check_table(table: CalibrationTable, graph_sha256: str, names: tuple[str, ...]) -> None:
    """Refuse a table of another graph.

    Args:
        table: as read.
        graph_sha256: of the graph at hand.
        names: of the tensors that need a range.

    Raises:
        UsageError: it belongs to another graph, or lacks a tensor.
    """
    if table.graph_sha256 != graph_sha256:
        raise UsageError(
            "the calibration table belongs to another graph "
            f"({table.graph_sha256[:12]}, this one is {graph_sha256[:12]})",
            hint="calibrate this model: deepseek-edge calibrate MODEL --calib SOURCE",
        )
    lacking = [name for name in names if name not in table.tensors]
    if lacking:
        raise UsageError(
            f"the calibration table has no range for tensor {lacking[0]!r}",
            hint="it was edited, or made by another version: calibrate again",
        )


def dataset_digest(samples: Any) -> str:
    """SHA-256 over the names and bytes of samples."""
    import hashlib

    sha256 = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            value = sample[name]
            sha256.update(f"{name} {value.dtype} {value.shape}\n".encode())
            sha256.update(value.tobytes())
    return sha256.hexdigest()

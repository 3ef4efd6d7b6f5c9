"""Runs a program on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.runtime.engine import Engine

if TYPE_CHECKING:
    from numpy.typing import NDArray


def run(
    library: Path, inputs: Mapping[str, "NDArray[Any]"], *, entry: int = 0, threads: int = 0
) -> dict[str, "NDArray[Any]"]:
    """Run one entry of a compiled model once; nothing stays open.

    Args:
        library: a model.so for this machine.
        inputs: one array for each input, of exactly its dtype and shape.
        entry: index of the entry.
        threads: 0 for as many as this process may use.

    Returns:
        Outputs by name.

    Raises:
        As :class:`deepseek_edge.runtime.engine.Engine` and its ``run``.
    """
    with Engine(library, threads=threads) as engine:
        return engine.run(inputs, entry=entry)

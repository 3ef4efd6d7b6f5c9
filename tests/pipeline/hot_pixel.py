"""A classifier of brightness that plain ranges break: one calibration image has a hot pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.quantization.graphs import model, node

LEVELS = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
SIZE = 16
HOT = 1000.0


def brightness() -> onnx.ModelProto:
    """The mean of an image's pixels, and how near it is to four levels."""
    nodes = [
        node("Conv", ["x", "w", "b"], "c"),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "mean"),
        node("Flatten", ["mean"], "flat"),
        node("Gemm", ["flat", "levels", "offsets"], "y"),
    ]
    # |m - level|^2 = m^2 - 2 m level + level^2, and m^2 is common to all classes.
    constants = {
        "w": np.ones((4, 1, 1, 1), np.float32),
        "b": np.zeros(4, np.float32),
        "levels": np.tile(2 * LEVELS / 4, (4, 1)).astype(np.float32),
        "offsets": -(LEVELS**2),
    }
    return model(nodes, {"x": (1, 1, SIZE, SIZE)}, ("y",), constants)


def images(count: int, seed: int, *, hot: bool = False, scale: float = 1.0) -> dict[str, Any]:
    """Images (n, 1, 16, 16) of the four levels with noise of 0.15, and their levels' indices."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    x = LEVELS[labels, None, None, None] + random.uniform(-0.15, 0.15, (count, 1, SIZE, SIZE))
    x = (scale * x).astype(np.float32)
    if hot:
        x[0, 0, 3, 5] = HOT
    return {"x": x, "labels": labels}


def save(path: Path, **arrays: Any) -> str:
    """Write an .npz, and give its name."""
    np.savez(path, **arrays)
    return str(path)

"""Render data, train, quantize and compile: python -m examples.inspection, in the repository."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from examples.inspection.textures import load_textures, render

FOLDER = Path("out/inspection")
RECIPE = "examples/inspection/recipe.toml"


def main() -> int:
    """Do all of it; the exit code is that of compile."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    textures = load_textures()
    for name, count, seed, judges in (("train", 9600, 0, False), ("test", 3000, 1000, True)):
        images, labels = render(textures, count, seed, judges=judges)
        np.savez(FOLDER / f"{name}.npz", x=images, labels=labels)
    command = ["-m", "deepseek_edge", "compile", "examples.inspection.network:inspector"]
    options = ["--target", "host", "--recipe", RECIPE, "-o", str(FOLDER / "inspection.dse")]
    return subprocess.run([sys.executable, *command, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Command line of dse_build.py.

    python3 dse_build.py FOLDER [--state DIR] [--wait SECONDS] [--rebuild] [--retry] [--verbose]

FOLDER holds recipe.json, the graphs and golden tensors that it names. One JSON object is printed:
``action`` ("reused", "built", "serving-old", "fallback"), ``program`` that serves, ``engine``
(path or null), ``reason``, ``notes``. Exit code 0: an engine serves; 1: another program takes
over; 2: bad usage; 5: a file of the folder is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Sequence

from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError
from deepseek_edge.runtime.board_build.board import Board
from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.runtime.board_build.flow import DeferredBuild
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.board_build.trtexec import TrtexecBoard, find_trtexec

LOG_FILE = "rebuild.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parse(arguments)
    folder = Path(options.folder)
    if options.rebuild:
        os.nice(10)  # an engine serves meanwhile
    try:
        recipe = read_recipe(folder)
        store = EngineStore(folder / "engines" if options.state is None else Path(options.state))
        build = DeferredBuild(recipe, store, open_board, _narrator(options.verbose))
        outcome = build.ensure(wait_s=options.wait, rebuild=options.rebuild, retry=options.retry)
    except DeepSeekEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint is not None:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    if outcome.action == "serving-old":
        _rebuild_in_background(options.folder, store.folder)
    print(json.dumps(asdict(outcome), sort_keys=True))
    return 0 if outcome.has_engine else 1


def open_board() -> Any:
    """This board: through TensorRT's Python module, or trtexec where that isn't there.

    Raises:
        MissingToolError: neither is; DeviceError: no GPU.
    """
    try:
        return Board()
    except MissingToolError:
        return TrtexecBoard(find_trtexec())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dse_build.py", description="Build a TensorRT engine on this board, once, safely."
    )
    parser.add_argument("folder", help="with recipe.json, graphs and golden tensors")
    parser.add_argument("--state", help="where engines are kept (FOLDER/engines)")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for another build")
    parser.add_argument("--rebuild", action="store_true", help="even if an old one could serve")
    parser.add_argument("--retry", action="store_true", help="build even if that failed before")
    parser.add_argument("--verbose", action="store_true", help="say each step on stderr")
    return parser.parse_args(arguments)


def _narrator(is_verbose: bool) -> Callable[[str], None]:
    def narrate(step: str) -> None:
        if is_verbose:
            print(step, file=sys.stderr, flush=True)

    return narrate


def _rebuild_in_background(folder: str, state: Path) -> None:
    """Start another process that outlives this one."""
    program = str(Path(__file__).resolve())
    command = [sys.executable, program, folder, "--state", str(state), "--rebuild"]
    with (state / LOG_FILE).open("wb") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

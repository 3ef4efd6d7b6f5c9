"""One side in a process of its own: ``python -m benchmarks.peers.worker NAME`` obeys its parent.

A request is a line of JSON on standard input, an answer one on standard output. What the libraries
print goes to standard error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from benchmarks.machine import versions
from benchmarks.peers import PeerError, Runner, Source
from deepseek_edge.errors import DeepSeekEdgeError

Request = dict[str, Any]
_PR_SET_PDEATHSIG = 1


class Worker:
    """Answers requests about one peer.

    Args:
        name: of a module of ``benchmarks.peers`` with a class ``Runner``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._runner: Runner | None = None

    def answer(self, request: Request) -> Request:
        """Do what is asked; whatever goes wrong is the answer's ``error``."""
        try:
            return {"answer": self._do(request)}
        except (PeerError, DeepSeekEdgeError) as error:
            return {"error": str(error)}
        except ImportError as error:
            return {"error": f"not installed: {error}"}
        except Exception as error:  # peers raise types of their own
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _do(self, request: Request) -> Any:
        import numpy as np

        if request["do"] == "time":
            return self._loaded().time(request["calls"])
        if request["do"] == "run":
            with np.load(request["inputs"]) as file:
                inputs = dict(file)
            np.savez(request["outputs"], *self._loaded().run(inputs))
            return None
        if request["do"] == "versions":
            return versions(request["packages"])
        source = Source(Path(request["graph"]), Path(request["float_graph"]))
        kind: type[Runner] = importlib.import_module(f"benchmarks.peers.{self._name}").Runner
        if request["do"] == "convert":
            return str(kind.convert(source, Path(request["folder"])))
        self._runner = kind(Path(request["file"]), source, request["threads"])
        return None

    def _loaded(self) -> Runner:
        if self._runner is None:
            raise PeerError("nothing is loaded")
        return self._runner


def serve(worker: Worker, requests: IO[str], answers: IO[str]) -> None:
    """Answer until the requests end."""
    for line in requests:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    # A parent that is killed leaves its workers stopped, and nobody would end them.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Worker(sys.argv[1]), sys.stdin, channel)

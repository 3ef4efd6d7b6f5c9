"""Starts deferred builds that stop themselves at a step, for tests to kill or to let go on.

Reads one JSON object a line: ``folder``, ``gpu`` (a StandIn's folder), ``builder`` ("fake" or
"rtx") and ``stop``: a step's name, "fsync N" (before the N-th flush to the disk), or null. Each
runs in a fork, so that imports are paid for once. Prints ``{"pid": N}``, then ``{"stopped": STEP}``
if it stopped, and at its end ``{"status": N, "outcome": ...}`` (negative: the signal).
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.runtime.board_build.flow import DeferredBuild
from deepseek_edge.runtime.board_build.store import EngineStore
from tests.runtime.board_build.stand_in import StandIn

_FLUSH = os.fsync


def build(job: dict[str, Any], report: int) -> None:
    """One build, which writes its stop and its outcome to a pipe."""
    flushes = 0

    def stop_at(step: str) -> None:
        if step == job["stop"]:
            os.write(report, json.dumps({"stopped": step}).encode() + b"\n")
            os.kill(os.getpid(), signal.SIGSTOP)

    def flush(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        stop_at(f"fsync {flushes}")
        _FLUSH(descriptor)

    os.fsync = flush  # type: ignore[assignment]
    trt = None
    if job["builder"] == "rtx":
        from deepseek_edge.backends.tensorrt import load_tensorrt_rtx

        trt = load_tensorrt_rtx()
    folder = Path(job["folder"])
    board = StandIn(Path(job["gpu"]), trt)
    store = EngineStore(folder / "engines")
    outcome = DeferredBuild(read_recipe(folder), store, lambda: board, stop_at).ensure()
    told = {**asdict(outcome), "builds": board.builds}
    os.write(report, json.dumps({"outcome": told}).encode() + b"\n")


def serve() -> None:
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            build(json.loads(line), writing)
            os._exit(0)
        os.close(writing)
        print(json.dumps({"pid": pid}), flush=True)
        end: dict[str, Any] = {"outcome": None}
        with os.fdopen(reading) as reports:
            for text in reports:
                told = json.loads(text)
                if "stopped" in told:
                    # Not before it really is stopped.
                    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
                    print(text.strip(), flush=True)
                else:
                    end = told
        _, status = os.waitpid(pid, 0)
        print(json.dumps({**end, "status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()

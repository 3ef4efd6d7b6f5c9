"""Starts a side in a process of its own and asks it to convert, load, run and take its turn."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.peers import PeerError, Source

if TYPE_CHECKING:
    from benchmarks.peers import Array

TIMEOUT_S = 900.0
_GRACE_S = 10.0
_REASON_CHARACTERS = 300


class PeerProcess:
    """A side. Between two requests its process is stopped, so that no thread of it spins.

    Args:
        name: of a module of ``benchmarks.peers`` with a class ``Runner``.
        log: file that everything the libraries print is added to.
        python: interpreter of the environment that the side is installed in; None for this one.
    """

    def __init__(self, name: str, log: Path, python: str | None = None) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", "benchmarks.peers.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                bufsize=0,  # a request that a dead process never reads is not kept
            )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            _pipe(self._process.stdin).close()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()

    def versions(self, packages: Sequence[str]) -> dict[str, str | None]:
        """Installed versions in the side's environment; None for what is missing."""
        found: dict[str, str | None] = self._ask("versions", packages=list(packages))
        return found

    def convert(self, source: Source, folder: Path) -> Path:
        """Make the file that the side loads; see ``Runner.convert``.

        Raises:
            PeerError: it can't, with the reason; as all requests.
        """
        return Path(self._ask("convert", **_paths(source), folder=str(folder.resolve())))

    def load(self, file: Path, source: Source, threads: int) -> None:
        """Load it."""
        self._ask("load", **_paths(source), file=str(file), threads=threads)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs in the graph's order; the inputs stay in place."""
        import numpy as np

        with tempfile.TemporaryDirectory(prefix="peer-") as name:
            given, made = Path(name) / "inputs.npz", Path(name) / "outputs.npz"
            np.savez(given, **inputs)  # type: ignore[arg-type]
            self._ask("run", inputs=str(given), outputs=str(made))
            with np.load(made) as file:
                return [file[f"arr_{index}"] for index in range(len(file.files))]

    def time(self, calls: int) -> list[float]:
        """Milliseconds of each of a number of calls."""
        times: list[float] = self._ask("time", calls=calls)
        return times

    def processor_s(self) -> float:
        """CPU seconds that the process has used."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))

    def _ask(self, what: str, **request: Any) -> Any:
        line = json.dumps({"do": what, **request}) + "\n"
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
        try:
            _pipe(self._process.stdin).write(line.encode())
        except OSError:
            raise self._ended() from None
        answer = self._read(what)
        self._process.send_signal(signal.SIGSTOP)
        if "error" in answer:
            raise PeerError(_one_line(answer["error"]))
        return answer["answer"]

    def _read(self, what: str) -> dict[str, Any]:
        stdout = _pipe(self._process.stdout)
        ready, _, _ = select.select([stdout], [], [], TIMEOUT_S)
        if not ready:
            self._process.kill()
            raise PeerError(f"did not {what} within {TIMEOUT_S:g} s")
        line = stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> PeerError:
        status = self._process.wait()
        lines = self._log.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return PeerError(_one_line(f"its process {how}; last line: {last}"))


def _paths(source: Source) -> dict[str, str]:
    return {
        "graph": str(source.graph.resolve()),
        "float_graph": str(source.float_graph.resolve()),
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_CHARACTERS]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all of them are opened
    return pipe

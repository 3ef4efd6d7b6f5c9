"""The one way in which probes touch a machine; another reader can reach a board elsewhere."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

# More than any file or tool that is read here says; a runaway one is cut off.
MOST_BYTES = 256 << 10
TIMEOUT_S = 5.0


class System(Protocol):
    """Reads files and starts tools of one machine.

    Nothing here raises: None means that it didn't say.
    """

    def read_text(self, path: str) -> str | None:
        """The text of a file, or None if it isn't there or can't be read.

        Some files of sysfs refuse while their hardware is powered down.
        """

    def list_names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, sorted; none if it isn't there."""

    def run(self, arguments: Sequence[str], *, lines: int | None = None) -> str | None:
        """What a tool prints to its standard output, or None if there is no such tool.

        A tool that fails may have printed an answer all the same, e.g. without being root.

        Args:
            arguments: the tool's name and its arguments.
            lines: stop the tool after so many lines, for tools that never end.
        """


class LocalSystem:
    """This machine.

    Args:
        root: where "/" is, for a recorded tree of files.
        timeout_s: a tool that takes longer is killed, and didn't say anything.
    """

    def __init__(self, root: Path = Path("/"), timeout_s: float = TIMEOUT_S) -> None:
        self._root = root
        self._timeout_s = timeout_s

    def read_text(self, path: str) -> str | None:
        """As :meth:`System.read_text`."""
        try:
            with self._place(path).open("rb") as file:
                return file.read(MOST_BYTES).decode("utf-8", "replace")
        except OSError:
            return None

    def list_names(self, folder: str) -> tuple[str, ...]:
        """As :meth:`System.list_names`."""
        try:
            return tuple(sorted(entry.name for entry in self._place(folder).iterdir()))
        except OSError:
            return ()

    def run(self, arguments: Sequence[str], *, lines: int | None = None) -> str | None:
        """As :meth:`System.run`."""
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"LC_ALL": "C"},
                start_new_session=True,  # so that its children die with it
            )
        except OSError:
            return None
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            _kill(process)

        timer = threading.Timer(self._timeout_s, give_up)
        timer.start()
        try:
            data = _read(process, lines)
        finally:
            timer.cancel()
            _kill(process)
            process.wait()
        return None if is_late.is_set() else data.decode("utf-8", "replace")

    def _place(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def _read(process: subprocess.Popen[bytes], lines: int | None) -> bytes:
    assert process.stdout is not None
    with process.stdout as pipe:
        if lines is None:
            return pipe.read(MOST_BYTES)
        return b"".join(pipe.readline(MOST_BYTES) for _ in range(lines))


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)

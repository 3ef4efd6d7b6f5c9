"""Engines on the board's disk: written whole or not at all, read only if their digest is right."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

from deepseek_edge.errors import ModelError, OutputError

RECORD_FILE = "engine.json"
ATTEMPT_FILE = "attempt.json"
LOCK_FILE = "build.lock"
CACHE_FILE = "timing.cache"
LAYERS_FILE = "layers.json"
_TEMPORARY = ".tmp"
_ENGINE = ".engine"
_POLL_S = 0.2


class EngineStore:
    """A folder with one engine, its record, and what builds leave behind.

    ``engine.json`` names the engine and its SHA-256. It is renamed into place last, so that a
    build which is killed at any moment leaves the state before it, and files that nothing names.

    Args:
        folder: made if it is missing.

    Raises:
        OutputError: it can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def lock(self, wait_s: float) -> Iterator[bool]:
        """Be the only one that builds; yields False if another one still does after ``wait_s``.

        The kernel frees the lock when its holder ends, however it ends.
        """
        with _disk_errors(self.folder):
            file = (self.folder / LOCK_FILE).open("ab")
        with file:
            until = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        yield False
                        return
                    time.sleep(_POLL_S)
            yield True

    def read_record(self) -> dict[str, Any] | None:
        """The record of the engine that is there; None if there is none or it is damaged."""
        return self._read_json(RECORD_FILE)

    def read_engine(self, record: Mapping[str, Any]) -> bytes:
        """The engine of a record, checked: TensorRT may be given it.

        Raises:
            ModelError: it is missing, or not the one that was built.
        """
        try:
            name, sha256 = record["engine"]["file"], record["engine"]["sha256"]
            if not isinstance(name, str) or os.sep in name:
                raise ValueError(name)
            data = (self.folder / name).read_bytes()
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("the engine's record is damaged") from error
        except OSError as error:
            raise ModelError(f"the engine can't be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelError(f"the engine {name} is damaged: its SHA-256 differs")
        return data

    def write_engine(self, engine: bytes) -> dict[str, Any]:
        """Put an engine on the disk under a name of its own; no record names it yet.

        Returns:
            What a record says of it: "file", "sha256" and "size_bytes".
        """
        sha256 = hashlib.sha256(engine).hexdigest()
        name = sha256[:16] + _ENGINE
        self._write(name, engine)
        return {"file": name, "sha256": sha256, "size_bytes": len(engine)}

    def commit(self, record: Mapping[str, Any]) -> None:
        """Make the record's engine the one that serves."""
        self._write(RECORD_FILE, _to_json(record))

    def clean(self) -> None:
        """Remove engines that the record doesn't name and what killed builds left.

        Only for the holder of the lock.
        """
        record = self.read_record() or {}
        engine = record.get("engine")
        kept = engine.get("file") if isinstance(engine, dict) else None
        for path in self.folder.iterdir():
            is_left = path.name.endswith(_TEMPORARY)
            if is_left or (path.name.endswith(_ENGINE) and path.name != kept):
                path.unlink()

    def read_attempt(self) -> dict[str, Any] | None:
        """What former builds noted; None if nothing."""
        return self._read_json(ATTEMPT_FILE)

    def note_attempt(self, key: str, deaths: int, failure: str | None) -> None:
        """Note that a build for a key begins, or that it failed for good."""
        note = {"key": key, "deaths": deaths, "failure": failure}
        self._write(ATTEMPT_FILE, _to_json(note))

    def forget_attempt(self) -> None:
        """A build ended."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / ATTEMPT_FILE).unlink()

    def read_cache(self) -> bytes | None:
        """The timing cache as it was packed, not checked yet; None if there is none."""
        try:
            return (self.folder / CACHE_FILE).read_bytes()
        except OSError:
            return None

    def write_cache(self, packed: bytes) -> None:
        """Keep a packed timing cache."""
        self._write(CACHE_FILE, packed)

    def write_layers(self, text: str) -> None:
        """Keep the layer information of the engine that is about to serve."""
        self._write(LAYERS_FILE, text.encode("utf-8"))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads((self.folder / name).read_bytes().decode("utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _write(self, name: str, data: bytes) -> None:
        """Whole or not at all: flushed under another name, then renamed."""
        path = self.folder / name
        temporary = self.folder / f"{name}.{os.getpid()}{_TEMPORARY}"
        with _disk_errors(path):
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            folder = os.open(str(self.folder), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _to_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("ascii")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {error.strerror}", hint="free some space there, or use --state"
        ) from error

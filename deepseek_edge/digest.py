"""SHA-256 of bytes, files and JSON values."""

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, read in chunks of 1 MiB.

    Raises:
        OSError: the file can't be read.
    """
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: ASCII, sorted keys, no spaces, shortest floats.

    Args:
        value: of dict (string keys), list, tuple, str, int, float, bool and None.

    Raises:
        ValueError: a number is infinite or not a number, which JSON can't say.
        TypeError: the value holds something that is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_json(value: Any) -> str:
    """SHA-256 of :func:`canonical_json`, with its errors."""
    return digest_bytes(canonical_json(value))

"""Where class indices are written: in file names, lists, idx files or arrays."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

_UINT8 = 0x08


def read_labels(table: Mapping[str, Any], paths: Sequence[Path]) -> np.ndarray[Any, Any]:
    """Class index of each sample, as a data set's ``[labels]`` table says.

    Args:
        table: kind = "filename-regex" with ``pattern``, whose first group is the index; "file"
            with ``file``, a list of lines "name index"; "idx" with ``file``; or "npz" with
            ``file`` and ``array``.
        paths: all files of the set; those that hold labels are known by their names.

    Returns:
        (n,) int64, in the order of the samples.

    Raises:
        UsageError: the table is wrong.
        InputError: a sample has no label, or the file can't be read.
    """
    import numpy as np

    kind = table.get("kind")
    if kind == "filename-regex":
        return np.array([_index_in_name(path, table["pattern"]) for path in paths], np.int64)
    if kind not in {"file", "idx", "npz"}:
        raise UsageError(f"[labels] kind is {kind!r}", hint="filename-regex, file, idx or npz")
    holder = next((path for path in paths if path.name == table["file"]), None)
    if holder is None:
        raise InputError(f"the labels' file {table['file']} is missing")
    if kind == "idx":
        return read_idx(holder).astype(np.int64)
    if kind == "npz":
        with np.load(holder, allow_pickle=False) as archive:
            return np.asarray(archive[table["array"]], np.int64)
    listed = _listed(holder)
    samples = [path for path in paths if path != holder]
    if missing := [path.name for path in samples if path.name not in listed]:
        raise InputError(f"{holder} has no label for {missing[0]}")
    return np.array([listed[path.name] for path in samples], np.int64)


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """Read an idx file of bytes, gzipped or not (http://yann.lecun.com/exdb/mnist).

    Returns:
        uint8, of the shape that the file states.

    Raises:
        InputError: damaged, or not of unsigned bytes.
    """
    import numpy as np

    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"can't read {path}: {error}") from error
    if len(data) < 4 or data[:3] != bytes((0, 0, _UINT8)):
        raise InputError(f"{path} is no idx file of bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    if len(data) != start + math.prod(shape):
        raise InputError(f"{path} is cut off")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _index_in_name(path: Path, pattern: str) -> int:
    match = re.search(pattern, path.name)
    if match is None:
        raise InputError(f"{path.name} does not say its class", hint=f"pattern: {pattern}")
    return int(match[1])


def _listed(path: Path) -> dict[str, int]:
    listed = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        name, _, index = line.rpartition(" ")
        if not name or not index.isdigit():
            raise InputError(f"{path}:{number}: expected a file name and a class index")
        listed[name] = int(index)
    return listed

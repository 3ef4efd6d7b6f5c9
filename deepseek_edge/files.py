"""Files and folders that appear whole or not at all.

Each is written under a temporary name beside its final one, flushed to the disk and renamed.
Whatever stops the writing, Ctrl-C included, the old state is left and no temporary file.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepseek_edge.errors import OutputError

_HINTS = {
    errno.ENOSPC: "free some space on that disk, or choose another output folder",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another output folder",
    errno.EFBIG: "the file is larger than its file system, or a limit (ulimit -f), allows",
    errno.EROFS: "the file system is read-only: choose another output folder",
    errno.EACCES: "you may not write there: choose another output folder",
    errno.EPERM: "you may not write there: choose another output folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENOENT: "the output folder does not exist: create it first",
    errno.EISDIR: "a folder of this name exists: choose another name",
    errno.ENOTEMPTY: "the folder is not empty: choose another name",
    errno.EEXIST: "it exists already: choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# The body of a `with` block may also fail to read what it copies: that is not our error.
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole: a reader sees the old content or the new, never a part.

    Raises:
        OutputError: it can't be written there; a file that was there before is untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a new empty file beside ``path`` to write; it becomes ``path`` when the block ends.

    Raises:
        OutputError: it can't be written there, or the block ran out of disk; a file that was
            there before is untouched.
    """
    temporary = _temporary_name(path)
    try:
        with output_errors(path):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with output_errors(path, _WRITE_ERRORS):
            yield temporary
        with output_errors(path):
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a new empty folder beside ``path`` to fill; it becomes ``path`` when the block ends.

    Files in it should be written with :func:`write_atomic` or :func:`atomic_path`, which flush.

    Raises:
        OutputError: ``path`` exists and is not an empty folder, or can't be written.
    """
    temporary = _temporary_name(path)
    try:
        with output_errors(path):
            _check_free(path)
            temporary.mkdir()
        with output_errors(path, _WRITE_ERRORS):
            yield temporary
        with output_errors(path):
            _flush(temporary)
            temporary.rename(path)
            _flush(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def output_errors(path: Path, only: tuple[int, ...] | None = None) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError about ``path`` and what to do.

    With ``only``, other error numbers than these pass as they are.

    Raises:
        OutputError: the block raised such an OSError.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        hint = _HINTS.get(error.errno or 0, "choose another output folder")
        raise OutputError(f"can't write {path}: {error.strerror}", hint=hint) from error


def _check_free(directory: Path) -> None:
    # The rename at the end refuses these too, but only after the work is done.
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if directory.is_dir() and any(directory.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def _temporary_name(path: Path) -> Path:
    # In the same folder, since a rename is atomic within one file system only.
    return path.parent / f".{secrets.token_hex(8)}.tmp"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no fsync for folders; there is nothing more to be done there.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)

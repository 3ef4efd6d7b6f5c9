"""Bundles (.dse): programs, what is known about them, and digests over all of it.

A bundle is code: nothing of it is used before every digest was checked, on the very file that
stays open for reading. docs/bundle.md is the format.
"""

import hashlib
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from deepseek_edge.digest import digest_bytes
from deepseek_edge.errors import BundleError, UsageError
from deepseek_edge.files import atomic_directory, atomic_path, output_errors
from deepseek_edge.golden import GOLDEN_INDEX, golden_index
from deepseek_edge.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_manifest,
    decode_manifest,
    encode_manifest,
    member_order,
)
from deepseek_edge.stored_zip import (
    MAX_MEMBERS,
    MAX_NAME_BYTES,
    Member,
    add_member,
    read_chunks,
    read_layout,
    refuse,
    too_large,
)

_DIGESTS = "DIGESTS"
_SIGNATURE = "DIGESTS.sig"
_SIGNATURE_BYTES = 64
_DIGEST_LINE = re.compile(r"([0-9a-f]{64}) (0|[1-9][0-9]{0,9}) ([!-~]+)")
_MAX_LINE_BYTES = 64 + 1 + 10 + 1 + MAX_NAME_BYTES + 1


def write_bundle(path: Path, manifest: Manifest, members: Mapping[str, bytes | Path]) -> None:
    """Write a bundle; the same manifest and contents give the same bytes.

    ``members`` has the content, or a file with it, of each program's ``file``, of each golden
    tensor's ``file`` and of ``LICENSES``; the rest is made here.

    Raises:
        BundleError: the members are not those that the manifest names, or don't fit it.
        OutputError: the bundle can't be written, or is beyond 2 GiB.
        OSError: a file of ``members`` can't be read.
    """
    manifest_bytes = encode_manifest(manifest)
    manifest = decode_manifest(manifest_bytes)
    order = member_order(manifest)
    if stray := members.keys() ^ (set(order) - {MANIFEST, GOLDEN_INDEX}):
        raise refuse(f"{min(stray)!a} is not a member, or is missing")
    check_manifest(manifest, {name: _size_bytes(members[name]) for name in members})
    generated = {MANIFEST: manifest_bytes, GOLDEN_INDEX: golden_index(manifest.golden)}
    contents = {**members, **generated}
    try:
        with (
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", allowZip64=False) as archive,
        ):
            lines = {}
            for name in order:
                sha256 = add_member(archive, name, contents[name])
                lines[name] = f"{sha256} {_size_bytes(contents[name])} {name}\n"
            add_member(archive, _DIGESTS, "".join(lines[name] for name in sorted(lines)).encode())
    except zipfile.LargeZipFile as error:
        raise too_large(str(path)) from error


def _size_bytes(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


class Bundle:
    """A verified bundle, open for reading; :func:`open_bundle` makes it. A context manager.

    Attributes:
        path: as given; the file is read through a descriptor that was opened once.
        manifest: what it says of itself.
        digests_sha256: SHA-256 of DIGESTS, which stands for the whole content.
        signature: 64 bytes of Ed25519, **not checked**, or None if the bundle is unsigned.
        size_bytes: of the file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Verify everything in an open file; the bundle owns the descriptor from then on.

        Raises:
            BundleError: anything is wrong; the descriptor is left open.
            OSError: the file can't be read.
        """
        self.path = path
        self._descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size
        layout = read_layout(descriptor)
        self._members = {member.name: member for member in layout}
        self._sha256: dict[str, str] = {}
        names = tuple(name for name in self._members if name != _SIGNATURE)
        digests = self._read_small(_DIGESTS, MAX_MEMBERS * _MAX_LINE_BYTES)
        self.digests_sha256 = digest_bytes(digests)
        self._sha256 = _parse_digests(digests, self._members) | {_DIGESTS: self.digests_sha256}
        self.signature = self._read_signature()
        for name in self._sha256:
            for _ in self._chunks(name):
                pass
        self.manifest = decode_manifest(self._read_small(MANIFEST, MAX_MANIFEST_BYTES))
        order = (*member_order(self.manifest), _DIGESTS)
        if names != order:
            raise refuse(f"{_first_difference(names, order)}: not the members, or their order")
        check_manifest(self.manifest, {m.name: m.size_bytes for m in layout})
        if self.read(GOLDEN_INDEX) != golden_index(self.manifest.golden):
            raise refuse(f"{GOLDEN_INDEX} is not what manifest.json says")

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read afterwards. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def names(self) -> tuple[str, ...]:
        """All members, in the order in which they lie in the file."""
        return tuple(self._members)

    def read(self, name: str) -> bytes:
        """A member's content, checked again while it is read.

        Raises:
            BundleError: there is no such member, or the file was changed since it was opened.
            OSError: the file can't be read.
        """
        return b"".join(self._chunks(name))

    def extract(self, directory: Path) -> None:
        """Write all members as files into a fresh folder, which appears whole or not at all.

        Raises:
            OutputError: the folder exists and is not empty, or can't be written.
            BundleError: the file was changed since it was opened.
        """
        with atomic_directory(directory) as temporary:
            for name in self._members:
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as part, part.open("wb") as file:
                    self._copy(name, file)

    @contextmanager
    def program_library(self, program_id: str) -> Iterator[Path]:
        """Give a private copy (mode 600) of a program's verified library while the block runs.

        A path into the bundle, or a copy that others can write to, could be changed between the
        check and the loading. On Linux, what has been loaded outlives the file.

        Raises:
            UsageError: the bundle has no program of this id.
            OutputError: the folder for temporary files is full.
            BundleError: the file was changed since it was opened.
        """
        programs = {program.id: program for program in self.manifest.programs}
        if program_id not in programs:
            raise UsageError(
                f"no program {program_id} in {self.path}", hint=f"it has {', '.join(programs)}"
            )
        with output_errors(Path(tempfile.gettempdir())):
            private = tempfile.TemporaryDirectory(prefix="deepseek-edge-")
        with private as directory:
            library = Path(directory) / "model.so"
            with output_errors(library), library.open("xb") as file:
                library.chmod(0o600)
                self._copy(programs[program_id].file, file)
            yield library

    def _copy(self, name: str, file: IO[bytes]) -> None:
        for chunk in self._chunks(name):
            file.write(chunk)

    def _chunks(self, name: str) -> Iterator[bytes]:
        # The caller may use what it got only after the last chunk, when the digest is known.
        if name not in self._members:
            raise refuse(f"no member {name}")
        sha256 = hashlib.sha256()
        for chunk in read_chunks(self._descriptor, self._members[name]):
            sha256.update(chunk)
            yield chunk
        if name in self._sha256 and sha256.hexdigest() != self._sha256[name]:
            raise refuse(f"{name}: the digest is not the one in {_DIGESTS}")

    def _read_small(self, name: str, most_bytes: int) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise refuse(f"no member {name}")
        if member.size_bytes > most_bytes:
            raise refuse(f"{name} has {member.size_bytes} bytes, at most {most_bytes} are allowed")
        return self.read(name)

    def _read_signature(self) -> bytes | None:
        if _SIGNATURE not in self._members:
            return None
        if tuple(self._members)[-1] != _SIGNATURE:
            raise refuse(f"{_SIGNATURE} is not the last member")
        signature = self._read_small(_SIGNATURE, _SIGNATURE_BYTES)
        if len(signature) != _SIGNATURE_BYTES:
            raise refuse(f"{_SIGNATURE} has {len(signature)} bytes, not {_SIGNATURE_BYTES}")
        self._sha256[_SIGNATURE] = digest_bytes(signature)
        return signature


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and verify all of it: the layout, every digest, the manifest.

    Nothing is loaded or written. The signature, if there is one, is not checked.

    Raises:
        UsageError: there is no such file.
        BundleError: it is damaged, hostile, or can't be read.
    """
    try:
        # Opening a FIFO for reading would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UsageError(f"no bundle {path}", hint="check the path") from error
    except OSError as error:
        raise BundleError(f"can't open {path}: {error.strerror}", hint="check the path") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refuse(f"{path} is not a regular file")
        return Bundle(path, descriptor)
    except OSError as error:
        os.close(descriptor)
        raise BundleError(f"can't read {path}: {error.strerror}", hint="check the disk") from error
    except BaseException:
        os.close(descriptor)
        raise


def _parse_digests(digests: bytes, members: Mapping[str, Member]) -> dict[str, str]:
    text = digests.decode("latin-1")
    sha256: dict[str, str] = {}
    previous = ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        match = _DIGEST_LINE.fullmatch(line)
        if match is None:
            raise refuse(f"{_DIGESTS} line {number} is not 'sha256 size name'")
        digest, size, name = match.groups()
        if name <= previous:
            raise refuse(f"{_DIGESTS} line {number}: {name} is repeated or not in order")
        previous = name
        if name not in members:
            raise refuse(f"{name} is listed in {_DIGESTS} but missing")
        if int(size) != members[name].size_bytes:
            raise refuse(f"{name} has {members[name].size_bytes} bytes, {_DIGESTS} says {size}")
        sha256[name] = digest
    if not text.endswith("\n"):
        raise refuse(f"{_DIGESTS} does not end with a line feed")
    listed = {*sha256, _DIGESTS, _SIGNATURE}
    if stray := [name for name in members if name not in listed]:
        raise refuse(f"{stray[0]} is not listed in {_DIGESTS}")
    if own := {_DIGESTS, _SIGNATURE} & sha256.keys():
        raise refuse(f"{min(own)} lists itself in {_DIGESTS}")
    return sha256


def _first_difference(names: tuple[str, ...], order: tuple[str, ...]) -> str:
    for name, expected in zip(names, order, strict=False):
        if name != expected:
            return f"{name} where {expected} belongs"
    return (*names, *order)[min(len(names), len(order))]

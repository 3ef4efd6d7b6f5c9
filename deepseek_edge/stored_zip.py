"""Zip files of stored members, written in one way and read back in that way only.

Python's ``zipfile`` forgives much of what lets two programs see two different archives in one
file. Here every byte that is not a name, a size, a checksum or content has one legal value.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepseek_edge.errors import BundleError, OutputError

MAX_MEMBERS = 1024
MAX_NAME_BYTES = 200
MAX_DEPTH = 3
MAX_FILE_BYTES = 2**31 - 1  # above, zipfile writes ZIP64

CHUNK_BYTES = 1 << 20

# Signature, versions, flags, method, time, date, CRC, sizes, lengths, ... (APPNOTE.TXT 4.3)
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_VERSION = 20
_DATE = (1 << 5) | 1  # 1980-01-01, the first day that zip can say
_REGULAR_FILE = (stat.S_IFREG | 0o644) << 16
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Member:
    """Where a member's content lies in the file.

    Attributes:
        offset: of its first content byte.
        crc: CRC-32 that the archive states for it.
    """

    name: str
    offset: int
    size_bytes: int
    crc: int


def refuse(reason: str) -> BundleError:
    """The error for bytes that are not a bundle of ours."""
    return BundleError(
        f"bundle refused: {reason}",
        hint="fetch the bundle again from whoever made it, or compile it anew",
    )


def add_member(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> str:
    """Append a stored member without clock time or owner; return the SHA-256 of its content.

    Raises:
        OutputError: the archive would grow beyond 2 GiB.
        OSError: a file can't be read, or the archive can't be written.
    """
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.create_version = info.extract_version = _VERSION
    info.external_attr = _REGULAR_FILE
    info.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256 = hashlib.sha256()
    try:
        with archive.open(info, "w") as member:
            for chunk in _chunks_of(content):
                sha256.update(chunk)
                member.write(chunk)
    except zipfile.LargeZipFile as error:
        raise too_large(name) from error
    return sha256.hexdigest()


def too_large(what: str) -> OutputError:
    """The error for a bundle that needs ZIP64."""
    return OutputError(
        f"{what} takes the bundle beyond {MAX_FILE_BYTES} bytes",
        hint="pack fewer programs or a smaller model into one bundle",
    )


def _chunks_of(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def read_layout(descriptor: int) -> tuple[Member, ...]:
    """Find the members of an open file, in the order in which they lie there.

    The file must be exactly: local header and content of each member without gaps, the central
    directory in the same order, the end record. Checksums are not compared here.

    Raises:
        BundleError: anything is not as :func:`add_member` and ``ZipFile.close`` write it.
        OSError: the file can't be read.
    """
    size = os.fstat(descriptor).st_size
    if size < _END.size:
        raise refuse(f"{size} bytes are too few for a zip file")
    if size > MAX_FILE_BYTES:
        raise refuse(f"{size} bytes are more than {MAX_FILE_BYTES}")
    count, start, directory = _read_directory(descriptor, size)
    members: list[Member] = []
    position, expected_offset = 0, 0
    for _ in range(count):
        header = directory[position : position + _CENTRAL.size]
        if len(header) < _CENTRAL.size:
            raise refuse("the central directory ends early")
        name_length = _CENTRAL.unpack(header)[10]
        position += _CENTRAL.size
        name = _check_name(directory[position : position + name_length])
        position += name_length
        member = _check_central(header, name, expected_offset)
        _check_local(descriptor, member, expected_offset)
        expected_offset = member.offset + member.size_bytes
        members.append(member)
    if position != len(directory):
        raise refuse("bytes after the last entry of the central directory")
    if expected_offset != start:
        raise refuse("a gap or an overlap between the last member and the central directory")
    _check_distinct(members)
    return tuple(members)


def read_exactly(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Bytes of an open file, without moving its position.

    Raises:
        BundleError: the file ends before.
        OSError: the file can't be read.
    """
    data = os.pread(descriptor, size_bytes, offset)
    if len(data) != size_bytes:
        raise refuse(f"it ends at byte {offset + len(data)}, {size_bytes - len(data)} too early")
    return data


def read_chunks(descriptor: int, member: Member) -> Iterator[bytes]:
    """A member's content in chunks of at most 1 MiB, with the errors of :func:`read_exactly`.

    Raises:
        BundleError: the content's CRC-32 is not the stated one, found after the last chunk.
    """
    crc, done = 0, 0
    while done < member.size_bytes:
        chunk = read_exactly(
            descriptor, min(CHUNK_BYTES, member.size_bytes - done), member.offset + done
        )
        crc = zlib.crc32(chunk, crc)
        done += len(chunk)
        yield chunk
    if crc != member.crc:
        raise refuse(f"{member.name}: the CRC-32 is not that of its content")


def _read_directory(descriptor: int, size: int) -> tuple[int, int, bytes]:
    end = _END.unpack(read_exactly(descriptor, _END.size, size - _END.size))
    signature, disk, directory_disk, count_here, count, length, start, comment = end
    if signature != 0x06054B50 or comment:
        raise refuse("no end record in the last 22 bytes: cut off, commented or appended to")
    if disk or directory_disk or count_here != count:
        raise refuse("it is one of several volumes")
    if count > MAX_MEMBERS:
        raise refuse(f"{count} members or more, at most {MAX_MEMBERS} are allowed")
    if start + length != size - _END.size:
        raise refuse("prepended bytes, ZIP64, or a gap before the end record")
    if length > count * (_CENTRAL.size + MAX_NAME_BYTES):
        raise refuse("the central directory is larger than its entries can be")
    return count, start, read_exactly(descriptor, length, start)


def _check_name(raw: bytes) -> str:
    shown = ascii(raw.decode("latin-1")[:MAX_NAME_BYTES])
    if len(raw) > MAX_NAME_BYTES:
        raise refuse(f"a member name of {len(raw)} bytes, at most {MAX_NAME_BYTES} are allowed")
    if not raw.isascii():
        raise refuse(f"member name {shown} is not ASCII")
    name = raw.decode("ascii")
    parts = name.split("/")
    if not parts[0]:
        raise refuse(f"member name {shown} is empty or absolute")
    if not parts[-1]:
        raise refuse(f"member {shown} is a folder")
    if ".." in parts:
        raise refuse(f"member name {shown} leaves the folder")
    if not all(_COMPONENT.fullmatch(part) for part in parts):
        raise refuse(f"member name {shown} has other characters than A-Z a-z 0-9 _ . + - /")
    if len(parts) > MAX_DEPTH:
        raise refuse(f"member name {shown} is deeper than {MAX_DEPTH} levels")
    return name


def _check_central(header: bytes, name: str, expected_offset: int) -> Member:
    (signature, made_by, needed, flags, method, time, date, crc, stored, size) = _CENTRAL.unpack(
        header
    )[:10]
    extra, comment, disk, internal, attributes, offset = _CENTRAL.unpack(header)[11:]
    faults = (
        (signature != 0x02014B50, "has no entry in the central directory"),
        (flags & 0x1, "is encrypted"),
        (flags & 0x8, "has a data descriptor"),
        (flags, f"has flags {flags:#06x}"),
        (method, "is compressed"),
        (stored != size, f"claims {stored} bytes stored and {size} of content"),
        (extra, "has an extra field, such as ZIP64's"),
        (comment, "has a comment"),
        (disk, "lies on another volume"),
        (stat.S_ISLNK(attributes >> 16), "is a symbolic link"),
        (stat.S_ISDIR(attributes >> 16) or attributes & 0x10, "is a folder"),
        (attributes != _REGULAR_FILE or internal, "is not a plain file with mode 644"),
        ((time, date) != (0, _DATE), "has a time other than 1980-01-01"),
        ((made_by, needed) != (3 << 8 | _VERSION, _VERSION), "needs another version of zip"),
        (offset < expected_offset, f"begins at byte {offset}: overlap, duplicate or order"),
        (offset > expected_offset, f"begins at byte {offset}, after a gap or prepended bytes"),
    )
    for is_fault, reason in faults:
        if is_fault:
            raise refuse(f"{name} {reason}")
    return Member(name, offset + _LOCAL.size + len(name), size, crc)


def _check_local(descriptor: int, member: Member, offset: int) -> None:
    name = member.name.encode()
    size = member.size_bytes
    header = _LOCAL.pack(0x04034B50, _VERSION, 0, 0, 0, _DATE, member.crc, size, size, len(name), 0)
    expected = header + name
    if read_exactly(descriptor, len(expected), offset) != expected:
        raise refuse(f"{member.name}: its local header differs from the central directory")


def _check_distinct(members: list[Member]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        other = seen.setdefault(member.name.lower(), member.name)
        if other is not member.name and other == member.name:
            raise refuse(f"{other} is there twice")
        if other is not member.name:
            raise refuse(f"{other} and {member.name} are one file where case does not count")

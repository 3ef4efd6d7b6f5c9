"""Every way in which a file is not a bundle of ours, each refused for its own reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.bundle import open_bundle, write_bundle
from deepseek_edge.digest import canonical_json
from deepseek_edge.errors import BundleError
from tests.bundle_samples import RawMember, lying, make_manifest, pack, raw_members

PROGRAM = "programs/cpu-float32/model.so"
Members = list[RawMember]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "tiny.dse"
    write_bundle(path, *make_manifest())
    return path.read_bytes()


@pytest.fixture(scope="module")
def contents(honest: bytes, scratch: Path) -> dict[str, bytes]:
    """All members but DIGESTS, in their order."""
    scratch.write_bytes(honest)
    with open_bundle(scratch) as bundle:
        return {name: bundle.read(name) for name in bundle.names[:-1]}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "damaged.dse"


def check_refused(path: Path, data: bytes, reason: str = ".") -> None:
    path.write_bytes(data)
    with pytest.raises(BundleError, match=reason) as caught:
        open_bundle(path)
    assert caught.value.hint is not None


# The zip structure lies; names and digests are right.
LAYOUTS: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "empty file": (lambda m: b"", "0 bytes are too few"),
    "not a zip": (lambda m: b"\x7fELF" * 100, "no end record"),
    "several volumes": (
        lambda m: pack(m)[:-18] + b"\1" + pack(m)[-17:],
        "one of several volumes",
    ),
    "directory entry without signature": (
        lambda m: pack(m).replace(b"PK\1\2", b"PK\1\3", 1),
        "no entry in the central directory",
    ),
    "no members": (lambda m: pack([]), "no member DIGESTS"),
    "compressed": (lying(1, method=8), "compressed"),
    "encrypted": (lying(1, flags=1), "encrypted"),
    "data descriptor": (lying(1, flags=8), "data descriptor"),
    "utf-8 flag": (lying(1, flags=0x800), "flags 0x0800"),
    "extra field": (lying(1, extra=b"\x55\x54\1\0x"), "extra field"),
    "zip64 extra": (
        lying(1, extra=b"\1\0\x10\0" + bytes(16), stored_bytes=2**32 - 1, content_bytes=2**32 - 1),
        "extra field, such as ZIP64",
    ),
    "zip64 end": (lambda m: pack(m, before_end=b"PK\6\6" + bytes(52)), "ZIP64"),
    "member comment": (lying(1, comment=b"c"), "comment"),
    "archive comment": (lambda m: pack(m, comment=b"c"), "no end record"),
    "appended byte": (lambda m: pack(m, appended=b"\0"), "no end record"),
    "appended archive": (lambda m: pack(m, appended=pack(m)), "prepended bytes"),
    "prepended byte": (lambda m: pack(m, prepended=b"#"), "prepended bytes"),
    "gap between members": (lying(1, after=b"\0"), "after a gap"),
    "gap before the directory": (lying(-1, after=b"\0"), "a gap or an overlap"),
    "overlap": (lying(2, offset=0), "overlap"),
    "size beyond the file": (
        lying(-1, stored_bytes=10**6, content_bytes=10**6),
        "gap or an overlap",
    ),
    "sizes differ": (lying(1, content_bytes=11), "claims 16 bytes stored"),
    "local name differs": (lying(5, local_name=b"LICENCES"), "local header differs"),
    "crc differs": (lying(1, crc=0), "CRC-32"),
    "clock time": (lying(1, date=0x5D6F), "1980-01-01"),
    "symbolic link": (lying(1, mode=0o120777), "symbolic link"),
    "folder by mode": (lying(1, mode=0o040755), "is a folder"),
    "device": (lying(1, mode=0o020644), "not a plain file"),
    "executable": (lying(1, mode=0o100755), "not a plain file"),
    "count too low": (lambda m: pack(m, count=len(m) - 1), "larger than|bytes after|gap"),
    "count too high": (lambda m: pack(m, count=len(m) + 1), "ends early"),
    "too many members": (
        lambda m: pack([RawMember(b"m%d" % i, b"") for i in range(1025)]),
        "1025 members",
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layout_is_refused(case: str, scratch: Path, contents: dict[str, bytes]) -> None:
    build, reason = LAYOUTS[case]
    check_refused(scratch, build(raw_members(contents)), reason)


# One more member with such a name, listed in DIGESTS where a line can say it.
EXTRA_NAMES: dict[str, tuple[bytes, str]] = {
    "parent": (b"golden/../x", "leaves the folder"),
    "only parent": (b"..", "leaves the folder"),
    "absolute": (b"/etc/passwd", "empty or absolute"),
    "empty": (b"", "empty or absolute"),
    "folder": (b"golden/", "is a folder"),
    "empty part": (b"golden//x", "other characters"),
    "current folder": (b"./x", "other characters"),
    "hidden": (b".profile", "other characters"),
    "backslash": (b"golden\\x", "other characters"),
    "drive": (b"C:x", "other characters"),
    "nul": (b"LICENSES\0x", "other characters"),
    "line feed": (b"a\nb", "other characters"),
    "space": (b"a b", "other characters"),
    "utf-8": ("é".encode(), "not ASCII"),
    "latin-1": (b"\xe9", "not ASCII"),
    "long": (b"n" * 201, "201 bytes, at most 200"),
    "deep": (b"a/b/c/d", "deeper than 3"),
    "duplicate": (b"LICENSES", "LICENSES.*twice"),
    "case clash": (b"Licenses", "LICENSES and Licenses"),
    "unknown": (b"setup.py", "not the members"),
    "program of no entry": (b"programs/other/model.so", "not the members"),
}


@pytest.mark.parametrize("case", EXTRA_NAMES)
def test_extra_member_is_refused(case: str, scratch: Path, contents: dict[str, bytes]) -> None:
    name, reason = EXTRA_NAMES[case]
    members = raw_members(contents | {name.decode("latin-1"): b"x"})
    members[-2] = RawMember(name, b"x")
    if name == b"LICENSES":
        members.insert(-1, RawMember(name, b"x"))
    check_refused(scratch, pack(members), reason)


def edit_digests(edit: Callable[[str], str]) -> Callable[[Members], Members]:
    return lambda m: [*m[:-1], RawMember(b"DIGESTS", edit(m[-1].content.decode()).encode())]


def swap(members: Members, i: int, j: int) -> Members:
    swapped = list(members)
    swapped[i], swapped[j] = members[j], members[i]
    return swapped


def reverse_lines(text: str) -> str:
    return "".join(reversed(text.splitlines(keepends=True)))


SIGNATURE = RawMember(b"DIGESTS.sig", bytes(64))
# The zip structure is right; members, DIGESTS and order are not.
LISTINGS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "no DIGESTS": (lambda m: m[:-1], "no member DIGESTS"),
    "no manifest": (lambda m: m[1:], "manifest.json is listed in DIGESTS but missing"),
    "missing member": (lambda m: [*m[:5], m[6]], "LICENSES is listed in DIGESTS but missing"),
    "unlisted member": (
        lambda m: [*m[:-1], RawMember(b"extra", b""), m[-1]],
        "extra is not listed in DIGESTS",
    ),
    "other content": (
        lambda m: [m[0], replace(m[1], content=b"\x7fELF cpu-float99"), *m[2:]],
        "the digest is not the one",
    ),
    "other size": (lambda m: [m[0], replace(m[1], content=b"short"), *m[2:]], "5 bytes, DIGESTS"),
    "DIGESTS not last": (lambda m: [m[-1], *m[:-1]], "not the members, or their order"),
    "manifest not first": (lambda m: swap(m, 0, 1), "not the members, or their order"),
    "golden in another order": (lambda m: swap(m, 3, 4), "not the members, or their order"),
    "signature before DIGESTS": (lambda m: [*m[:-1], SIGNATURE, m[-1]], "not the last member"),
    "short signature": (lambda m: [*m, replace(SIGNATURE, content=bytes(63))], "63 bytes, not 64"),
    "long signature": (lambda m: [*m, replace(SIGNATURE, content=bytes(65))], "at most 64"),
    "empty DIGESTS": (edit_digests(lambda t: ""), "does not end with a line feed"),
    "huge DIGESTS": (edit_digests(lambda t: t * 1000), "at most"),
    "no last line feed": (edit_digests(lambda t: t[:-1]), "does not end with a line feed"),
    "carriage returns": (edit_digests(lambda t: t.replace("\n", "\r\n")), "is not 'sha256"),
    "upper-case digest": (edit_digests(lambda t: t.upper()), "is not 'sha256 size name'"),
    "size with a zero": (edit_digests(lambda t: t.replace(" 11 ", " 011 ")), "is not 'sha256"),
    "two spaces": (edit_digests(lambda t: t.replace(" 11 ", "  11 ")), "is not 'sha256"),
    "lines in another order": (edit_digests(reverse_lines), "repeated or not in order"),
    "line twice": (
        edit_digests(lambda t: t.replace("\n", "\n" + t[: t.index("\n") + 1], 1)),
        "repeated or not in order",
    ),
    "DIGESTS lists itself": (
        edit_digests(lambda t: "0" * 64 + f" {len(t) + 77} DIGESTS\n" + t),
        "DIGESTS lists itself",
    ),
}


@pytest.mark.parametrize("case", LISTINGS)
def test_listing_is_refused(case: str, scratch: Path, contents: dict[str, bytes]) -> None:
    build, reason = LISTINGS[case]
    check_refused(scratch, pack(build(raw_members(contents))), reason)


def setting(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return edit


TENSOR = {"name": "z", "dtype": "float32", "shape": [1]}
# All digests are right; the manifest contradicts its schema, itself or the members.
MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "newer schema": (setting("schema", value=2), "has schema 2, this version reads 1"),
    "unknown key": (setting("run_as_root", value=True), "unknown field `run_as_root`"),
    "unknown key of a program": (setting("programs", 0, "x", value=1), "unknown field `x`"),
    "unknown key of a step": (
        setting("programs", 0, "entries", 0, "steps", 0, "x", value=1),
        "unknown or repeated keys",
    ),
    "missing key": (lambda m: m.pop("target"), "missing required field `target`"),
    "missing nullable key": (lambda m: m.pop("labels"), "missing required field `labels`"),
    "missing key with a default": (
        lambda m: m["thresholds"].pop("int8_within"),
        "unknown or repeated keys",
    ),
    "text for a number": (setting("programs", 0, "arena_bytes", value="64"), "Expected `int`"),
    "unknown back end": (setting("programs", 0, "backend", value="gcc"), "Invalid enum value"),
    "no programs": (setting("programs", value=[]), "not the members"),
    "program id leaves the folder": (setting("programs", 0, "id", value="../x"), "illegal id"),
    "program file elsewhere": (setting("programs", 0, "file", value="LICENSES"), "not the members"),
    "program size": (setting("programs", 0, "size_bytes", value=1), "has 1 bytes, its file"),
    "verified by nobody": (setting("programs", 0, "verified", value="me"), "neither host"),
    "no entries": (setting("programs", 0, "entries", value=[]), "no entry"),
    "unknown dtype": (
        setting("programs", 0, "entries", 0, "inputs", 0, "dtype", value="float64"),
        "no such dtype",
    ),
    "negative dimension": (
        setting("programs", 0, "entries", 0, "inputs", 0, "shape", value=[-1, -2]),
        "no such dtype or shape",
    ),
    "model digest": (setting("model", "sha256", value="0" * 63), "64 hexadecimal digits"),
    "gateway digest": (setting("gateways", value=["model"]), "64 hexadecimal digits"),
    "target fields": (setting("target", "fields", "cores", value=8), "target's id or digest"),
    "target id": (setting("target", "id", value="other"), "target's id or digest"),
    "golden of no program": (setting("golden", 0, "program", value="x"), "golden tensors of"),
    "golden missing": (
        lambda m: m["programs"][0]["entries"][0]["inputs"].append(TENSOR),
        "each once",
    ),
    "golden index": (setting("golden", 0, "index", value=7), "each once"),
    "golden name": (setting("golden", 0, "name", value="z"), "is not as the program says"),
    "golden file of another size": (
        setting("golden", 0, "file", value="golden/cpu-float32.0.output.0.bin"),
        "not the members|bytes long",
    ),
    "golden tolerance": (setting("golden", 1, "tolerance", value=-1.0), "below 0"),
    "other tolerance than the index": (
        setting("golden", 1, "tolerance", value=9.0),
        "golden/index.txt is not what manifest.json says",
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest_is_refused(case: str, scratch: Path, contents: dict[str, bytes]) -> None:
    edit, reason = MANIFESTS[case]
    manifest = json.loads(contents["manifest.json"])
    edit(manifest)
    changed = contents | {"manifest.json": canonical_json(manifest)}
    check_refused(scratch, pack(raw_members(changed)), reason)


SPELLINGS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "truncated"),
    "not JSON": (lambda d: b"schema = 1", "malformed"),
    "not UTF-8": (lambda d: d.replace(b'"tiny"', b'"\xff"'), "UTF-8|utf-8"),
    "a list": (lambda d: b"[1]", "Expected `object`"),
    "nested too deep": (lambda d: d.replace(b"null", b"[" * 10000 + b"]" * 10000), "."),
    "repeated key": (lambda d: b'{"schema":1,' + d[1:], "repeated keys"),
    "spaces": (lambda d: d.replace(b",", b", "), "another spelling"),
    "infinite": (lambda d: d.replace(b"0.002", b"1e999"), "out of range|inf|JSON"),
    "appended": (lambda d: d + b"{}", "trailing"),
    "larger than allowed": (lambda d: b" " * (16 << 20) + d, "at most 16777216"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_manifest_spelling_is_refused(case: str, scratch: Path, contents: dict[str, bytes]) -> None:
    edit, reason = SPELLINGS[case]
    changed = contents | {"manifest.json": edit(contents["manifest.json"])}
    assert changed["manifest.json"] != contents["manifest.json"]
    check_refused(scratch, pack(raw_members(changed)), reason)


def test_file_beyond_two_gib_is_refused_unread(scratch: Path) -> None:
    with scratch.open("wb") as file:
        file.truncate(2**31)  # a hole: takes no space
    with pytest.raises(BundleError, match="2147483648 bytes are more"):
        open_bundle(scratch)
    scratch.unlink()


@given(st.data())
def test_any_flipped_byte_is_refused(scratch: Path, honest: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(honest) - 1))
    damaged = bytearray(honest)
    damaged[position] ^= data.draw(st.integers(1, 255))
    check_refused(scratch, bytes(damaged))


def test_every_byte_counts(scratch: Path, honest: bytes) -> None:
    for position in range(len(honest)):
        damaged = bytearray(honest)
        damaged[position] ^= 1 << (position % 8)
        check_refused(scratch, bytes(damaged))


def test_truncation_at_every_length_is_refused(scratch: Path, honest: bytes) -> None:
    for length in range(len(honest)):
        check_refused(scratch, honest[:length])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(scratch: Path, data: bytes) -> None:
    check_refused(scratch, data)

"""Hostile bundles against dse-run with AddressSanitizer: the corpus of the Python reader."""

import os
import random
from pathlib import Path

import pytest

from deepseek_edge.bundle import write_bundle
from tests.bundle_samples import RawMember, make_manifest, pack, raw_members
from tests.runtime.dse_run_bundles import build_with_gcc, is_refused, run
from tests.test_bundle_refusals import EXTRA_NAMES, LAYOUTS, LISTINGS

# Only a reader of manifest.json can know which members there should be, and in which order.
NEEDS_MANIFEST = {"unknown", "program of no entry", "golden in another order"}


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    return build_with_gcc(tmp_path_factory.mktemp("sanitized"), *flags)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "tiny.dse"
    write_bundle(path, *make_manifest())
    return path


@pytest.fixture(scope="module")
def members() -> list[RawMember]:
    manifest, contents = make_manifest()
    del manifest
    ordered = {"manifest.json": b"{}", "programs/cpu-float32/model.so": b"\x7fELF cpu-float32"}
    golden = {name: contents[name] for name in contents if name.startswith("golden/")}
    rest = {"golden/index.txt": b"\n", "LICENSES": contents["LICENSES"]}
    return raw_members(ordered | golden | rest)


def refuses(program: Path, folder: Path, data: bytes) -> bool:
    path = folder / "hostile.dse"
    path.write_bytes(data)
    return is_refused(run(program, "verify", path))


def test_a_bundle_of_the_python_writer_is_accepted(sanitized: Path, honest: Path) -> None:
    result = run(sanitized, "verify", honest)
    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_refused(
    sanitized: Path, tmp_path: Path, members: list[RawMember], case: str
) -> None:
    assert refuses(sanitized, tmp_path, LAYOUTS[case][0](members))


@pytest.mark.parametrize("case", sorted(LISTINGS.keys() - NEEDS_MANIFEST))
def test_a_listing_is_refused(
    sanitized: Path, tmp_path: Path, members: list[RawMember], case: str
) -> None:
    assert refuses(sanitized, tmp_path, pack(LISTINGS[case][0](members)))


@pytest.mark.parametrize("case", sorted(EXTRA_NAMES.keys() - NEEDS_MANIFEST))
def test_a_name_is_refused(
    sanitized: Path, tmp_path: Path, members: list[RawMember], case: str
) -> None:
    name = EXTRA_NAMES[case][0]
    contents = {m.name.decode(): m.content for m in members[:-1]}
    hostile = raw_members(contents | {name.decode("latin-1"): b"x"})
    hostile[-2] = RawMember(name, b"x")
    if name == b"LICENSES":
        hostile.insert(-1, RawMember(name, b"x"))
    assert refuses(sanitized, tmp_path, pack(hostile))


def test_a_file_of_two_gib_is_refused_unread(sanitized: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.dse"
    with path.open("wb") as file:
        file.truncate(2**31)
    assert is_refused(run(sanitized, "verify", path))


def test_a_folder_and_a_fifo_are_refused_without_waiting(sanitized: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert is_refused(run(sanitized, "verify", tmp_path))
    assert is_refused(run(sanitized, "verify", tmp_path / "fifo"))


def test_truncation_is_refused(sanitized: Path, tmp_path: Path, honest: Path) -> None:
    data = honest.read_bytes()
    structures = [i for i in range(len(data)) if data[i : i + 2] == b"PK"]
    lengths = {max(0, i + d) for i in structures for d in (-1, 0, 1, 4, 22, 30, 46)}
    assert all(refuses(sanitized, tmp_path, data[:n]) for n in lengths if n < len(data))


@pytest.mark.slow
def test_random_damage_is_refused(sanitized: Path, tmp_path: Path, honest: Path) -> None:
    data, generator = honest.read_bytes(), random.Random(2)
    for number in range(1000):
        damaged = _damage(data, generator, number)
        assert damaged == data or refuses(sanitized, tmp_path, damaged), number


def _damage(data: bytes, generator: random.Random, number: int) -> bytes:
    damaged = bytearray(data)
    # A third each: one bit, a few bytes of the structures at the end, pieces moved or removed.
    if number % 3 == 0:
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    elif number % 3 == 1:
        for _ in range(generator.randint(1, 8)):
            position = len(data) - 1 - generator.randrange(600)
            damaged[position] = generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))
    else:
        start, other = sorted(generator.sample(range(len(data)), 2))
        piece = damaged[start:other]
        del damaged[start:other]
        if generator.random() < 0.5:
            position = generator.randrange(len(damaged) + 1)
            damaged[position:position] = piece
    return bytes(damaged)

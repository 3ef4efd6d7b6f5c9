import os
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deepseek_edge.bundle import open_bundle, write_bundle
from deepseek_edge.errors import BundleError, InputError, OutputError, UsageError
from deepseek_edge.golden import golden_tensors
from deepseek_edge.manifest import Thresholds
from tests.bundle_samples import RawMember, make_manifest, make_program, pack, raw_members

PROGRAM = "programs/cpu-float32/model.so"
NAMES = (
    "manifest.json",
    PROGRAM,
    "golden/index.txt",
    "golden/cpu-float32.0.input.0.bin",
    "golden/cpu-float32.0.output.0.bin",
    "LICENSES",
    "DIGESTS",
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "tiny.dse"
    write_bundle(path, *make_manifest())
    return path.read_bytes()


@pytest.fixture(scope="module")
def members(honest: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[RawMember]:
    path = tmp_path_factory.mktemp("bundle") / "tiny.dse"
    path.write_bytes(honest)
    with zipfile.ZipFile(path) as archive:
        return raw_members({name: archive.read(name) for name in archive.namelist()})


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "damaged.dse"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    write_bundle(tmp_path / "a.dse", manifest, contents)
    with open_bundle(tmp_path / "a.dse") as bundle:
        assert bundle.names == NAMES
        assert {name: bundle.read(name) for name in contents} == contents
        assert bundle.manifest.programs == manifest.programs
        assert bundle.manifest.golden == manifest.golden
        assert bundle.signature is None


def test_python_and_by_hand_zip_writers_give_the_same_bytes(
    honest: bytes, members: list[RawMember]
) -> None:
    assert pack(members) == honest


def test_same_inputs_give_the_same_bytes_in_any_folder_from_bytes_or_files(
    honest: bytes, tmp_path: Path
) -> None:
    manifest, contents = make_manifest()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "library").write_bytes(contents[PROGRAM])
    os.utime(tmp_path / "elsewhere" / "library", (0, 0))
    reordered = dict(reversed(list(contents.items())))
    mixed: dict[str, bytes | Path] = {**reordered, PROGRAM: tmp_path / "elsewhere" / "library"}
    write_bundle(tmp_path / "elsewhere" / "b.dse", manifest, mixed)
    assert (tmp_path / "elsewhere" / "b.dse").read_bytes() == honest


def test_programs_lie_in_order_of_preference(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.dse", *make_manifest(("fast", "compact")))
    with open_bundle(tmp_path / "a.dse") as bundle:
        assert bundle.names[1:3] == ("programs/fast/model.so", "programs/compact/model.so")


def test_golden_index_has_a_line_per_tensor_in_the_order_of_the_entry(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.dse", *make_manifest())
    with open_bundle(tmp_path / "a.dse") as bundle:
        assert bundle.read("golden/index.txt").decode() == (
            "cpu-float32 0 input 0 0.0 golden/cpu-float32.0.input.0.bin\n"
            "cpu-float32 0 output 0 0.002 golden/cpu-float32.0.output.0.bin\n"
        )


def test_signature_is_kept_and_reported_as_it_is(scratch: Path, members: list[RawMember]) -> None:
    scratch.write_bytes(pack([*members, RawMember(b"DIGESTS.sig", bytes(range(64)))]))
    with open_bundle(scratch) as bundle:
        assert bundle.signature == bytes(range(64))


def test_library_is_a_private_copy_that_is_removed(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    write_bundle(tmp_path / "a.dse", manifest, contents)
    with open_bundle(tmp_path / "a.dse") as bundle:
        with bundle.program_library("cpu-float32") as library:
            assert library.read_bytes() == contents[PROGRAM]
            assert stat.S_IMODE(library.stat().st_mode) == 0o600
            assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
        assert not library.parent.exists()


def test_unknown_program_is_a_usage_error_that_names_the_others(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.dse", *make_manifest())
    with (
        open_bundle(tmp_path / "a.dse") as bundle,
        pytest.raises(UsageError, match="no program gpu") as caught,
        bundle.program_library("gpu"),
    ):
        pytest.fail("the block ran")
    assert caught.value.hint == "it has cpu-float32"


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of the very file that is open, CRC-32s and all, as an attacker would."""
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    with path.open("r+b") as file:
        file.write(data.replace(old, new))


def test_change_after_opening_is_caught_by_each_way_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.dse"
    write_bundle(path, *make_manifest())
    with open_bundle(path) as bundle:
        overwrite(path, b"\x7fELF cpu-float32", b"\x7fELF cpu-float33")
        with pytest.raises(BundleError, match=r"model\.so"):
            bundle.read(PROGRAM)
        with pytest.raises(BundleError, match=r"model\.so"), bundle.program_library("cpu-float32"):
            pytest.fail("the block ran")
        with pytest.raises(BundleError, match=r"model\.so"):
            bundle.extract(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.dse"]


def test_change_with_the_same_crc_is_caught_by_the_digest(tmp_path: Path) -> None:
    # CRC-32 is linear: adding its own polynomial, x^32 first, to a message does not change it.
    pattern = int(f"{0x104C11DB7:033b}"[::-1], 2).to_bytes(5, "little")
    old = b"\x7fELF cpu-float32"
    new = bytes(a ^ b for a, b in zip(old, pattern.ljust(len(old), b"\0"), strict=True))
    assert new != old and zlib.crc32(new) == zlib.crc32(old)
    path = tmp_path / "a.dse"
    write_bundle(path, *make_manifest())
    with open_bundle(path) as bundle:
        overwrite(path, old, new)
        with pytest.raises(BundleError, match="the digest is not the one in DIGESTS"):
            bundle.read(PROGRAM)


def test_replaced_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dse"
    manifest, contents = make_manifest()
    write_bundle(path, manifest, contents)
    with open_bundle(path) as bundle:
        path.unlink()
        path.write_bytes(b"another file")
        assert bundle.read(PROGRAM) == contents[PROGRAM]


def test_extracted_files_are_the_members(tmp_path: Path, honest: bytes) -> None:
    (tmp_path / "a.dse").write_bytes(honest)
    with open_bundle(tmp_path / "a.dse") as bundle:
        bundle.extract(tmp_path / "out")
        files = {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert {str(p.relative_to(tmp_path / "out")) for p in files} == set(NAMES)
        assert all(
            p.read_bytes() == bundle.read(str(p.relative_to(tmp_path / "out"))) for p in files
        )


def test_extract_leaves_a_folder_with_files_alone(tmp_path: Path, honest: bytes) -> None:
    (tmp_path / "a.dse").write_bytes(honest)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with open_bundle(tmp_path / "a.dse") as bundle, pytest.raises(OutputError, match="not empty"):
        bundle.extract(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / "a.dse"
    if kind == "folder":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(BundleError, match="regular file"):
        open_bundle(path)


def test_missing_bundle_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        open_bundle(tmp_path / "a.dse")


def test_refused_bundle_leaves_no_open_file(tmp_path: Path, honest: bytes) -> None:
    (tmp_path / "a.dse").write_bytes(honest[:-1])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # pathlib opens one more
    with pytest.raises(BundleError):
        open_bundle(tmp_path / "a.dse")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("name", ["LICENSES", PROGRAM, "golden/cpu-float32.0.input.0.bin"])
def test_writing_without_a_member_is_refused(tmp_path: Path, name: str) -> None:
    manifest, contents = make_manifest()
    del contents[name]
    with pytest.raises(BundleError, match=name):
        write_bundle(tmp_path / "a.dse", manifest, contents)
    assert list(tmp_path.iterdir()) == []


def test_writing_a_member_that_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    with pytest.raises(BundleError, match="zzz"):
        write_bundle(tmp_path / "a.dse", manifest, {**contents, "zzz": b""})


def test_writing_a_library_of_another_size_is_refused(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    with pytest.raises(BundleError, match="has 16 bytes, its files 5"):
        write_bundle(tmp_path / "a.dse", manifest, {**contents, PROGRAM: b"short"})
    assert list(tmp_path.iterdir()) == []


def test_bundle_beyond_two_gib_is_an_output_error(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    with (tmp_path / "library").open("wb") as file:
        file.truncate(2**31)  # a hole: takes no space
    program = msgspec.structs.replace(manifest.programs[0], size_bytes=2**31)
    large = msgspec.structs.replace(manifest, programs=(program,))
    with pytest.raises(OutputError, match="beyond 2147483647 bytes"):
        write_bundle(tmp_path / "a.dse", large, {**contents, PROGRAM: tmp_path / "library"})
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_number_that_json_cannot_say_is_refused_when_writing(tmp_path: Path) -> None:
    manifest, contents = make_manifest()
    odd = msgspec.structs.replace(manifest, thresholds=Thresholds(max_drop_pp=float("nan")))
    with pytest.raises(BundleError, match="can't be written"):
        write_bundle(tmp_path / "a.dse", odd, contents)


def test_reading_an_unknown_member_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.dse", *make_manifest())
    with open_bundle(tmp_path / "a.dse") as bundle, pytest.raises(BundleError, match="no member x"):
        bundle.read("x")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 2), np.float64), r"is float64\[1, 2\], its entry says float32"),
        (np.zeros((2, 1), np.float32), r"float32\[2, 1\]"),
        (None, "is missing"),
    ],
    ids=["dtype", "shape", "missing"],
)
def test_golden_tensor_unlike_its_entry_is_an_input_error(
    array: NDArray[np.float32] | None, reason: str
) -> None:
    inputs = {} if array is None else {"x": array}
    with pytest.raises(InputError, match=reason):
        golden_tensors(make_program("p", b""), inputs, {}, tolerances={})


def test_bundle_beyond_the_limit_of_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    code = """
import resource, signal
from pathlib import Path
from deepseek_edge.bundle import write_bundle
from deepseek_edge.errors import OutputError
from tests.bundle_samples import make_manifest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
manifest, contents = make_manifest()
try:
    write_bundle(Path("a.dse"), manifest, contents)
except OutputError as error:
    print(error.__cause__.strerror)
"""
    (tmp_path / "a.dse").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.dse", b"old")]

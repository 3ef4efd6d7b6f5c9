import re
import subprocess
from pathlib import Path

import pytest

from deepseek_edge.backends.tvm.link import link_program
from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.target import load_target
from tests.linear_program import build

TARGETS = ("host", "arm64", "raspberry-pi-5", "android-arm64")
FUNCTIONS = {
    *("dse_abi_version", "dse_open", "dse_entries", "dse_entry", "dse_tensor", "dse_step"),
    *("dse_run", "dse_run_timed", "dse_last_error", "dse_close"),
}


def readelf(library: Path, *options: str) -> str:
    command = ["readelf", *options, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("link")
    return {id: build(folder / id, load_target(id)) for id in TARGETS}


@pytest.mark.parametrize("id", TARGETS)
def test_a_library_needs_libc_libm_and_libpthread_at_most(
    libraries: dict[str, Path], id: str
) -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf(libraries[id], "-dW")))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libc.so", "libm.so"}
    assert any(name.startswith("libc.so") for name in needed)


@pytest.mark.parametrize("id", TARGETS)
def test_a_library_exports_the_c_interface_only(libraries: dict[str, Path], id: str) -> None:
    rows = [line.split() for line in readelf(libraries[id], "--dyn-syms", "-W").splitlines()]
    exported = {row[7] for row in rows if len(row) == 8 and row[6].isdigit()}
    assert exported == FUNCTIONS


@pytest.mark.parametrize("id", TARGETS)
def test_segments_are_aligned_to_16_kb_pages(libraries: dict[str, Path], id: str) -> None:
    alignments = re.findall(r"^ +LOAD .* (0x[0-9a-f]+)$", readelf(libraries[id], "-lW"), re.M)
    assert len(alignments) >= 3
    assert {int(alignment, 16) % 16384 for alignment in alignments} == {0}


@pytest.mark.parametrize("id", TARGETS)
def test_the_runtime_takes_at_most_24_kb(libraries: dict[str, Path], id: str) -> None:
    constants = (libraries[id].parent / "constants.bin").stat().st_size
    padding = 2 * 16384  # the constants are aligned, and sorted in among other read-only data
    assert libraries[id].stat().st_size - constants - padding <= 24 * 1024


@pytest.mark.parametrize("id", TARGETS)
def test_weights_are_shared_pages_and_no_segment_is_writable_and_executable(
    libraries: dict[str, Path], id: str
) -> None:
    segments = re.findall(
        r"^ +LOAD +\S+ \S+ \S+ (\S+) \S+ ([RWE ]{3}) ", readelf(libraries[id], "-lW"), re.M
    )
    constants = (libraries[id].parent / "constants.bin").stat().st_size
    for size, flags in segments:
        assert "WE" not in flags.replace(" ", "")
        assert (int(size, 16) >= constants) == (flags == "R  ")


@pytest.mark.parametrize("id", TARGETS)
def test_the_same_program_gives_the_same_bytes_in_another_folder(
    libraries: dict[str, Path], tmp_path: Path, id: str
) -> None:
    again = build(tmp_path / "somewhere-else", load_target(id))
    assert again.read_bytes() == libraries[id].read_bytes()
    assert b"somewhere" not in again.read_bytes()


def test_changed_weights_are_linked_though_the_c_file_is_the_same(tmp_path: Path) -> None:
    before = build(tmp_path, load_target("host")).read_bytes()
    constants = tmp_path / "constants.bin"
    changed = bytes(255 - byte for byte in constants.read_bytes())
    constants.write_bytes(changed)
    assert changed not in before
    assert changed in link_program(tmp_path, load_target("host")).read_bytes()


def test_a_kernel_that_needs_an_unknown_function_is_an_error_that_names_it(tmp_path: Path) -> None:
    build(tmp_path, load_target("host"))
    program = tmp_path / "program.c"
    text = program.read_text(encoding="utf-8").replace("sum24", "sum25")
    program.write_text(text)
    with pytest.raises(DeepSeekEdgeError, match="undefined symbol: sum25"):
        link_program(tmp_path, load_target("host"))

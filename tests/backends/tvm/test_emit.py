from pathlib import Path

import numpy as np

from deepseek_edge.backends.tvm.emit import Constants, EntryTable, StepRow, quoted, write_program
from deepseek_edge.backends.tvm.graph import Scratch, Value, constant
from deepseek_edge.backends.tvm.memory import Arena


def test_equal_contents_are_stored_once_and_aligned(tmp_path: Path) -> None:
    constants = Constants()
    ones = np.ones(3, np.float32)
    assert [constants.add(a) for a in (ones, np.arange(20), ones.copy(), ones.reshape(3, 1))] == [
        0, 64, 0, 0,
    ]  # fmt: skip
    assert constants.size_bytes == 64 + 192
    constants.write(tmp_path / "c")
    assert (tmp_path / "c").read_bytes()[:12] == ones.tobytes()
    assert len((tmp_path / "c").read_bytes()) == 256


def test_no_constants_are_no_empty_file(tmp_path: Path) -> None:
    Constants().write(tmp_path / "c")
    assert (tmp_path / "c").stat().st_size == 64


def test_strings_are_plain_c() -> None:
    assert quoted("conv1/out") == '"conv1/out"'
    assert quoted('a"b\\c?d') == '"a\\042b\\134c\\077d"'
    assert quoted("é\n") == '"\\303\\251\\012"'


def test_the_table_lists_steps_tensors_and_offsets(tmp_path: Path) -> None:
    x, y = Value("x", "float32", (2, 3)), Value("y", "float32", (6,))
    view, weights = Value("view", "float32", (6,)), constant("w", np.ones(6, np.float32))
    row = StepRow("k0", (view, weights, y), 4, 2, "node", "Mul")
    table = EntryTable("batch1", (x,), (y,), (row,), Arena({x: 0, y: 64}, 128, 128), {view: x})
    write_program([table], Constants(), ("avx2", "fma"), tmp_path)
    source = (tmp_path / "program.c").read_text()
    assert "{0u, DSE_ARENA}" in source  # the view lies where x does
    assert "{0u, DSE_CONSTANT}" in source
    assert "{64u, DSE_ARENA}" in source
    assert "{k0, 0, 3, 4, 2}" in source
    assert '{"x", 1, 2, {2, 3}, 0u, 24u}' in source
    assert '"avx2 fma", 192u' in source  # the arena, with room to align it


def test_scratch_memory_is_as_large_as_the_hungriest_step_needs(tmp_path: Path) -> None:
    x = Value("x", "float32", (4,))
    rows = tuple(
        StepRow("k0", (x, Scratch("scratch", "float32", (size,)), x), 1, 1, "node", "Conv")
        for size in (16, 33, 5)
    )
    table = EntryTable("batch1", (x,), (x,), rows, Arena({x: 0}, 64, 64), {})
    write_program([table], Constants(), (), tmp_path)
    source = (tmp_path / "program.c").read_text()
    assert source.count("{0u, DSE_SCRATCH}") == 3
    assert "entries, 1, 192u" in source

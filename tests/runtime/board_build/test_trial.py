import hashlib
import math
import struct
from pathlib import Path

import pytest

from deepseek_edge.runtime.board_build.build_recipe import GoldenFile, StoredFile
from deepseek_edge.runtime.board_build.trial import (
    TURNS,
    WARM_UP,
    compare_outputs,
    largest_difference,
    time_in_turns,
)
from deepseek_edge.tensors import TensorSpec


def golden(folder: Path, values: list[float], tolerance: float) -> GoldenFile:
    data = struct.pack(f"<{len(values)}f", *values)
    (folder / "y.bin").write_bytes(data)
    file = StoredFile(folder / "y.bin", hashlib.sha256(data).hexdigest())
    return GoldenFile(TensorSpec("y", "float32", (len(values),)), file, tolerance)


def test_outputs_are_compared_with_their_tolerance(tmp_path: Path) -> None:
    expected = [golden(tmp_path, [1.0, 2.0], 0.5)]
    assert compare_outputs({"y": struct.pack("<2f", 1.0, 2.0)}, expected) == (0.0, "")
    worst, where = compare_outputs({"y": struct.pack("<2f", 1.25, 2.0)}, expected)
    assert worst == 0.5
    worst, where = compare_outputs({"y": struct.pack("<2f", 1.0, 3.0)}, expected)
    assert worst == 2.0
    assert where == "output 'y' is off by 1 (0.5 may)"


def test_a_tolerance_of_0_wants_equal_bytes(tmp_path: Path) -> None:
    expected = [golden(tmp_path, [1.0], 0.0)]
    assert compare_outputs({"y": struct.pack("<f", 1.0)}, expected)[0] == 0
    assert compare_outputs({"y": struct.pack("<f", 1.0000001)}, expected)[0] == math.inf


@pytest.mark.parametrize("outputs", [{}, {"z": b"1234"}, {"y": b"123"}])
def test_missing_outputs_are_wrong(tmp_path: Path, outputs: dict[str, bytes]) -> None:
    assert compare_outputs(outputs, [golden(tmp_path, [1.0], 1e9)])[0] == math.inf


@pytest.mark.parametrize(
    ("dtype", "form", "found", "expected", "difference"),
    [
        ("float32", "f", 1.5, 1.0, 0.5),
        ("float16", "e", 1.5, 1.0, 0.5),
        ("int8", "b", -128, 127, 255),
        ("uint8", "B", 255, 0, 255),
        ("int32", "i", -(2**31), 2**31 - 1, 2**32 - 1),
        ("int64", "q", 5, 3, 2),
        ("bool", "?", True, False, 1),
        ("float32", "f", math.inf, 1.0, math.inf),
        ("float32", "f", math.nan, 1.0, math.inf),
        ("float32", "f", 1.0, math.nan, math.inf),
        ("float32", "f", math.inf, math.inf, 0.0),
    ],
)
def test_differences_of_each_type(
    dtype: str, form: str, found: float, expected: float, difference: float
) -> None:
    spec = TensorSpec("y", dtype, (1,))
    one, other = struct.pack("<" + form, found), struct.pack("<" + form, expected)
    assert largest_difference(one, other, spec) == difference


def test_a_golden_file_of_another_size_than_its_shape_is_wrong() -> None:
    spec = TensorSpec("y", "float32", (3,))
    assert largest_difference(b"12345678", b"12345679", spec) == math.inf


class Recorder:
    def __init__(self, name: str, calls: list[tuple[str, int]]) -> None:
        self.name, self.calls = name, calls

    def time(self, repetitions: int) -> list[int]:
        self.calls.append((self.name, repetitions))
        return [len(self.calls)] * repetitions


def test_engines_are_timed_in_turns_after_a_warm_up() -> None:
    calls: list[tuple[str, int]] = []
    runners = {name: Recorder(name, calls) for name in ("a", "b")}
    durations = time_in_turns(runners, 50)
    assert calls[:2] == [("a", WARM_UP), ("b", WARM_UP)]
    assert calls[2:] == [("a", 10), ("b", 10)] * TURNS
    assert {name: len(times) for name, times in durations.items()} == {"a": 50, "b": 50}
    # What was measured while warming up isn't counted.
    assert min(durations["a"]) > 2

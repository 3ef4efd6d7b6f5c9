import math
from dataclasses import replace

import pytest

from deepseek_edge.artifacts import Step
from deepseek_edge.profiling.roofline import (
    attainable_flop_s,
    find_roof,
    intensity,
    least_s,
    limited_by,
    with_limits,
)
from deepseek_edge.report import Bandwidth, Roof
from tests.profiling.test_html import PROFILE, STEPS, TARGET

CACHED = (Bandwidth(600_000, 20e9), Bandwidth(math.inf, 5e9))


def test_roof_by_hand() -> None:
    # 4 multiply-adds x 2 operations x 1.5 GHz x 2 cores = 24 GFLOP/s; 4 GB/s.
    roof = find_roof(TARGET, threads=2)
    assert roof == Roof(24e9, (Bandwidth(math.inf, 4e9),))
    assert intensity(STEPS[0]) == 8.05
    assert attainable_flop_s(roof, 1.0) == 4e9
    assert attainable_flop_s(roof, 100.0) == 24e9
    # 4 million operations at 24 GFLOP/s take 167 us, 500 kB at 4 GB/s 125 us.
    assert least_s(roof, STEPS[0]) == pytest.approx(4e6 / 24e9)
    assert limited_by(roof, STEPS[0]) == "arithmetic"
    # Only bytes: 2000 at 4 GB/s.
    assert least_s(roof, STEPS[1]) == pytest.approx(500e-9)
    assert limited_by(roof, STEPS[1]) == "memory"


def test_integer_multiplies_count_as_often_as_an_instruction_does_them() -> None:
    roof = find_roof(TARGET, threads=2)
    assert roof is not None
    dot = replace(STEPS[0], lane_macs=4)
    # 1 million instruction lanes take 42 us, so that now the bytes decide.
    assert least_s(roof, dot) == pytest.approx(125e-6)
    assert limited_by(roof, dot) == "memory"


def test_elementwise_work_is_limited_by_one_operation_a_lane() -> None:
    roof = Roof(24e9, (Bandwidth(math.inf, 1e15),))
    assert least_s(roof, Step("", "Exp", 0, 4, 4, 1, operations=12_000)) == pytest.approx(1e-6)


def test_data_that_fit_a_cache_come_from_it() -> None:
    roof = find_roof(TARGET, 1, measured=CACHED)
    assert roof is not None
    near, far = Step("", "Copy", 0, 300_000, 300_000, 1), Step("", "Copy", 0, 600_000, 1, 1)
    assert least_s(roof, near) == pytest.approx(30e-6)
    assert least_s(roof, far) == pytest.approx(120.0002e-6)
    assert [limited_by(roof, step) for step in (near, far)] == ["cache", "memory"]


def test_what_nobody_verified_makes_no_roof() -> None:
    assert find_roof(replace(TARGET, memory_bandwidth_bytes_s=None), threads=1) is None
    assert find_roof(replace(TARGET, clock_hz=None), 1, measured=CACHED) is None
    assert find_roof(TARGET, 1, unverified={"memory_bandwidth_bytes_s"}) is None
    assert find_roof(TARGET, 1, measured=CACHED, unverified={"peak_fma_per_cycle"}) is None
    # What was measured needs no source.
    assert find_roof(TARGET, 1, measured=CACHED, unverified={"memory_bandwidth_bytes_s"})


def test_a_profile_says_the_share_of_the_limit_or_null() -> None:
    conv, transpose = with_limits(PROFILE, STEPS, TARGET).layers
    assert (conv.operations, conv.bytes, conv.limited_by) == (4_025_000, 500_000, "arithmetic")
    assert conv.limit_ms == pytest.approx(4e6 / 24e6)
    assert conv.limit_share == pytest.approx(4e6 / 24e6 / 1.0)
    assert transpose.limit_share == pytest.approx(0.0005 / 0.1)
    unknown = with_limits(PROFILE, STEPS, TARGET, {"clock_hz"})
    assert unknown.roof is None
    assert [layer.limit_share for layer in unknown.layers] == [None, None]
    assert unknown.layers[0].operations == 4_025_000

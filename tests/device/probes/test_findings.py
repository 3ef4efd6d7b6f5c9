from dataclasses import replace
from typing import Any

import pytest

from deepseek_edge.capabilities import Capability
from deepseek_edge.device.probes import findings
from deepseek_edge.device.probes.board import read_board
from deepseek_edge.device.probes.findings import (
    describe_board,
    describe_driver,
    find_machine_state,
)
from deepseek_edge.device.probes.nvidia_driver import Driver, Gpu
from deepseek_edge.device.probes.power_mode import PowerMode
from deepseek_edge.device.probes.throttling import Throttling
from deepseek_edge.errors import ProbeError
from tests.device.probes.recordings import (
    DESKTOP,
    ORIN_NANO,
    PACKAGES_36,
    RASPBERRY_PI_5,
    RecordedSystem,
)

ORIN = read_board(RecordedSystem(ORIN_NANO, {"dpkg-query": PACKAGES_36}))


def row(name: str, **changes: Any) -> Capability:
    rows = {one.name: one for one in describe_board(replace(ORIN, **changes))}
    return rows[name]


def test_nothing_about_a_board_is_required() -> None:
    assert not any(one.required for one in describe_board(ORIN))


def test_a_jetson_has_its_versions() -> None:
    assert row("JetPack").found == "6.2 (L4T 36.4.3), CUDA 12.6.68, TensorRT 10.3.0.30"
    assert row("JetPack").remedy is None


def test_missing_tensorrt_is_advised() -> None:
    assert ORIN.software is not None
    found = row("JetPack", software=replace(ORIN.software, tensorrt=None))
    assert "TensorRT not installed" in str(found.found)
    assert found.remedy == "sudo apt-get install nvidia-jetpack"


def test_the_fastest_power_mode_is_advised_by_this_boards_number() -> None:
    found = row("power mode")
    assert found.found == "15W, cores 4-5 are off"
    assert "sudo nvpmodel -m 2 (MAXN_SUPER)" in str(found.remedy)
    best = row("power mode", power_mode=PowerMode(2, "MAXN_SUPER"), offline_cores=None)
    assert (best.found, best.remedy) == ("MAXN_SUPER", None)


def test_clocks_that_can_change_are_advised_against() -> None:
    found = row("clocks")
    assert found.found == "policy0 730 to 1510 MHz; 17000000.gpu 306 to 612 MHz"
    assert "jetson_clocks" in str(found.remedy)
    (cpu,) = ORIN.cpu_clocks
    pinned = row("clocks", cpu_clocks=(cpu._replace(least_hz=cpu.most_hz),), gpu_clock=None)
    assert (pinned.found, pinned.remedy) == ("policy0 1510 MHz", None)


def test_swap_is_advised_where_there_is_none() -> None:
    assert row("memory").found == "4.7 of 8.0 GB available, swap 0.0 GB"
    assert "docs/jetson.md" in str(row("memory").remedy)


def test_heat_is_told_on_every_machine_that_knows_it() -> None:
    assert row("heat").found == "53 C, not throttled"
    for files, found in (
        (RASPBERRY_PI_5, "62 C, not throttled"),
        (DESKTOP, "45 C, not throttled"),
    ):
        (heat,) = describe_board(read_board(RecordedSystem(files)))
        assert (heat.name, heat.found) == ("heat", found)
    assert describe_board(read_board(RecordedSystem({}))) == ()


def test_throttling_is_told_with_its_cause() -> None:
    found = row("heat", throttling=Throttling(("under-voltage",), {}))
    assert found.found == "53 C, throttled: under-voltage"
    assert "power supply" in str(found.remedy)
    assert "doesn't tell" in str(row("heat", throttling=None).found)


def test_the_driver_is_described_or_its_fault() -> None:
    assert describe_driver(None).remedy is None
    found = describe_driver(Driver("12.6", (Gpu("Orin", "sm_87"),), None))
    assert found.found == "CUDA 12.6, Orin (sm_87)"
    broken = describe_driver(Driver("12.6", (), "cuInit: CUDA_ERROR_NO_DEVICE"))
    assert broken.found is None
    assert "CUDA_ERROR_NO_DEVICE" in str(broken.remedy)


def test_a_board_that_answers_nonsense_is_one_row_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise ProbeError("the firmware answered 'x'", hint="run vcgencmd")

    monkeypatch.setattr(findings, "read_board", fail)
    last = find_machine_state()[-1]
    assert (last.name, last.found) == ("board", None)
    assert last.remedy == "the firmware answered 'x'; run vcgencmd"


def test_this_machine_can_be_described() -> None:
    assert find_machine_state()[0].name == "NVIDIA driver"

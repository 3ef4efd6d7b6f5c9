import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.device.probes.clocks import (
    read_cpu_clocks,
    read_gpu_clock,
    read_offline_cores,
    to_number,
)
from tests.device.probes.recordings import ORIN_NANO, RecordedSystem

GPU = "/sys/class/devfreq/17000000.gpu"


def test_a_jetson_tells_what_its_clocks_are_and_may_be() -> None:
    system = RecordedSystem(ORIN_NANO)
    (cpu,) = read_cpu_clocks(system)
    assert (cpu.now_hz, cpu.most_hz, cpu.hardware_most_hz) == (
        729_600_000, 1_510_400_000, 1_728_000_000,
    )  # fmt: skip
    assert (cpu.governor, cpu.is_pinned) == ("schedutil", False)
    gpu = read_gpu_clock(system)
    assert gpu is not None
    assert (gpu.name, gpu.now_hz, gpu.most_hz, gpu.hardware_most_hz) == (
        "17000000.gpu", 306_000_000, 612_000_000, 1_020_000_000,
    )  # fmt: skip
    assert read_offline_cores(system) == "4-5"


def test_jetson_clocks_pins_a_clock() -> None:
    system = RecordedSystem(ORIN_NANO | {f"{GPU}/min_freq": "612000000\n"})
    gpu = read_gpu_clock(system)
    assert gpu is not None
    assert gpu.is_pinned


@pytest.mark.parametrize("name", ["57000000.gpu", "17000000.gv11b", "17000000.ga10b", "gpu-gpc-0"])
def test_the_gpu_is_found_by_any_of_its_names(name: str) -> None:
    system = RecordedSystem(
        {"/sys/class/devfreq/1.vic/cur_freq": "1", f"/sys/class/devfreq/{name}/cur_freq": "5"}
    )
    gpu = read_gpu_clock(system)
    assert gpu is not None
    assert (gpu.now_hz, gpu.most_hz, gpu.governor, gpu.is_pinned) == (5, None, None, False)


def test_a_machine_without_cpufreq_and_devfreq_is_no_error() -> None:
    assert read_cpu_clocks(RecordedSystem({})) == ()
    assert read_gpu_clock(RecordedSystem({"/sys/class/devfreq/1.vic/cur_freq": "1"})) is None
    assert read_offline_cores(RecordedSystem({"/sys/devices/system/cpu/offline": "\n"})) is None


def test_numbers_are_the_kernels_and_nothing_else() -> None:
    assert [to_number(text) for text in ("12\n", " -5 ", "0")] == [12, -5, 0]
    assert [to_number(text) for text in ("", "-", "1.5", "0x5", "²", "9" * 5000)] == [None] * 6


@given(st.text())
def test_any_text_is_a_number_or_none(text: str) -> None:
    to_number(text)

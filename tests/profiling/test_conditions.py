from dataclasses import fields, replace
from pathlib import Path

from deepseek_edge.device.probes.throttling import Throttling
from deepseek_edge.profiling.conditions import (
    Conditions,
    read_conditions,
    reasons_to_doubt,
    run_conditions,
)
from deepseek_edge.report import RunConditions
from tests.device.probes.recordings import (
    NVPMODEL_SUPER,
    ORIN_NANO,
    PACKAGES_36,
    RASPBERRY_PI_5,
    RecordedSystem,
)

QUIET = Conditions(frequency_hz=3_000_000_000, throttled=2, busy_s=10.0, stolen_s=1.0, own_s=4.0)


def test_nothing_is_doubted_when_only_this_process_worked() -> None:
    after = replace(QUIET, busy_s=11.9, own_s=5.9)
    assert reasons_to_doubt(QUIET, after, 1.0) == []


def test_each_fault_is_named() -> None:
    after = Conditions(2_400_000_000, 3, busy_s=12.0, stolen_s=1.5, own_s=5.0)
    assert reasons_to_doubt(QUIET, after, 1.0) == [
        "the CPU was throttled for heat",
        "the CPU clock changed by -20%",
        "other processes used 1.0 cores",
        "the hypervisor withheld 50% of a core",
    ]


def test_a_gpus_clock_counts_where_the_gpu_was_measured() -> None:
    before = replace(QUIET, gpu_hz=1_000_000_000)
    after = replace(QUIET, gpu_hz=600_000_000)
    assert reasons_to_doubt(before, after, 1.0) == []
    assert reasons_to_doubt(before, after, 1.0, on_gpu=True) == ["the GPU clock changed by -40%"]
    assert reasons_to_doubt(before, replace(QUIET, gpu_hz=None), 1.0, on_gpu=True) == []
    assert reasons_to_doubt(before, replace(QUIET, gpu_hz=990_000_000), 1.0, on_gpu=True) == []


def test_an_unknown_clock_is_not_doubted() -> None:
    assert reasons_to_doubt(replace(QUIET, frequency_hz=None), QUIET, 1.0) == []


def test_counters_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    for cpu, khz, count in ((0, 1_500_000, 1), (1, 2_400_000, 2)):
        for name, value in (
            ("cpufreq/scaling_cur_freq", khz),
            ("thermal_throttle/core_throttle_count", count),
        ):
            path = tmp_path / f"cpu{cpu}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 5 6 7 8 0 0\ncpu0 1 2 3 4\n")
    found = read_conditions(tmp_path, stat)
    assert (found.frequency_hz, found.throttled) == (2_400_000_000, 3)
    assert found.busy_s / found.stolen_s == (100 + 20 + 30 + 6 + 7) / 8


def test_a_kernel_without_counters_is_not_an_error(tmp_path: Path) -> None:
    found = read_conditions(tmp_path, tmp_path / "stat")
    assert (found.frequency_hz, found.throttled, found.busy_s) == (None, 0, 0.0)


def read(files: dict[str, str], tmp_path: Path) -> Conditions:
    """Conditions of a recorded board, without processors' counters."""
    return read_conditions(tmp_path, tmp_path / "stat", RecordedSystem(files))


def test_a_jetson_tells_its_heat_power_mode_and_clocks(tmp_path: Path) -> None:
    before = read(ORIN_NANO, tmp_path)
    after = replace(before, temperature_c=60.0, frequency_hz=1_510_400_000)
    machine = RecordedSystem(ORIN_NANO, {"dpkg-query": PACKAGES_36})
    assert run_conditions(before, after, machine) == RunConditions(
        temperature_before_c=53.281,
        temperature_after_c=60.0,
        throttled=False,
        power_mode="15W",
        cpu_before_hz=None,
        cpu_after_hz=1_510_400_000,
        cpu_most_hz=1_510_400_000,
        gpu_before_hz=306_000_000,
        gpu_after_hz=306_000_000,
        gpu_most_hz=612_000_000,
        board="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit",
        l4t="36.4.3",
        jetpack="6.2",
        cuda="12.6.68",
        tensorrt="10.3.0.30",
    )
    assert reasons_to_doubt(before, before, 1.0) == []


def test_a_power_mode_without_a_name_has_its_number(tmp_path: Path) -> None:
    config = NVPMODEL_SUPER.replace("ID=0", "ID=9")
    assert read(ORIN_NANO | {"/etc/nvpmodel.conf": config}, tmp_path).power_mode == "number 0"


def test_a_clock_that_was_throttled_is_doubted_with_the_cause(tmp_path: Path) -> None:
    before = read(ORIN_NANO, tmp_path)
    hot = {
        "/sys/class/thermal/cooling_device0/cur_state": "2\n",
        "/sys/class/hwmon/hwmon3/oc3_event_cnt": "40\n",
    }
    after = read(ORIN_NANO | hot, tmp_path)
    assert reasons_to_doubt(before, after, 1.0) == [
        "the clocks were throttled: cpu-throttle-alert",
        "the clocks were throttled: instantaneous over-current",
    ]
    assert run_conditions(before, after).throttled is True


def test_a_raspberry_pi_that_was_throttled_is_doubted(tmp_path: Path) -> None:
    before = read(RASPBERRY_PI_5, tmp_path)
    path = "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    after = read(RASPBERRY_PI_5 | {path: "e0006\n"}, tmp_path)
    assert reasons_to_doubt(before, after, 1.0) == [
        "the clocks were throttled: the firmware capped the ARM clock",
        "the clocks were throttled: the firmware throttled the clocks",
    ]


def test_counted_throttling_of_the_cpu_is_told(tmp_path: Path) -> None:
    before = replace(QUIET, counts_throttling=True)
    assert run_conditions(before, before).throttled is False
    assert run_conditions(before, replace(before, throttled=3)).throttled is True


def test_a_machine_that_cannot_tell_says_so_with_null(tmp_path: Path) -> None:
    found = read({}, tmp_path)
    assert set(vars(run_conditions(found, found, RecordedSystem({}))).values()) == {None}
    assert reasons_to_doubt(found, found, 1.0) == []


def test_an_answer_that_cannot_be_read_makes_times_doubtful(tmp_path: Path) -> None:
    path = "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    found = read(RASPBERRY_PI_5 | {path: "garbage"}, tmp_path)
    (reason,) = reasons_to_doubt(found, found, 1.0)
    assert reason.startswith("whether it was throttled isn't known: the firmware answered")
    assert run_conditions(found, found).throttled is None


def test_versions_that_cannot_be_read_are_unknown() -> None:
    machine = RecordedSystem(ORIN_NANO | {"/etc/nv_tegra_release": "garbage"})
    found = run_conditions(QUIET, QUIET, machine)
    assert (found.board, found.l4t) == (None, None)


def test_what_throttles_all_the_time_is_named_once() -> None:
    hot = replace(QUIET, throttling=Throttling(("Processor",), {}))
    assert reasons_to_doubt(hot, hot, 1.0) == ["the clocks were throttled: Processor"]


def test_this_machine_shows_its_own_work() -> None:
    before = read_conditions()
    while read_conditions().own_s - before.own_s < 0.05:
        pass
    after = read_conditions()
    assert after.busy_s >= before.busy_s


def test_the_guide_explains_every_condition() -> None:
    guide = Path(__file__).parents[2].joinpath("docs", "jetson.md").read_text("utf-8")
    assert [one.name for one in fields(RunConditions) if f"`{one.name}`" not in guide] == []

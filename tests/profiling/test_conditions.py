from dataclasses import replace
from pathlib import Path

from deepseek_edge.profiling.conditions import Conditions, read_conditions, reasons_to_doubt

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


def test_this_machine_shows_its_own_work() -> None:
    before = read_conditions()
    while read_conditions().own_s - before.own_s < 0.05:
        pass
    after = read_conditions()
    assert after.busy_s >= before.busy_s

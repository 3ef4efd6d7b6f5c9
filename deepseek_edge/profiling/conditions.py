"""Was this machine in a state in which times can be believed?"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")

# A tenth of one core is more than a desktop's housekeeping; it moves a p99 visibly.
BACKGROUND_CORES = 0.1
FREQUENCY_DROP = 0.05
STOLEN_SHARE = 0.01


@dataclass(frozen=True)
class Conditions:
    """Counters of the machine at one moment.

    Attributes:
        frequency_hz: fastest core's clock, None where the kernel doesn't tell.
        throttled: times that any core was slowed down for heat since the machine started.
        busy_s, stolen_s: CPU seconds of all processes, and of other guests of the same host.
        own_s: CPU seconds of this process.
    """

    frequency_hz: int | None
    throttled: int
    busy_s: float
    stolen_s: float
    own_s: float


def read_conditions(system: Path = SYSTEM, stat: Path = STAT) -> Conditions:
    """Read the counters; those that this kernel doesn't have count as zero or unknown."""
    clocks = [_number(path) for path in system.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [clock for clock in clocks if clock is not None]
    throttled = [
        _number(path) or 0 for path in system.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    ]
    busy_s, stolen_s = _processor_time(stat)
    times = os.times()
    return Conditions(
        frequency_hz=max(known) * 1000 if known else None,
        throttled=sum(throttled),
        busy_s=busy_s,
        stolen_s=stolen_s,
        own_s=times.user + times.system,
    )


def reasons_to_doubt(before: Conditions, after: Conditions, elapsed_s: float) -> list[str]:
    """Say what happened between two moments that spoils a measurement; empty if nothing did."""
    reasons = []
    if after.throttled > before.throttled:
        reasons.append("the CPU was throttled for heat")
    if before.frequency_hz and after.frequency_hz:
        change = (after.frequency_hz - before.frequency_hz) / before.frequency_hz
        if abs(change) > FREQUENCY_DROP:
            reasons.append(f"the CPU clock changed by {change:+.0%}")
    if elapsed_s > 0:
        own_s = after.own_s - before.own_s
        others = (after.busy_s - before.busy_s - own_s) / elapsed_s
        if others > BACKGROUND_CORES:
            reasons.append(f"other processes used {others:.1f} cores")
        stolen = (after.stolen_s - before.stolen_s) / elapsed_s
        if stolen > STOLEN_SHARE:
            reasons.append(f"the hypervisor withheld {stolen:.0%} of a core")
    return reasons


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _processor_time(stat: Path) -> tuple[float, float]:
    try:
        fields = re.findall(r"\d+", stat.read_text().splitlines()[0])
    except (OSError, IndexError):
        return 0.0, 0.0
    # user nice system idle iowait irq softirq steal: proc(5)
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) * tick_s, steal * tick_s

"""Was this machine in a state in which times can be believed?"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from deepseek_edge.device.probes.board import read_identity
from deepseek_edge.device.probes.clocks import read_cpu_clocks, read_gpu_clock
from deepseek_edge.device.probes.power_mode import read_power_mode, read_power_modes
from deepseek_edge.device.probes.release import Software
from deepseek_edge.device.probes.system import LocalSystem, System
from deepseek_edge.device.probes.thermal import hottest_c, read_thermal_zones
from deepseek_edge.device.probes.throttling import Throttling, read_throttling, throttled_between
from deepseek_edge.errors import ProbeError
from deepseek_edge.report import RunConditions

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
        counts_throttling: whether ``throttled`` is a count and not just unknown.
        temperature_c: of the hottest sensor on the chip.
        throttling: what slows the machine down, None if it doesn't tell.
        cpu_most_hz: what ``frequency_hz`` may be, as it is set now.
        gpu_hz, gpu_most_hz: of a Jetson's GPU.
        power_mode: a Jetson's.
        fault: why some of it couldn't be read.
    """

    frequency_hz: int | None
    throttled: int
    busy_s: float
    stolen_s: float
    own_s: float
    counts_throttling: bool = False
    temperature_c: float | None = None
    throttling: Throttling | None = None
    cpu_most_hz: int | None = None
    gpu_hz: int | None = None
    gpu_most_hz: int | None = None
    power_mode: str | None = None
    fault: str | None = None


def read_conditions(
    system: Path = SYSTEM, stat: Path = STAT, machine: System | None = None
) -> Conditions:
    """Read the counters; those that this kernel doesn't have count as zero or unknown.

    Args:
        system: the kernel's files about processors.
        stat: the kernel's file about their time.
        machine: for everything else; this one by default.
    """
    machine = machine or LocalSystem()
    # First of all: an idle GPU lowers its clock, and what follows takes a moment.
    gpu = read_gpu_clock(machine)
    clocks = [_number(path) for path in system.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [clock for clock in clocks if clock is not None]
    throttled = [
        _number(path) or 0 for path in system.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    ]
    busy_s, stolen_s = _processor_time(stat)
    times = os.times()
    throttling, power_mode, fault = _read_limits(machine)
    limits = [clock.most_hz for clock in read_cpu_clocks(machine) if clock.most_hz is not None]
    return Conditions(
        frequency_hz=max(known) * 1000 if known else None,
        throttled=sum(throttled),
        busy_s=busy_s,
        stolen_s=stolen_s,
        own_s=times.user + times.system,
        counts_throttling=bool(throttled),
        temperature_c=hottest_c(read_thermal_zones(machine)),
        throttling=throttling,
        cpu_most_hz=max(limits, default=None),
        gpu_hz=None if gpu is None else gpu.now_hz,
        gpu_most_hz=None if gpu is None else gpu.most_hz,
        power_mode=power_mode,
        fault=fault,
    )


def reasons_to_doubt(
    before: Conditions, after: Conditions, elapsed_s: float, *, on_gpu: bool = False
) -> list[str]:
    """Say what happened between two moments that spoils a measurement; empty if nothing did.

    Args:
        before: the timed calls.
        after: the timed calls.
        elapsed_s: between them.
        on_gpu: the GPU was measured: its clock counts too.
    """
    reasons = []
    if after.throttled > before.throttled:
        reasons.append("the CPU was throttled for heat")
    causes = throttled_between(before.throttling, after.throttling)
    reasons += [f"the clocks were throttled: {cause}" for cause in causes]
    faults = dict.fromkeys(one.fault for one in (before, after) if one.fault is not None)
    reasons += [f"whether it was throttled isn't known: {fault}" for fault in faults]
    clocks = {"CPU": (before.frequency_hz, after.frequency_hz)}
    if on_gpu:
        clocks["GPU"] = (before.gpu_hz, after.gpu_hz)
    for name, (was_hz, is_hz) in clocks.items():
        change = (is_hz - was_hz) / was_hz if was_hz and is_hz else 0.0
        if abs(change) > FREQUENCY_DROP:
            reasons.append(f"the {name} clock changed by {change:+.0%}")
    if elapsed_s > 0:
        own_s = after.own_s - before.own_s
        others = (after.busy_s - before.busy_s - own_s) / elapsed_s
        if others > BACKGROUND_CORES:
            reasons.append(f"other processes used {others:.1f} cores")
        stolen = (after.stolen_s - before.stolen_s) / elapsed_s
        if stolen > STOLEN_SHARE:
            reasons.append(f"the hypervisor withheld {stolen:.0%} of a core")
    return reasons


def run_conditions(
    before: Conditions, after: Conditions, machine: System | None = None
) -> RunConditions:
    """What a report says of the machine between two moments.

    Args:
        before: the timed calls.
        after: the timed calls.
        machine: asked for its versions, which take a moment to find out; this one by default.
    """
    board, software = _read_identity(machine or LocalSystem())
    throttled: bool | None = None
    if before.counts_throttling or before.throttling is not None:
        causes = throttled_between(before.throttling, after.throttling)
        throttled = bool(causes) or after.throttled > before.throttled
    return RunConditions(
        temperature_before_c=before.temperature_c,
        temperature_after_c=after.temperature_c,
        throttled=throttled,
        power_mode=after.power_mode,
        cpu_before_hz=before.frequency_hz,
        cpu_after_hz=after.frequency_hz,
        cpu_most_hz=after.cpu_most_hz,
        gpu_before_hz=before.gpu_hz,
        gpu_after_hz=after.gpu_hz,
        gpu_most_hz=after.gpu_most_hz,
        board=board,
        l4t=software.l4t,
        jetpack=software.jetpack,
        cuda=software.cuda,
        tensorrt=software.tensorrt,
    )


def _read_identity(machine: System) -> tuple[str | None, Software]:
    """Which board it is; what can't be read is unknown here, and ``doctor`` says why."""
    try:
        board, software = read_identity(machine)
    except ProbeError:
        board, software = None, None
    return board, software or Software(None, None, None, None)


def _read_limits(machine: System) -> tuple[Throttling | None, str | None, str | None]:
    """What throttles it, its power mode, and why one of them couldn't be read.

    A profile isn't given up for that: the fault makes it doubtful.
    """
    try:
        mode = read_power_mode(machine, read_power_modes(machine))
        name = None if mode is None else mode.name or f"number {mode.id}"
        return read_throttling(machine), name, None
    except ProbeError as error:
        return None, None, str(error)


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

"""Reads the clocks of CPU and GPU: Linux, Documentation/admin-guide/pm/cpufreq.rst and devfreq."""

from typing import NamedTuple

from deepseek_edge.device.probes.system import System

CPU_FOLDER = "/sys/devices/system/cpu"
GPU_FOLDER = "/sys/class/devfreq"

# Names of a Jetson's GPU by L4T: 57000000.gpu (Nano), 17000000.gv11b (Xavier, L4T 32),
# 17000000.ga10b (Orin, L4T 34 to 35.3), 17000000.gpu (later), gpu-gpc-0 (Thor). A Thor's gpu-nvd-0
# is its video unit.
_GPU_ENDINGS = (".gpu", ".gp10b", ".gv11b", ".ga10b", "gpu-gpc-0")


class Clock(NamedTuple):
    """Of a group of cores that share it, or of a GPU. None for what the kernel doesn't tell.

    Attributes:
        name: the kernel's, e.g. "policy0" or "17000000.gpu".
        now_hz: at the moment of reading; not what firmware makes of it (Raspberry Pi).
        least_hz, most_hz: what it may be, as set now: by a power mode, or both equal by
            jetson_clocks.
        hardware_most_hz: what it may be at all.
        governor: who chooses it.
    """

    name: str
    now_hz: int | None
    least_hz: int | None
    most_hz: int | None
    hardware_most_hz: int | None
    governor: str | None

    @property
    def is_pinned(self) -> bool:
        """Whether it can't change but by throttling."""
        return self.most_hz is not None and self.least_hz == self.most_hz


def read_cpu_clocks(system: System) -> tuple[Clock, ...]:
    """Read the clock of each group of cores; none where the kernel has no cpufreq."""
    folder = f"{CPU_FOLDER}/cpufreq"
    policies = [name for name in system.list_names(folder) if name.startswith("policy")]
    return tuple(
        Clock(
            name=name,
            now_hz=_kilohertz(system, f"{folder}/{name}/scaling_cur_freq"),
            least_hz=_kilohertz(system, f"{folder}/{name}/scaling_min_freq"),
            most_hz=_kilohertz(system, f"{folder}/{name}/scaling_max_freq"),
            hardware_most_hz=_kilohertz(system, f"{folder}/{name}/cpuinfo_max_freq"),
            governor=_word(system, f"{folder}/{name}/scaling_governor"),
        )
        for name in policies
    )


def read_gpu_clock(system: System) -> Clock | None:
    """Read the clock of a Jetson's GPU; None where there is none (a desktop's isn't in devfreq)."""
    for name in system.list_names(GPU_FOLDER):
        if name.endswith(_GPU_ENDINGS):
            folder = f"{GPU_FOLDER}/{name}"
            choices = (system.read_text(f"{folder}/available_frequencies") or "").split()
            return Clock(
                name=name,
                now_hz=read_number(system, f"{folder}/cur_freq"),
                least_hz=read_number(system, f"{folder}/min_freq"),
                most_hz=read_number(system, f"{folder}/max_freq"),
                hardware_most_hz=max(filter(None, map(to_number, choices)), default=None),
                governor=_word(system, f"{folder}/governor"),
            )
    return None


def read_offline_cores(system: System) -> str | None:
    """The kernel's list of cores that are switched off, e.g. "4-5"; None if all are on."""
    return _word(system, f"{CPU_FOLDER}/offline")


def read_number(system: System, path: str) -> int | None:
    """A file's whole number, or None."""
    return to_number(system.read_text(path) or "")


def to_number(text: str) -> int | None:
    """The whole number that this is, or None; sysfs has none of more than 20 digits."""
    word = text.strip()
    digits = word.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 20:
        return int(word)
    return None


def _kilohertz(system: System, path: str) -> int | None:
    value = read_number(system, path)
    return None if value is None else value * 1000


def _word(system: System, path: str) -> str | None:
    return (system.read_text(path) or "").strip() or None

"""Reads whether a machine slows itself down, for heat or for lack of power.

What each kind of machine shows:

- Linux: cooling devices (Documentation/driver-api/thermal/sysfs-api.rst), whose "cur_state" is
  above 0 while they act. Those of clocks count here, fans don't. A Jetson has "cpu-throttle-alert"
  and others of that name besides, as kernel logs and sysfs of boards show; NVIDIA's guide to them
  could not be read.
- Jetson Orin: counters of over-current and under-voltage events, at which the hardware lowers the
  clocks by itself (NVIDIA's driver tegra234-oc-event.c, read 2026-11-26; what each event means
  comes from users' logs, and no board has confirmed it).
- Raspberry Pi: the firmware's bits (Raspberry Pi documentation, "vcgencmd get_throttled", in public
  copies of www.raspberrypi.com/documentation/computers/os.html, read 2026-11-26), also in sysfs
  (raspberrypi/linux, pull request 2397).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deepseek_edge.device.probes.clocks import read_number
from deepseek_edge.device.probes.system import System
from deepseek_edge.device.probes.thermal import SENSOR_FOLDER, ZONE_FOLDER
from deepseek_edge.errors import ProbeError

MODEL_FILE = "/proc/device-tree/model"
PLATFORM_FOLDER = "/sys/devices/platform"

# "Processor" is x86's (ACPI); "cpufreq-cpu0" and "devfreq-..." are newer kernels' names without
# the "thermal-" of older ones.
_CLOCK_COOLING = re.compile(r"(thermal-)?(cpufreq|devfreq)-|Processor$|.*-throttle-alert$")

_OVER_CURRENT_SENSOR = "soctherm_oc"
_OVER_CURRENT = {
    "oc1": "under-voltage",
    "oc2": "average over-current",
    "oc3": "instantaneous over-current",
}

_FIRMWARE = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})\s*", re.ASCII)
_FIRMWARE_BITS = {
    0: "under-voltage",
    1: "the firmware capped the ARM clock",
    2: "the firmware throttled the clocks",
    3: "the firmware's soft temperature limit",
}
_SINCE_BOOT = 16  # the same four, 16 bits higher: has happened since the machine was started


@dataclass(frozen=True)
class Throttling:
    """What slows a machine down at one moment, and what did so since it was started.

    Attributes:
        active: why its clocks are lower now than they are set to; empty if they aren't.
        events: how often each cause was seen; the Raspberry Pi's firmware tells once or never.
    """

    active: tuple[str, ...]
    events: Mapping[str, int]


def read_throttling(system: System) -> Throttling | None:
    """Read what slows one machine down; None if it has no way to tell.

    Raises:
        ProbeError: the firmware's answer can't be read.
    """
    cooling = _read_cooling(system)
    events = _read_over_current(system)
    bits = _read_firmware(system)
    if not cooling and not events and bits is None:
        return None
    active = [name for name, state in cooling.items() if state > 0]
    if bits is not None:
        firmware = parse_firmware_throttling(bits)
        active += firmware.active
        events |= firmware.events
    return Throttling(tuple(active), events)


def throttled_between(before: Throttling | None, after: Throttling | None) -> tuple[str, ...]:
    """Say what slowed a machine down between two moments, or at one of them.

    What began and ended in between is seen only where events are counted.
    """
    seen = [name for state in (before, after) if state is not None for name in state.active]
    if before is not None and after is not None:
        seen += [name for name, count in after.events.items() if count > before.events.get(name, 0)]
    return tuple(dict.fromkeys(seen))


def parse_firmware_throttling(text: str) -> Throttling:
    """Read the bits of a Raspberry Pi: "throttled=0x50005" (vcgencmd) or "50005" (sysfs).

    Raises:
        ProbeError: it isn't a hexadecimal number.
    """
    match = _FIRMWARE.fullmatch(text)
    if match is None:
        raise ProbeError(
            f"the firmware answered {text[:40]!r} when asked whether it throttles",
            hint="run vcgencmd get_throttled on the board",
        )
    bits = int(match[1], 16)
    return Throttling(
        active=tuple(name for bit, name in _FIRMWARE_BITS.items() if bits >> bit & 1),
        events={name: bits >> bit + _SINCE_BOOT & 1 for bit, name in _FIRMWARE_BITS.items()},
    )


def _read_cooling(system: System) -> dict[str, int]:
    """States of the cooling devices that lower clocks, by their types."""
    found: dict[str, int] = {}
    for name in system.list_names(ZONE_FOLDER):
        if not name.startswith("cooling_device"):
            continue
        kind = (system.read_text(f"{ZONE_FOLDER}/{name}/type") or "").strip()
        state = read_number(system, f"{ZONE_FOLDER}/{name}/cur_state")
        if state is not None and _CLOCK_COOLING.match(kind):
            found[kind] = max(state, found.get(kind, 0))
    return found


def _read_over_current(system: System) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in system.list_names(SENSOR_FOLDER):
        folder = f"{SENSOR_FOLDER}/{name}"
        if (system.read_text(f"{folder}/name") or "").strip() != _OVER_CURRENT_SENSOR:
            continue
        for event, meaning in _OVER_CURRENT.items():
            count = read_number(system, f"{folder}/{event}_event_cnt")
            if count is not None and read_number(system, f"{folder}/{event}_throt_en") != 0:
                found[meaning] = count
    return found


def _read_firmware(system: System) -> str | None:
    """The Raspberry Pi's bits: its tool only where sysfs lacks them, for it costs a process."""
    for soc in system.list_names(PLATFORM_FOLDER):
        if soc.startswith("soc"):
            for part in system.list_names(f"{PLATFORM_FOLDER}/{soc}"):
                if part.endswith(":firmware"):
                    text = system.read_text(f"{PLATFORM_FOLDER}/{soc}/{part}/get_throttled")
                    if text is not None:
                        return text
    if (system.read_text(MODEL_FILE) or "").startswith("Raspberry Pi"):
        return system.run(["vcgencmd", "get_throttled"]) or None
    return None

"""Reads temperatures: of the kernel's thermal zones, and of the sensors of x86 processors."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from deepseek_edge.device.probes.clocks import read_number
from deepseek_edge.device.probes.system import System

# Linux, Documentation/driver-api/thermal/sysfs-api.rst: "type", and "temp" in millidegrees.
ZONE_FOLDER = "/sys/class/thermal"
SENSOR_FOLDER = "/sys/class/hwmon"

# Processors that the kernel shows as sensors only (Documentation/hwmon/{coretemp,k10temp}.rst).
_PROCESSOR_SENSORS = frozenset({"coretemp", "k10temp", "zenpower"})
# A Jetson's PMIC zone is a constant; radios and disks don't slow the chip down.
_NOT_THE_CHIP = re.compile(r"PMIC|iwlwifi|nvme|BAT", re.IGNORECASE)
# An Orin of L4T 35 says -256000 for what is powered down, later ones refuse to be read.
_LOWEST_C = -100.0
_HIGHEST_C = 250.0


class ThermalZone(NamedTuple):
    """One sensor; None while its part of the chip is powered down."""

    name: str
    temperature_c: float | None


def read_thermal_zones(system: System) -> tuple[ThermalZone, ...]:
    """Read every thermal zone and x86 processor sensor, by the kernel's names."""
    zones = [
        _zone(system, f"{ZONE_FOLDER}/{name}/type", f"{ZONE_FOLDER}/{name}/temp")
        for name in system.list_names(ZONE_FOLDER)
        if name.startswith("thermal_zone")
    ]
    for name in system.list_names(SENSOR_FOLDER):
        folder = f"{SENSOR_FOLDER}/{name}"
        if (system.read_text(f"{folder}/name") or "").strip() in _PROCESSOR_SENSORS:
            # The first input is of the whole package with both drivers.
            zones.append(_zone(system, f"{folder}/name", f"{folder}/temp1_input"))
    return tuple(zones)


def hottest_c(zones: Sequence[ThermalZone]) -> float | None:
    """The highest temperature on the chip; None if none is known."""
    known = [
        zone.temperature_c
        for zone in zones
        if zone.temperature_c is not None and not _NOT_THE_CHIP.match(zone.name)
    ]
    return max(known, default=None)


def _zone(system: System, name_path: str, value_path: str) -> ThermalZone:
    millidegrees = read_number(system, value_path)
    celsius = None if millidegrees is None else millidegrees / 1000
    if celsius is not None and not _LOWEST_C < celsius < _HIGHEST_C:
        celsius = None
    return ThermalZone((system.read_text(name_path) or "").strip(), celsius)

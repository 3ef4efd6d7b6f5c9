"""Reads a Jetson's power mode: what ``nvpmodel`` limits clocks, cores and power to."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from deepseek_edge.device.probes.system import System
from deepseek_edge.errors import ProbeError

CONFIG_FILE = "/etc/nvpmodel.conf"  # a link to the module's own file in /etc/nvpmodel
# nvpmodel writes here what it was set to, readable by everyone; -q reads files that only root can.
STATUS_FILE = "/var/lib/nvpmodel/status"

_ANSWER = re.compile(r"NV Power Mode: ?([A-Za-z0-9_]{1,64})\s*$(?:\s+(\d{1,4})\s*$)?", re.M | re.A)
_STATUS = re.compile(r"pmode:(\d{1,4})\b", re.ASCII)
_CHOICE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\w{1,64})\s*>", re.M | re.ASCII)
_WATTS = re.compile(r"(\d{1,4})W", re.ASCII)
_CORES = re.compile(r"(\d{1,4})_?CORE", re.ASCII)


class PowerMode(NamedTuple):
    """A mode as the board calls it, e.g. 0 and "MAXN"; either may not be told.

    Numbers mean nothing by themselves: 0 is MAXN on a Jetson AGX Orin and 15W on an Orin Nano.
    """

    id: int | None
    name: str | None


def parse_power_mode(text: str) -> PowerMode:
    """Read what ``nvpmodel -q`` printed.

    Without root it prints errors about files too; the mode stands before them.

    Raises:
        ProbeError: it names no mode.
    """
    match = _ANSWER.search(text)
    if match is None:
        raise ProbeError(
            f"nvpmodel -q printed {text[:40]!r}: no power mode",
            hint="run sudo nvpmodel -q on the board",
        )
    return PowerMode(None if match[2] is None else int(match[2]), match[1])


def parse_power_modes(text: str) -> tuple[PowerMode, ...]:
    """Read the modes that /etc/nvpmodel.conf defines, in its order.

    Raises:
        ProbeError: it defines none.
    """
    modes = tuple(PowerMode(int(number), name) for number, name in _CHOICE.findall(text))
    if not modes:
        raise ProbeError(
            f"{CONFIG_FILE} defines no power mode",
            hint="see whether it is nvpmodel's file: sudo nvpmodel -p --verbose",
        )
    return modes


def parse_power_status(text: str) -> int:
    """Read the mode's number of /var/lib/nvpmodel/status, "pmode:0002 fmode:quiet".

    Raises:
        ProbeError: there is none.
    """
    match = _STATUS.search(text)
    if match is None:
        raise ProbeError(
            f"{STATUS_FILE} says {text[:40]!r}: no power mode",
            hint="run sudo nvpmodel -q on the board",
        )
    return int(match[1])


def fastest_mode(modes: Sequence[PowerMode]) -> PowerMode | None:
    """The mode that limits least: MAXN, else the most watts, then cores; None if no name tells."""

    def speed(mode: PowerMode) -> tuple[bool, int, int]:
        name = mode.name or ""
        watts, cores = _WATTS.search(name), _CORES.search(name)
        return name.startswith("MAXN"), int(watts[1]) if watts else 0, int(cores[1]) if cores else 0

    best = max(modes, key=speed, default=None)
    return best if best is not None and speed(best) > (False, 0, 0) else None


def read_power_modes(system: System) -> tuple[PowerMode, ...]:
    """Read the modes that a board has; none where there is no nvpmodel.

    Raises:
        ProbeError: as :func:`parse_power_modes`.
    """
    text = system.read_text(CONFIG_FILE)
    return () if text is None else parse_power_modes(text)


def read_power_mode(system: System, modes: Sequence[PowerMode]) -> PowerMode | None:
    """Read the mode in use: of the status file if possible, since the tool isn't for everyone.

    Args:
        system: to ask.
        modes: that it has, for the name.

    Returns:
        None where there is no nvpmodel.

    Raises:
        ProbeError: as the parsers.
    """
    if (status := system.read_text(STATUS_FILE)) is not None:
        number = parse_power_status(status)
        return PowerMode(number, next((mode.name for mode in modes if mode.id == number), None))
    answer = system.run(["nvpmodel", "-q"]) if modes else None
    return parse_power_mode(answer) if answer else None

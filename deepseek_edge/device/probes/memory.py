"""Reads how much memory is free: Linux, Documentation/filesystems/proc.rst, "meminfo"."""

import re
from typing import NamedTuple

from deepseek_edge.device.probes.system import System
from deepseek_edge.errors import ProbeError

MEMORY_FILE = "/proc/meminfo"

_LINE = re.compile(r"^(\w{1,64}): +(\d{1,15}) kB$", re.MULTILINE | re.ASCII)


class Memory(NamedTuple):
    """Of one machine.

    A Jetson's GPU has no memory of its own: what is available here is what it may take too.

    Attributes:
        available_bytes: what programs can take before the machine swaps.
    """

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


def parse_memory(text: str) -> Memory:
    """Read /proc/meminfo.

    Raises:
        ProbeError: one of the four figures isn't there.
    """
    figures = {name: int(kilobytes) * 1024 for name, kilobytes in _LINE.findall(text)}
    try:
        return Memory(
            total_bytes=figures["MemTotal"],
            available_bytes=figures["MemAvailable"],
            swap_total_bytes=figures["SwapTotal"],
            swap_free_bytes=figures["SwapFree"],
        )
    except KeyError as error:
        raise ProbeError(
            f"{MEMORY_FILE} has no {error.args[0]}", hint="see what the board's kernel prints there"
        ) from error


def read_memory(system: System) -> Memory | None:
    """Read one machine's memory; None where the file isn't there.

    Raises:
        ProbeError: as :func:`parse_memory`.
    """
    text = system.read_text(MEMORY_FILE)
    return None if text is None else parse_memory(text)

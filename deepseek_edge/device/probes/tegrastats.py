"""Reads the lines that ``tegrastats`` of a Jetson prints.

The format is NVIDIA's (Jetson Linux Developer Guide, release 32.5, "tegrastats",
docs.nvidia.com/jetson/archives/l4t-archived/l4t-325, read 2026-11-26), as far as it is written
down there; the rest is what boards of L4T 32 to 39 were seen to print:
tests/device/probes/recordings.py says where.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from deepseek_edge.errors import ProbeError

# Printed for a sensor whose part of the chip is powered down (Orin, L4T 34 to 36).
NO_TEMPERATURE_C = -256.0
# The PMIC's sensor is a constant: its driver knows only whether a limit was passed.
CONSTANT_SENSORS = frozenset({"PMIC"})

_UNIT_BYTES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

# Digits are bounded: nothing that a board means is longer, and int() refuses very long ones.
_SHAPES = {
    "time": r"(\d{2}-\d{2}-\d{4} \d{2}:\d{2}:\d{2})",
    "ram": r"RAM (\d{1,9})/(\d{1,9})([kMG]B) ?\(lfb (\d{1,9})x(\d{1,9})([kMG]B)\)",
    "swap": r"SWAP (\d{1,9})/(\d{1,9})([kMG]B) ?\(cached (\d{1,9})([kMG]B)\)",
    "iram": r"IRAM \d{1,9}/\d{1,9}[kMG]B ?\(lfb \d{1,9}[kMG]B\)",
    "cpu": r"CPU \[([0-9a-z%@,]{1,4000})\](?:@(\d{1,7}))?",
    "mts": r"MTS fg \d{1,3}% bg \d{1,3}%",
    "temperature": r"([\w-]{1,64})@(-?\d{1,4}(?:\.\d{1,6})?)C(?:/-?\d{1,4}(?:\.\d{1,6})?C)?",
    "rail": r"(\w{1,64}) (\d{1,9})(mW|)/(\d{1,9})\3(?:/(\d{1,9})\3)?",
    "engine": r"([A-Z]\w{0,63}) (?:(\d{1,3})%)?(?:@(\d{1,7})|@\[([0-9a-z,]{1,200})\])?",
    "clock": r"([A-Z]\w{0,63}) (\d{1,7}|off)",
}
_COMPILED = {
    # A field ends where the line does, or at a space: half a field is none.
    name: re.compile(rf"{shape}(?= |$)", re.ASCII)
    for name, shape in _SHAPES.items()
}
_CLOCK = re.compile(r"\d{1,7}", re.ASCII)
_CORE = re.compile(r"(\d{1,3})%(?:@(\d{1,7}))?", re.ASCII)


class CpuLoad(NamedTuple):
    """Of one core that is on: share of time it was busy, 0 to 1, and its clock if printed."""

    load_share: float
    clock_hz: int | None


class EngineLoad(NamedTuple):
    """Of a GPU, a memory controller or another unit.

    Attributes:
        load_share: 0 to 1; None if not printed.
        clocks_hz: one for each of its parts (a GPU has some a GPC); empty if not printed, as for a
            user who isn't root.
    """

    load_share: float | None
    clocks_hz: tuple[int, ...]


class Rail(NamedTuple):
    """Power of one supply rail: now, on average and at its peak since tegrastats was started.

    The peak is printed from L4T 38 on, and so are peaks of temperatures, which aren't kept.
    """

    name: str
    now_mw: int
    average_mw: int
    peak_mw: int | None


@dataclass(frozen=True)
class Tegrastats:
    """One line.

    Attributes:
        time: as printed, in the board's local time.
        largest_free_block_bytes: of contiguous memory.
        cpus: in order; None for a core that is off.
        memory: the external memory controller.
        gpu: the load of all of it.
        engines: further units by name, e.g. "VIC_FREQ"; those that are off are left out.
        temperatures_c: by sensor as printed; None if its part of the chip is powered down.
        rails: in the order printed; unconnected channels repeat the name "NC".
    """

    time: str | None
    ram_used_bytes: int
    ram_total_bytes: int
    largest_free_block_bytes: int
    swap_used_bytes: int | None
    swap_total_bytes: int | None
    cpus: tuple[CpuLoad | None, ...]
    memory: EngineLoad | None
    gpu: EngineLoad | None
    engines: Mapping[str, EngineLoad]
    temperatures_c: Mapping[str, float | None]
    rails: tuple[Rail, ...]

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature that was measured; None if none was."""
        known = [
            celsius
            for name, celsius in self.temperatures_c.items()
            if celsius is not None and name not in CONSTANT_SENSORS
        ]
        return max(known, default=None)


class RefusedLine(NamedTuple):
    """A line of a log that isn't one of tegrastats, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class TegrastatsLog:
    """What could be read of a log, in order, and what couldn't."""

    samples: tuple[Tegrastats, ...]
    refused: tuple[RefusedLine, ...]


def parse_tegrastats(line: str) -> Tegrastats:
    """Read one line.

    Raises:
        ProbeError: some of it is none of the known fields, or RAM or CPU is missing or there twice:
            nothing of such a line is used.
    """
    found: dict[str, list[re.Match[str]]] = {name: [] for name in _COMPILED}
    text = " ".join(line.split())
    position = 0
    while position < len(text):
        name, match = _next_field(text, position)
        found[name].append(match)
        position = match.end() + 1
    for name in ("ram", "cpu"):
        if len(found[name]) != 1:
            raise _refusal(f"{len(found[name])} fields {name.upper()} instead of one")
    return _build(found)


def parse_tegrastats_log(text: str) -> TegrastatsLog:
    """Read a log; a last line without its end was cut off in the middle, and is refused."""
    samples, refused = [], []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            if not line.endswith("\n"):
                raise _refusal("the line has no end")
            if line.strip():
                samples.append(parse_tegrastats(line))
        except ProbeError as error:
            refused.append(RefusedLine(number, str(error)))
    return TegrastatsLog(tuple(samples), tuple(refused))


def _next_field(text: str, position: int) -> tuple[str, re.Match[str]]:
    for name, pattern in _COMPILED.items():
        if match := pattern.match(text, position):
            return name, match
    raise _refusal(f"{text[position : position + 24]!r} is no field of it")


def _refusal(reason: str) -> ProbeError:
    return ProbeError(
        f"not a line of tegrastats: {reason}",
        hint="run tegrastats on the board and look at what it prints; it may be of a new L4T",
    )


def _build(found: Mapping[str, list[re.Match[str]]]) -> Tegrastats:
    (ram,), swap = found["ram"], next(iter(found["swap"]), None)
    engines = {match[1]: _engine(match) for match in found["engine"]}
    engines |= {
        match[1]: EngineLoad(None, (_hz(match[2]),))
        for match in found["clock"]
        if match[2] != "off"
    }
    return Tegrastats(
        time=next((match[1] for match in found["time"]), None),
        ram_used_bytes=_bytes(ram[1], ram[3]),
        ram_total_bytes=_bytes(ram[2], ram[3]),
        largest_free_block_bytes=_bytes(ram[5], ram[6]),
        swap_used_bytes=None if swap is None else _bytes(swap[1], swap[3]),
        swap_total_bytes=None if swap is None else _bytes(swap[2], swap[3]),
        cpus=_cpus(found["cpu"][0]),
        memory=engines.pop("EMC_FREQ", None),
        gpu=engines.pop("GR3D_FREQ", None),
        engines=engines,
        temperatures_c={match[1]: _celsius(match[2]) for match in found["temperature"]},
        rails=tuple(_rail(match) for match in found["rail"]),
    )


def _cpus(match: re.Match[str]) -> tuple[CpuLoad | None, ...]:
    """Cores as "1%@729,off", or with one clock for all behind them."""
    common_hz = _hz(match[2]) if match[2] else None
    cpus: list[CpuLoad | None] = []
    for text in match[1].split(","):
        core = _CORE.fullmatch(text)
        if core is None and text != "off":
            raise _refusal(f"{text!r} is no core's load")
        if core is None:
            cpus.append(None)
        else:
            cpus.append(CpuLoad(_share(core[1]), _hz(core[2]) if core[2] else common_hz))
    return tuple(cpus)


def _engine(match: re.Match[str]) -> EngineLoad:
    load, clock, clocks = match[2], match[3], match[4]
    parts = [clock] if clock else clocks.split(",") if clocks else []
    for part in parts:
        if part != "off" and not _CLOCK.fullmatch(part):
            raise _refusal(f"{part!r} is no clock of {match[1]}")
    clocks_hz = tuple(_hz(part) for part in parts if part != "off")
    return EngineLoad(None if load is None else _share(load), clocks_hz)


def _rail(match: re.Match[str]) -> Rail:
    peak_mw = None if match[5] is None else int(match[5])
    return Rail(match[1], int(match[2]), int(match[4]), peak_mw)


def _share(percent: str) -> float:
    if int(percent) > 100:
        raise _refusal(f"a load of {percent} %")
    return int(percent) / 100


def _hz(megahertz: str) -> int:
    return int(megahertz) * 1_000_000


def _bytes(count: str, unit: str) -> int:
    return int(count) * _UNIT_BYTES[unit]


def _celsius(text: str) -> float | None:
    value = float(text)
    return None if value <= NO_TEMPERATURE_C else value

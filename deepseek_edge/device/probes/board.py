"""All that a board says about itself, in one value."""

from dataclasses import dataclass

from deepseek_edge.device.probes.clocks import (
    Clock,
    read_cpu_clocks,
    read_gpu_clock,
    read_offline_cores,
)
from deepseek_edge.device.probes.memory import Memory, read_memory
from deepseek_edge.device.probes.power_mode import PowerMode, read_power_mode, read_power_modes
from deepseek_edge.device.probes.release import L4T_FILE, Software, read_software
from deepseek_edge.device.probes.system import System
from deepseek_edge.device.probes.tegrastats import Tegrastats, parse_tegrastats
from deepseek_edge.device.probes.thermal import ThermalZone, read_thermal_zones
from deepseek_edge.device.probes.throttling import MODEL_FILE, Throttling, read_throttling


@dataclass(frozen=True)
class Board:
    """One machine at one moment; None or empty for what it doesn't say.

    Attributes:
        model: of the device tree, e.g. "NVIDIA Jetson AGX Orin Developer Kit"; x86 has none.
        software: None unless the machine is a Jetson.
        power_modes: that can be chosen.
        offline_cores: the kernel's list, e.g. "4-5".
    """

    model: str | None
    software: Software | None
    power_mode: PowerMode | None
    power_modes: tuple[PowerMode, ...]
    cpu_clocks: tuple[Clock, ...]
    gpu_clock: Clock | None
    offline_cores: str | None
    thermal_zones: tuple[ThermalZone, ...]
    throttling: Throttling | None
    memory: Memory | None


def read_board(system: System) -> Board:
    """Read all of it; a Jetson answers within a second.

    Raises:
        ProbeError: a file or tool that is there says something else than it is known to say.
    """
    model, software = read_identity(system)
    modes = read_power_modes(system)
    return Board(
        model=model,
        software=software,
        power_mode=read_power_mode(system, modes),
        power_modes=modes,
        cpu_clocks=read_cpu_clocks(system),
        gpu_clock=read_gpu_clock(system),
        offline_cores=read_offline_cores(system),
        thermal_zones=read_thermal_zones(system),
        throttling=read_throttling(system),
        memory=read_memory(system),
    )


def read_identity(system: System) -> tuple[str | None, Software | None]:
    """Read which board it is, and on a Jetson its versions, as in :class:`Board`.

    Raises:
        ProbeError: as :func:`read_software`.
    """
    # The device tree's text ends with a zero byte.
    model = (system.read_text(MODEL_FILE) or "").strip("\0\n ") or None
    is_jetson = is_jetson_model(model) or system.read_text(L4T_FILE) is not None
    return model, read_software(system) if is_jetson else None


def is_jetson_model(model: str | None) -> bool:
    """Whether the device tree's name is of a Jetson; some carriers carry their maker's name."""
    return model is not None and ("Jetson" in model or model.startswith("NVIDIA Orin"))


def read_tegrastats(system: System, interval_ms: int = 100) -> Tegrastats | None:
    """Read one line of tegrastats: the power of each rail, and the memory controller's load.

    Only root sees clocks of the GPU and the memory.

    Returns:
        None where there is no tegrastats.

    Raises:
        ProbeError: as :func:`parse_tegrastats`.
    """
    arguments = ["tegrastats", "--interval", str(interval_ms)]
    line = system.run(arguments, lines=1)
    return parse_tegrastats(line) if line else None

"""Says what ``doctor`` shows of this machine's GPU, and of a board's state, with advice."""

from collections.abc import Iterator

from deepseek_edge.capabilities import Capability
from deepseek_edge.device.probes.board import Board, read_board
from deepseek_edge.device.probes.clocks import Clock
from deepseek_edge.device.probes.memory import Memory
from deepseek_edge.device.probes.nvidia_driver import Driver, find_driver
from deepseek_edge.device.probes.power_mode import PowerMode, fastest_mode
from deepseek_edge.device.probes.release import Software
from deepseek_edge.device.probes.system import LocalSystem
from deepseek_edge.device.probes.thermal import hottest_c
from deepseek_edge.errors import ProbeError

_GUIDE = "docs/jetson.md"


def find_machine_state() -> tuple[Capability, ...]:
    """Look at this machine's GPU, clocks and heat; nothing of it is required."""
    driver = describe_driver(find_driver())
    try:
        board = read_board(LocalSystem())
    except ProbeError as error:
        remedy = f"{error}; {error.hint}" if error.hint else str(error)
        return driver, Capability("board", None, False, "conditions of profiles", remedy)
    return driver, *describe_board(board)


def describe_driver(driver: Driver | None) -> Capability:
    """The row about NVIDIA's driver; without a GPU there is nothing to do."""
    purpose = "running CUDA programs here"
    if driver is None:
        return Capability("NVIDIA driver", None, False, purpose, None)
    if driver.fault is not None:
        remedy = f"the driver can't be used: {driver.fault}; see nvidia-smi and dmesg"
        return Capability("NVIDIA driver", None, False, purpose, remedy)
    gpus = ", ".join(f"{gpu.name} ({gpu.arch})" for gpu in driver.gpus)
    return Capability("NVIDIA driver", f"CUDA {driver.cuda}, {gpus}", False, purpose, None)


def describe_board(board: Board) -> tuple[Capability, ...]:
    """Rows about a board: of its heat on every machine that tells, the others on a Jetson."""
    return tuple(_rows(board))


def _rows(board: Board) -> Iterator[Capability]:
    if board.software is not None:
        yield _software(board.model, board.software)
        if board.power_mode is not None:
            yield _power_mode(board.power_mode, board)
        yield _clocks(board)
        if board.memory is not None:
            yield _memory(board.memory)
    celsius = hottest_c(board.thermal_zones)
    if celsius is not None or board.throttling is not None:
        yield _heat(board, celsius)


def _software(model: str | None, software: Software) -> Capability:
    l4t = f"L4T {software.l4t}" if software.l4t else "unknown L4T"
    parts = [
        f"{software.jetpack or 'of unknown version'} ({l4t})",
        f"CUDA {software.cuda or 'not installed'}",
        f"TensorRT {software.tensorrt or 'not installed'}",
    ]
    remedy = None if software.tensorrt else "sudo apt-get install nvidia-jetpack"
    purpose = f"engines and CUDA programs on {model or 'this Jetson'}"
    return Capability("JetPack", ", ".join(parts), False, purpose, remedy)


def _power_mode(mode: PowerMode, board: Board) -> Capability:
    found = mode.name or f"number {mode.id}"
    if board.offline_cores is not None:
        found += f", cores {board.offline_cores} are off"
    best = fastest_mode(board.power_modes)
    remedy = None
    if best is not None and best.name != mode.name:
        remedy = (
            f"for the shortest times: sudo nvpmodel -m {best.id} ({best.name}); "
            "profile in the mode in which the product will run"
        )
    return Capability("power mode", found, False, "limits clocks, cores and power", remedy)


def _clocks(board: Board) -> Capability:
    clocks = [*board.cpu_clocks, *([board.gpu_clock] if board.gpu_clock else [])]
    found = "; ".join(map(_clock, clocks)) or None
    remedy = None
    if not all(clock.is_pinned for clock in clocks):
        remedy = "for steady times: sudo jetson_clocks, until the next start or power mode"
    return Capability("clocks", found, False, "steady times", remedy)


def _clock(clock: Clock) -> str:
    if clock.most_hz is None or clock.least_hz is None:
        return f"{clock.name} unknown"
    if clock.is_pinned:
        return f"{clock.name} {clock.most_hz / 1e6:.0f} MHz"
    return f"{clock.name} {clock.least_hz / 1e6:.0f} to {clock.most_hz / 1e6:.0f} MHz"


def _memory(memory: Memory) -> Capability:
    found = (
        f"{memory.available_bytes / 1e9:.1f} of {memory.total_bytes / 1e9:.1f} GB available, "
        f"swap {memory.swap_total_bytes / 1e9:.1f} GB"
    )
    remedy = None
    if memory.swap_total_bytes == 0:
        remedy = f"add swap before an engine is built on this board: {_GUIDE}"
    return Capability("memory", found, False, "building engines", remedy)


def _heat(board: Board, celsius: float | None) -> Capability:
    found = "temperature unknown" if celsius is None else f"{celsius:.0f} C"
    remedy = None
    if board.throttling is None:
        found += ", it doesn't tell whether it is throttled"
    elif board.throttling.active:
        found += f", throttled: {', '.join(board.throttling.active)}"
        remedy = "let it cool down, see to its fan and to a power supply that suffices"
    else:
        found += ", not throttled"
    return Capability("heat", found, False, "times that can be believed", remedy)

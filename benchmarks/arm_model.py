"""Cycles of a loop by LLVM's model of a core (llvm-mca), and the least its multiplier allows."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arm_loops import Instruction, parse_disassembly
from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError

# LLVM 19 is the first whose Neoverse N1 has two vector pipes. Its Cortex-A76 has the pipes of the
# A57, one multiplication of 128 bits a cycle; N1 is the A76 made for servers.
VERSIONS = (19, 20, 21, 22)
CORES = {"cortex-a72": "cortex-a72", "cortex-a76": "neoverse-n1"}

_ITERATIONS = 100
_TOTAL = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)
_THROUGHPUT = re.compile(r"^Block RThroughput:\s+([\d.]+)", re.MULTILINE)
_TIMEOUT_S = 120


def find_tool(name: str) -> str:
    """The path of an LLVM program of version 19 or later.

    Raises:
        MissingToolError: there is none.
    """
    found = (shutil.which(f"{name}-{version}") for version in VERSIONS)
    path = next((one for one in found if one), None)
    if path is None:
        raise MissingToolError(f"{name} 19 is not installed", hint="apt-get install llvm-19")
    return path


def disassemble(file: Path, *symbols: str) -> dict[str, tuple[Instruction, ...]]:
    """The functions of an AArch64 object.

    Args:
        file: an object with symbols.
        symbols: only these functions; all if none is named.

    Raises:
        MissingToolError: LLVM is not installed.
        DeepSeekEdgeError: it can't read the file.
    """
    chosen = [f"--disassemble-symbols={','.join(symbols)}"] if symbols else ["-d"]
    command = [find_tool("llvm-objdump"), *chosen, "--no-show-raw-insn", "--mattr=+all", str(file)]
    return parse_disassembly(_output(command, ""))


def loop_cycles(body: Sequence[Instruction], mcpu: str) -> float:
    """Cycles of one iteration amid many: branches predicted, every load a hit in L1.

    Raises:
        MissingToolError: LLVM is not installed.
        DeepSeekEdgeError: its model lacks an instruction of the loop.
    """
    # The difference leaves out how the pipeline fills and drains.
    once, twice = (_simulate(body, mcpu, n, _TOTAL) for n in (_ITERATIONS, 2 * _ITERATIONS))
    return (twice - once) / _ITERATIONS


def multiplier_limit(body: Sequence[Instruction], mcpu: str) -> float:
    """Cycles of the loop's multiplications alone, if nothing ever waits.

    Raises:
        As :func:`loop_cycles`.
    """
    return _simulate([one for one in body if one.is_multiply], mcpu, 1, _THROUGHPUT)


def _simulate(
    body: Sequence[Instruction], mcpu: str, iterations: int, figure: re.Pattern[str]
) -> float:
    command = [find_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={mcpu}", "-mattr=+fullfp16"]
    command += [f"-iterations={iterations}", "-instruction-info=0", "-resource-pressure=0"]
    shown = _output(command, "\n".join(["loop:", *(one.text for one in body), ""]))
    found = figure.search(shown)
    if found is None:
        raise DeepSeekEdgeError("llvm-mca printed no summary")
    return float(found[1])


def _output(command: Sequence[str], text: str) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        name = Path(command[0]).name
        raise DeepSeekEdgeError(f"{name} failed: {(lines or [done.stderr.strip()])[0]}")
    return done.stdout


def section_bytes(file: Path, section: str) -> bytes:
    """The contents of a section of an object.

    Raises:
        As :func:`disassemble`.
    """
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "section"
        tool = find_tool("llvm-objcopy")
        _output([tool, f"--dump-section={section}={out}", str(file), f"{name}/copy"], "")
        return out.read_bytes()


def symbol_address(library: Path, symbol: str) -> int:
    """The address of a symbol that a library exports.

    Raises:
        MissingToolError: LLVM is not installed.
        DeepSeekEdgeError: the library does not export it.
    """
    shown = _output([find_tool("llvm-nm"), "-D", "--defined-only", str(library)], "")
    for line in shown.splitlines():
        address, _, name = line.split()[:3]
        if name == symbol:
            return int(address, 16)
    raise DeepSeekEdgeError(f"{library.name} does not export {symbol}")

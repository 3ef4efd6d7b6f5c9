"""The tables of a CUDA program: those of a CPU program, the cubin, and a launch for each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_edge.backends.tvm.cuda.nvrtc import toolkit_of
from deepseek_edge.backends.tvm.cuda.source import SourceTable
from deepseek_edge.backends.tvm.emit import (
    Constants,
    Device,
    EntryTable,
    array,
    quoted,
    write_program,
)
from deepseek_edge.target import Gpu


@dataclass(frozen=True)
class LaunchRow:
    """How a step's kernel is launched."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int


def write_cuda_program(
    entries: Sequence[tuple[EntryTable, Sequence[LaunchRow]]],
    kernels: SourceTable,
    constants: Constants,
    gpu: Gpu,
    work_dir: Path,
) -> None:
    """Write program.c and constants.bin; kernels.cubin lies in the folder already."""
    numbers = {name: number for number, name in enumerate(kernels.names)}
    lines = [_HEADER]
    for number, (_, rows) in enumerate(entries):
        lines += array("dse_cuda_launch", f"launches_{number}", [_row(r, numbers) for r in rows])
    names = [f"launches_{number}" for number in range(len(entries))]
    lines += array("dse_cuda_launch *const", "launches", names)
    lines += array("char *const", "kernels", [quoted(name) for name in kernels.names])
    driver = toolkit_of(gpu.arch).driver_version
    lines.append(
        f"static const dse_cuda_program device = {{\n  dse_cubin, {gpu.arch.removeprefix('sm_')}, "
        f"{driver}, kernels, {len(numbers)}, launches\n}};\n"
    )
    device = Device("\n".join(lines), "dse_cuda_executor", "device")
    write_program([table for table, _ in entries], constants, (), work_dir, device)


def _row(row: LaunchRow, numbers: dict[str, int]) -> str:
    x, y, z = row.grid
    return f"{{{numbers[row.kernel]}, {{{x}, {y}, {z}}}, {row.threads}, {row.shared_bytes}}}"


_HEADER = """\
#include "cuda/dse_cuda.h"

__asm__(".section .rodata\\n"
        ".balign 64\\n"
        ".globl dse_cubin\\n"
        ".hidden dse_cubin\\n"
        "dse_cubin:\\n"
        ".incbin \\"kernels.cubin\\"\\n"
        ".previous\\n");
extern const unsigned char dse_cubin[];
"""

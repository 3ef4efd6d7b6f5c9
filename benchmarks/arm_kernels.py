"""Our kernels for ARM64: where a program has them, which loops do their work, and how well."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.arm_count import Counts
from benchmarks.arm_loops import Block, Instruction, Loop, inner_loops, instruction_mix
from benchmarks.arm_model import (
    CORES,
    disassemble,
    loop_cycles,
    multiplier_limit,
    section_bytes,
    symbol_address,
)
from deepseek_edge.artifacts import Program, Step
from deepseek_edge.errors import DeepSeekEdgeError
from deepseek_edge.target import Target

Row = dict[str, Any]

# A loop with less of its kernel's multiplications is the remainder of another one.
MAIN_SHARE = 0.1
# A loop with less of a program's instructions doesn't decide how fast it is.
HOT_SHARE = 0.005
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_CHUNK = 256
_PT_LOAD = 1


@dataclass(frozen=True)
class Kernel:
    """One function of a program.

    Attributes:
        steps: that call it.
    """

    name: str
    code: Block
    steps: tuple[Step, ...]

    @property
    def is_product(self) -> bool:
        """Is it a convolution or a matrix product?"""
        return any(op.endswith(_PRODUCTS) for op in self.steps[0].op.split("+"))


@dataclass(frozen=True)
class MainLoop:
    """A loop that does much of a kernel's work.

    Attributes:
        share: of the kernel's executed vector multiplications.
        path: what its usual iteration executes.
        iterations: so many of these make up its multiplications in one inference.
    """

    loop: Loop
    share: float
    iterations: float
    path: Block


def read_kernels(program: Program) -> list[Kernel]:
    """The kernels of a program that was compiled, from the object beside its library.

    Raises:
        MissingToolError: LLVM is not installed.
    """
    folder = program.library.parent
    table = (folder / "program.c").read_text().split("dse_step_row steps_0[] = {")[1]
    names = re.findall(r"^\s*\{(\w+), ", table.split("};")[0], re.MULTILINE)
    code = disassemble(folder / "kernels.o")
    steps = list(zip(names, program.entries[0].steps, strict=True))
    return [
        Kernel(name, code[name], tuple(step for caller, step in steps if caller == name))
        for name in dict.fromkeys(names)
    ]


def kernel_counts(program: Program, counts: Counts) -> dict[int, float]:
    """Executions of each instruction of ``kernels.o``, per inference, by its address there.

    Raises:
        DeepSeekEdgeError: the object's code isn't in the library.
    """
    code = section_bytes(program.library.parent / "kernels.o", ".text")
    offset = find_code(program.library.read_bytes(), code)
    loaded = counts.address - symbol_address(program.library, "dse_abi_version")
    start = loaded + _virtual_address(program.library.read_bytes(), offset)
    return counts.by_address(start, start + len(code))


def find_code(library: bytes, code: bytes) -> int:
    """Where an object's code lies in a library that was linked from it.

    The linker fills in addresses, so that some pieces differ; the others agree on one place.

    Raises:
        DeepSeekEdgeError: they don't.
    """
    votes: Counter[int] = Counter()
    for start in range(0, len(code) - 15, _CHUNK):
        chunk = code[start : start + _CHUNK]
        place = library.find(chunk)
        if place >= 0 and library.find(chunk, place + 1) < 0:
            votes[place - start] += 1
    if not votes:
        raise DeepSeekEdgeError("the library does not hold the object's code")
    return votes.most_common(1)[0][0]


def _virtual_address(library: bytes, offset: int) -> int:
    """The address of a byte of an ELF file."""
    table, entries = struct.unpack_from("<Q", library, 32)[0], struct.unpack_from("<H", library, 56)
    for index in range(entries[0]):
        kind, _, start, address, _, size = struct.unpack_from(
            "<IIQQQQ", library, table + 56 * index
        )
        if kind == _PT_LOAD and start <= offset < start + size:
            return int(address + offset - start)
    raise DeepSeekEdgeError("no segment of the library holds the object's code")


def main_loops(kernel: Kernel, counts: Mapping[int, float]) -> list[MainLoop]:
    """The loops with most of a kernel's multiplications, the busiest first."""
    total = _multiplications(kernel.code, counts)
    found = []
    for loop in inner_loops(kernel.name, kernel.code):
        done = _multiplications(loop.body, counts)
        if total and done / total >= MAIN_SHARE:
            path = loop.path(counts)
            iterations = done / max(1, sum(one.is_multiply for one in path))
            found.append(MainLoop(loop, done / total, iterations, path))
    return sorted(found, key=lambda one: -one.share)


def _multiplications(body: Sequence[Instruction], counts: Mapping[int, float]) -> float:
    return sum(counts.get(one.address, 0.0) for one in body if one.is_multiply)


def loop_rows(program: Program, target: Target, counts: Mapping[int, float]) -> list[Row]:
    """One row for each loop that does much of the work of a convolution or matrix product.

    Args:
        program: compiled, with all files in its folder.
        target: whose core LLVM models.
        counts: as ``kernel_counts`` gives them.

    Raises:
        MissingToolError: LLVM is not installed.
    """
    total = sum(counts.values())
    rows = []
    for kernel in read_kernels(program):
        for loop in main_loops(kernel, counts) if kernel.is_product else ():
            inside = sum(counts.get(one.address, 0.0) for one in loop.loop.body)
            row = _loop_row(kernel, loop, CORES[target.mcpu])
            share = inside / total
            rows.append(row | {"share_of_program": round(share, 4), "hot": share >= HOT_SHARE})
    return rows


def _loop_row(kernel: Kernel, loop: MainLoop, mcpu: str) -> Row:
    cycles, limit = loop_cycles(loop.path, mcpu), multiplier_limit(loop.path, mcpu)
    return {
        "kernel": f"{kernel.name}+{loop.loop.header - kernel.code[0].address:#x}",
        "op": kernel.steps[0].op,
        "step": kernel.steps[0].name,
        "calls": len(kernel.steps),
        "cycles": round(cycles, 2),
        "limit": limit,
        "cycles_over_limit": round(cycles / limit, 3),
        "iterations": round(loop.iterations),
        "share_of_multiplies": round(loop.share, 3),
        "mix": instruction_mix(loop.path),
    }

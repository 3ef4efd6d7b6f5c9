"""Steps -> program.c: the table that the runtime walks, and constants.bin beside it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepseek_edge.backends.tvm.graph import Array, Scratch, Value
from deepseek_edge.backends.tvm.memory import ALIGNMENT, Arena
from deepseek_edge.digest import digest_bytes
from deepseek_edge.tensors import DTYPE_CODES

MAX_RANK = 8  # DSE_MAX_RANK


@dataclass
class Constants:
    """The bytes of all constants; equal contents are stored once, over all entries."""

    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)

    def add(self, data: Array) -> int:
        """The byte offset of ``data``."""
        raw = np.ascontiguousarray(data).tobytes()
        key = digest_bytes(raw)
        if key not in self._offsets:
            self._offsets[key] = self.size_bytes
            # The slack lets a padded vector load end inside.
            raw += bytes(-len(raw) % ALIGNMENT)
            self.chunks.append(raw)
            self.size_bytes += len(raw)
        return self._offsets[key]

    def write(self, path: Path) -> None:
        """Write all bytes; never an empty file, which .incbin would leave unaligned."""
        path.write_bytes(b"".join(self.chunks) or bytes(ALIGNMENT))


@dataclass(frozen=True)
class StepRow:
    """One line of the step table; ``kernel`` is a function's name, or 0 for a device's kernel."""

    kernel: str
    tensors: tuple[Value, ...]
    tasks: int
    grain: int
    name: str
    op: str


@dataclass(frozen=True)
class EntryTable:
    """Everything the runtime knows of one entry."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    rows: tuple[StepRow, ...]
    arena: Arena
    roots: dict[Value, Value]


@dataclass(frozen=True)
class Device:
    """A program's kernels for something else than the CPU, in C.

    Attributes:
        definitions: what defines ``table``, the executor's own table, with its #include.
        executor: the name of the runtime's executor.
    """

    definitions: str
    executor: str
    table: str


def write_program(
    entries: list[EntryTable],
    constants: Constants,
    features: tuple[str, ...],
    work_dir: Path,
    device: Device | None = None,
) -> None:
    """Write program.c and constants.bin."""
    named = {row.kernel for entry in entries for row in entry.rows} if device is None else set()
    kernels = sorted(named, key=lambda name: int(name[1:]))
    parts = [_HEADER, *(f"void {name}(void);" for name in kernels)]
    if device is not None:
        parts.append(device.definitions)
    tables = [_entry(number, entry, constants) for number, entry in enumerate(entries)]
    parts.extend(definition for definition, _ in tables)
    parts.append("static const dse_entry_table entries[] = {")
    parts.extend(f"  {row}," for _, row in tables)
    arena = max(entry.arena.size_bytes for entry in entries)
    parts.append(
        _FOOTER.format(
            features=quoted(" ".join(features)),
            arena=arena + ALIGNMENT,
            constants=max(constants.size_bytes, ALIGNMENT),
            entries=len(entries),
            scratch=_scratch_bytes(entries),
            executor=device.executor if device else "dse_cpu_executor",
            device=f"&{device.table}" if device else "0",
        )
    )
    constants.write(work_dir / "constants.bin")
    (work_dir / "program.c").write_text("\n".join(parts), encoding="utf-8")


def _entry(number: int, entry: EntryTable, constants: Constants) -> tuple[str, str]:
    """(definitions, initializer) of one entry."""
    refs: list[str] = []
    steps: list[str] = []
    infos: list[str] = []
    for row in entry.rows:
        steps.append(f"{{{row.kernel}, {len(refs)}, {len(row.tensors)}, {row.tasks}, {row.grain}}}")
        refs.extend(_ref(value, entry, constants) for value in row.tensors)
        infos.append(f"{{{quoted(row.name)}, {quoted(row.op)}}}")
    lines = [
        *array("dse_ref", f"refs_{number}", refs),
        *array("dse_step_row", f"steps_{number}", steps),
        *array("dse_step_info", f"infos_{number}", infos),
        *array("dse_tensor_row", f"inputs_{number}", [_tensor(v, entry) for v in entry.inputs]),
        *array("dse_tensor_row", f"outputs_{number}", [_tensor(v, entry) for v in entry.outputs]),
    ]
    initializer = (
        f"{{{quoted(entry.name)}, inputs_{number}, outputs_{number}, steps_{number}, "
        f"infos_{number}, refs_{number}, {len(entry.inputs)}, {len(entry.outputs)}, "
        f"{len(entry.rows)}}}"
    )
    return "\n".join(lines), initializer


def _scratch_bytes(entries: list[EntryTable]) -> int:
    """Enough for every step, in whole cache lines."""
    rows = [row for entry in entries for row in entry.rows]
    sizes = [v.spec.size_bytes for row in rows for v in row.tensors if isinstance(v, Scratch)]
    return -(-max(sizes, default=0) // ALIGNMENT) * ALIGNMENT


def _ref(value: Value, entry: EntryTable, constants: Constants) -> str:
    if isinstance(value, Scratch):
        return "{0u, DSE_SCRATCH}"
    if value.data is not None:
        return f"{{{constants.add(value.data)}u, DSE_CONSTANT}}"
    return f"{{{_offset(value, entry)}u, DSE_ARENA}}"


def _offset(value: Value, entry: EntryTable) -> int:
    return entry.arena.offsets[entry.roots.get(value, value)]


def _tensor(value: Value, entry: EntryTable) -> str:
    shape = ", ".join(map(str, value.shape)) or "0"
    return (
        f"{{{quoted(value.name)}, {DTYPE_CODES[value.dtype]}, {len(value.shape)}, "
        f"{{{shape}}}, {_offset(value, entry)}u, {value.spec.size_bytes}u}}"
    )


def array(kind: str, name: str, rows: list[str]) -> list[str]:
    """The lines that define a constant array."""
    return [f"static const {kind} {name}[] = {{", *(f"  {row}," for row in rows), "};"]


def quoted(text: str) -> str:
    """A C string literal; whatever isn't plain ASCII becomes an octal escape."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'


_HEADER = """\
/* Written by deepseek-edge. */
#include "dse_program.h"

__asm__(".section .rodata\\n"
        ".balign 16384\\n"
        ".globl dse_constants\\n"
        ".hidden dse_constants\\n"
        "dse_constants:\\n"
        ".incbin \\"constants.bin\\"\\n"
        ".previous\\n");
extern const unsigned char dse_constants[];
"""

_FOOTER = """\
}};
const dse_program_table dse_program = {{
  DSE_ABI_VERSION, {features}, {arena}u, dse_constants, {constants}u,
  entries, {entries}, {scratch}u, &{executor}, {device}
}};
"""

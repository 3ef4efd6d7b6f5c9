"""The device's arena: as on the CPU, with what steps use for themselves, and the counters.

Counters are zero between steps. All entries have them in one place behind everything else: were
they planned for each entry, another entry's activations would overwrite them.
"""

from collections.abc import Sequence
from dataclasses import replace

from deepseek_edge.backends.tvm.cuda.launch import Counters, Workspace
from deepseek_edge.backends.tvm.emit import EntryTable, StepRow
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Graph, Value
from deepseek_edge.backends.tvm.memory import Arena, lifetimes, plan


def plan_arena(
    graph: Graph, fused: Sequence[FusedStep], rows: Sequence[StepRow], roots: dict[Value, Value]
) -> Arena:
    """Offsets of all values and workspaces of an entry, without counters."""
    touched = [[v for v in row.tensors if v.data is None and not _is_counters(v)] for row in rows]
    written = [
        [*step.outputs, *(v for v in values if isinstance(v, Workspace))]
        for step, values in zip(fused, touched, strict=True)
    ]
    return plan(lifetimes(touched, written, [*graph.inputs, *graph.outputs], roots))


def place_counters(tables: Sequence[EntryTable]) -> list[EntryTable]:
    """The tables with the counters that their rows name, behind all entries' values."""
    start = max(table.arena.size_bytes for table in tables)
    placed = []
    for table in tables:
        found = {v for row in table.rows for v in row.tensors if _is_counters(v)}
        size = max((v.spec.size_bytes for v in found), default=0)
        offsets = {**table.arena.offsets, **dict.fromkeys(found, start)}
        arena = Arena(offsets, start + size, table.arena.peak_live_bytes)
        placed.append(replace(table, arena=arena))
    return placed


def _is_counters(value: Value) -> bool:
    return isinstance(value, Counters)

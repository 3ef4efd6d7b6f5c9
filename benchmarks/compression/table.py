"""Print ``benchmarks.compression`` as Markdown: ``python -m benchmarks.compression.table FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_HEAD = (
    "| what | seed | parameters | weights, MB | top-1 before | after | lost, pp "
    "| ms at 28 pixels | faster | ms at 224 | faster |"
)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: a row an experiment and seed."""
    yield _HEAD
    yield "| --- " + "| ---: " * (_HEAD.count("|") - 2) + "|"
    for row in sorted(rows, key=lambda one: (one["name"], one["seed"])):
        small = row["ms_before"], row["ms_after"]
        large = row["ms224_before"], row["ms224_after"]
        cells = [
            row["name"],
            row["seed"],
            _change(row["params_before"] / 1e6, row["params_after"] / 1e6, ".2f"),
            _change(row["params_before"] * 4e-6, _weights_mb(row), ".1f"),
            f"{row['top1_before']:.2f} %",
            f"{row['top1_after']:.2f} %",
            f"{row['drop_pp']:+.2f} +- {row['ci_pp']:.2f}",
            _change(*small, ".2f"),
            f"{small[0] / small[1]:.2f}x",
            _change(*large, ".1f"),
            f"{large[0] / large[1]:.2f}x",
        ]
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def _weights_mb(row: Row) -> float:
    """Of the compressed net: a float graph's own, since packed for Winograd they are larger."""
    if row["int8_macs_share"] is None:
        return 4e-6 * float(row["params_after"])
    return float(row["weights_bytes_after"]) / 1e6


def _change(before: float, after: float, form: str) -> str:
    return f"{before:{form}} -> {after:{form}}"


if __name__ == "__main__":
    print("\n".join(table(json.loads(Path(sys.argv[1]).read_bytes())["rows"])))

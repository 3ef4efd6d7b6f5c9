"""The page about all cells, made from their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.cell import Row

_HEAD = """\
# Cells

Every named model compiled for every target, run, and compared. This page is written by

```sh
python -m benchmarks.cells --json benchmarks/results/cells.json
python -m benchmarks.cells --table benchmarks/results/cells.json > docs/cells.md
```

A program for `host` was run on the machine that compiled it, with 3 samples; a program for an ARM
board under QEMU's user-mode emulation of that board's core, with 1. Emulation shows that a program
is right and says nothing about its speed. The models are described in `benchmarks/models.py`;
those named `light-...` are import coverage, and compiled for `host` only.
"""
_MATRIX = """
## {precision}: {ok} of {all} cells are right

Largest difference from onnxruntime on the same graph (`ORT_DISABLE_ALL`), as a share of the
output's range; at most 1e-3 is allowed.
"""
_LATENCY = """
## {precision}: time on `host` against onnxruntime

Median milliseconds, onnxruntime with all its optimizations at the same number of threads, in turns
of a tenth of a second. The ratio is ours over theirs, the median of the rounds with its range;
the best is each side's fastest call, which a busy machine disturbs least.
Other work ran on this machine meanwhile (load average {low:.1f} to {high:.1f}, doubts in
{doubtful} of {all}): `python -m benchmarks.cpu` on a quiet machine is the better figure.
"""
_DETAILS = """
## {precision}: every cell

*codegen* is the compile itself, *check* running it. The bundle holds weights, code and golden
tensors; *arena* is the memory for all activations.
"""


def page(rows: Sequence[Row]) -> str:
    """The page about rows, in their order, as Markdown."""
    return "\n".join([*_HEAD.splitlines(), *_chapters(rows)]) + "\n"


def _chapters(rows: Sequence[Row]) -> Iterator[str]:
    for precision in dict.fromkeys(row["precision"] for row in rows):
        chosen = [row for row in rows if row["precision"] == precision]
        yield from _matrix(precision, chosen)
        yield from _failures(precision, chosen)
        yield from _latency(precision, chosen)
        yield from _details(precision, chosen)


def _matrix(precision: str, rows: Sequence[Row]) -> Iterator[str]:
    ok = sum(row["ok"] for row in rows)
    yield from _MATRIX.format(precision=precision, ok=ok, all=len(rows)).splitlines()
    yield ""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    by_cell = {(row["model"], row["target"]): row for row in rows}
    yield from _table(
        ["model", *targets],
        (
            [model, *(_verdict(by_cell.get((model, target))) for target in targets)]
            for model in dict.fromkeys(row["model"] for row in rows)
        ),
    )


def _verdict(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row['parity_graph']['max_abs']:.1e}" if row["ok"] else "**failed**"


def _failures(precision: str, rows: Sequence[Row]) -> Iterator[str]:
    failed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row["ok"]:
            failed.setdefault((row["model"], row["reason"]), []).append(row["target"])
    if not failed:
        return
    yield from ["", f"## {precision}: what failed", ""]
    yield from _table(
        ["model", "targets", "reason"],
        (
            [model, ", ".join(targets), reason.replace("|", "\\|")]
            for (model, reason), targets in failed.items()
        ),
    )


def _latency(precision: str, rows: Sequence[Row]) -> Iterator[str]:
    timed = [(row["model"], one) for row in rows for one in row["latency"] or ()]
    if not timed:
        return
    loads = [one["load_average"] for _, one in timed]
    text = _LATENCY.format(
        precision=precision,
        low=min(loads),
        high=max(loads),
        doubtful=sum(bool(one["doubts"]) for _, one in timed),
        all=len(timed),
    )
    yield from [*text.splitlines(), ""]
    yield from latency_table(timed)


def latency_table(timed: Iterable[tuple[str, Row]]) -> Iterator[str]:
    """Lines of a table of comparisons, each with its model's name."""
    return _table(
        ["model", "threads", "ours", "onnxruntime", "ratio", "rounds", "best", "ratio of best"],
        (
            [
                model,
                str(one["threads"]),
                f"{one['ours_ms']:.2f}",
                f"{one['onnxruntime_ms']:.2f}",
                f"{one['ratio']:.2f}",
                f"{one['ratio_min']:.2f} to {one['ratio_max']:.2f}",
                f"{one['ours_best_ms']:.2f} : {one['onnxruntime_best_ms']:.2f}",
                f"{one['ours_best_ms'] / one['onnxruntime_best_ms']:.2f}",
            ]
            for model, one in timed
        ),
    )


def _details(precision: str, rows: Sequence[Row]) -> Iterator[str]:
    made = [row for row in rows if row["ok"]]
    if not made:
        return
    yield from [*_DETAILS.format(precision=precision).splitlines(), ""]
    columns = ["model", "target", "ran on", "cosine", "MMAC", "steps", "codegen s", "check s"]
    columns += ["bundle MB", "code kB", "arena MB"]
    yield from _table(
        columns,
        (
            [
                row["model"],
                row["target"],
                row["verified"],
                f"{row['parity_float']['cosine']:.6f}",
                f"{row['macs'] / 1e6:.0f}",
                str(row["steps"]),
                f"{row['codegen_s']:.1f}",
                f"{row['parity_s']:.1f}",
                f"{row['size_bytes'] / 1e6:.2f}",
                f"{row['code_bytes'] / 1e3:.0f}",
                f"{row['arena_bytes'] / 1e6:.2f}",
            ]
            for row in made
        ),
    )


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for line in lines:
        yield f"| {' | '.join(line)} |"

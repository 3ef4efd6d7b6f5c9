"""Tables and a plot of ``benchmarks.cpu``: ``python -m benchmarks.cpu_table FILE``.

Prints Markdown: every time, or with ``--summary`` the README's table of ratios; ``--plot FILE``
draws an SVG or PNG.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cpu import geometric_means
from benchmarks.cpu_row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"float32": "#3b6ea5", "int8": "#c8762b"}
_NOTE = (
    "Median milliseconds; the fastest of a row is bold. \\* computes something else than the "
    "graph says (`sqnr_db` in the JSON file). - can't run the model (`reasons` there)."
)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table for each precision and number of threads."""
    means = geometric_means(rows)
    groups = dict.fromkeys((row["precision"], row["threads"]) for row in rows)
    for precision, threads in groups:
        chosen = [r for r in rows if (r["precision"], r["threads"]) == (precision, threads)]
        peers = list(dict.fromkeys(name for row in chosen for name in row["peers_ms"]))
        mean = means.get(f"{precision}-t{threads}")
        told = "" if mean is None else f": {mean:.2f} of the best peer's time"
        count = "1 thread" if threads == 1 else f"{threads} threads"
        yield from [f"**{precision}, {count}**{told}", ""]
        yield _line(["model", "ours", *peers, "ours / best"])
        yield _line(["---", *["---:"] * (len(peers) + 2)])
        for row in chosen:
            yield _line([row["model"], *_times(row, peers), _figure(row["ratio"])])
        yield ""
    yield _NOTE


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of one Markdown table: our time over the best peer's, for each model and setting."""
    means = geometric_means(rows)
    settings = list(dict.fromkeys((row["precision"], row["threads"]) for row in rows))
    ratios = {(row["model"], row["precision"], row["threads"]): row["ratio"] for row in rows}
    heads = [
        f"{precision}, {threads} thread{'s' * (threads > 1)}" for precision, threads in settings
    ]
    yield _line(["our time / best peer's", *heads])
    yield _line(["---", *["---:"] * len(settings)])
    for model in dict.fromkeys(row["model"] for row in rows):
        yield _line([model, *(_figure(ratios.get((model, *one))) for one in settings)])
    named = [means.get(f"{precision}-t{threads}") for precision, threads in settings]
    yield _line(["**geometric mean**", *(f"**{_figure(mean)}**" for mean in named)])


def _times(row: Row, peers: Sequence[str]) -> list[str]:
    times = {"deepseek_edge": row["ours_ms"], **{name: row["peers_ms"].get(name) for name in peers}}
    best = min((value for value in times.values() if value is not None), default=None)
    cells = []
    for name, value in times.items():
        text = _figure(value)
        mark = "\\*" if name in row["inexact"] and value is not None else ""
        cells.append(f"**{text}**{mark}" if value is not None and value == best else text + mark)
    return cells


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw ours / best peer: a panel for each number of threads, a bar for each precision.

    Args:
        rows: with a ratio or without.
        file: SVG or PNG, by its name.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    counts = sorted({row["threads"] for row in rows})
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    ratios = {(r["model"], r["precision"], r["threads"]): r["ratio"] for r in rows}
    # Without these two the same figures would make different bytes.
    settings: Any = {"svg.hashsalt": "cpu", "svg.fonttype": "none", "font.size": 9}
    with pyplot.rc_context(settings):
        size = (4.2 * len(counts) + 1, 0.36 * len(models) + 1)
        figure, panels = pyplot.subplots(1, len(counts), figsize=size, sharey=True, squeeze=False)
        for axes, threads in zip(panels[0], counts, strict=True):
            for place, precision in enumerate(precisions):
                found = [ratios.get((model, precision, threads)) for model in models]
                _bars(axes, found, place, precisions)
            axes.axvline(1.0, color="black", linewidth=0.8)
            axes.set_title("1 thread" if threads == 1 else f"{threads} threads")
            axes.set_xlabel("our time / best peer's (left of 1: we are faster)")
            axes.set_yticks(range(len(models)), models)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0][0].invert_yaxis()
        panels[0][-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def _bars(
    axes: Axes, ratios: Sequence[float | None], place: int, precisions: Sequence[str]
) -> None:
    height = 0.8 / len(precisions)
    offset = (place - (len(precisions) - 1) / 2) * height
    precision = precisions[place]
    axes.barh(
        [index + offset for index in range(len(ratios))],
        [ratio or 0.0 for ratio in ratios],
        height=height,
        color=_COLOURS[precision],
        label=precision,
    )


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_table", description=__doc__)
    parser.add_argument("file", type=Path, help="what benchmarks.cpu --json wrote")
    parser.add_argument("--plot", type=Path, help="SVG or PNG to write")
    parser.add_argument("--summary", action="store_true", help="ratios only")
    options = parser.parse_args(arguments)
    found: Mapping[str, Any] = json.loads(options.file.read_bytes())
    print("\n".join((summary if options.summary else table)(found["rows"])))
    if options.plot:
        plot(found["rows"], options.plot)


if __name__ == "__main__":
    main(sys.argv[1:])

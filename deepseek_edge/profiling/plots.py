"""Plots as inline SVG: the same bytes for the same values, in the colours of the page.

matplotlib draws with placeholder colours, which become CSS variables, so that one picture fits
a light and a dark page.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepseek_edge.artifacts import LayerError, Step
from deepseek_edge.errors import MissingToolError
from deepseek_edge.profiling.roofline import attainable_flop_s, intensity
from deepseek_edge.report import LayerTime, Roof

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--series-1)",
    "#050505": "var(--series-2)",
    "#060606": "var(--series-3)",
}
_INK, _MUTED, _LINE, _SERIES_1, _SERIES_2, _SERIES_3 = _COLOURS
_MOST_BARS = 24
_MOST_NAMES = 3


def plot_sizes(code_bytes: int, weights_bytes: int, other_bytes: int) -> str:
    """One bar: what the bundle's bytes are."""
    figure, axes = _figure(7.0, 1.3)
    left = 0.0
    parts = (
        ("weights", weights_bytes),
        ("code", code_bytes),
        ("golden tensors, rest", other_bytes),
    )
    for (name, size), colour in zip(parts, (_SERIES_1, _SERIES_2, _SERIES_3), strict=True):
        megabytes = size / 1e6
        label = f"{name}: {megabytes:.2f} MB"
        axes.barh(0, megabytes, left=left, color=colour, height=0.6, label=label)
        left += megabytes
    axes.set_yticks([])
    axes.set_xlabel("MB")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, labelcolor=_INK)
    return _svg(figure, "sizes", f"Bundle of {left:.2f} MB by part")


def plot_layer_times(layers: Sequence[LayerTime]) -> str:
    """Bars of the slowest steps, slowest first."""
    slowest = sorted(layers, key=lambda layer: -layer.ms)[:_MOST_BARS]
    names = [_short(f"{layer.name}  {layer.op}") for layer in slowest]
    return _bars(names, [layer.ms for layer in slowest], "ms, median", "layer-times")


def plot_layer_macs(steps: Sequence[Step]) -> str:
    """Bars of the steps with most work, where no time was measured."""
    largest = sorted(steps, key=lambda step: -step.macs)[:_MOST_BARS]
    names = [_short(f"{step.name}  {step.op}") for step in largest]
    values = [step.macs / 1e6 for step in largest]
    return _bars(names, values, "million multiply-accumulates", "layer-macs")


def plot_roofline(roof: Roof, steps: Sequence[Step], layers: Sequence[LayerTime]) -> str:
    """Each step's achieved speed against what the machine allows at its intensity.

    Steps that only move data have no place in it and are left out.
    """
    points = [
        (intensity(step), step.operations / (layer.ms * 1e6), layer.share)
        for step, layer in zip(steps, layers, strict=True)
        if step.operations and layer.ms > 0
    ]
    figure, axes = _figure(7.0, 4.2)
    low = min([x for x, _, _ in points] + [0.1])
    memory_bytes_s = roof.bandwidths[-1].bytes_s
    ridge = roof.flop_s / memory_bytes_s
    high = max([x for x, _, _ in points] + [4 * ridge])
    xs = sorted([low, ridge, high])
    heights = [attainable_flop_s(roof, x) / 1e9 for x in xs]
    axes.loglog(xs, heights, color=_SERIES_2, linewidth=2)
    for cache in roof.bandwidths[:-1]:
        corner = roof.flop_s / cache.bytes_s
        ends = [min(low, corner), corner]
        slope = [x * cache.bytes_s / 1e9 for x in ends]
        axes.loglog(ends, slope, color=_SERIES_2, linewidth=1, linestyle="--")
    axes.scatter(
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        s=[16 + 400 * share for _, _, share in points],
        color=_SERIES_1,
        alpha=0.6,
        linewidths=0,
    )
    axes.annotate(
        f"{roof.flop_s / 1e9:.0f} GFLOP/s, {memory_bytes_s / 1e9:.0f} GB/s",
        (ridge, roof.flop_s / 1e9),
        xytext=(0, 6),
        textcoords="offset points",
        color=_INK,
    )
    axes.set_xlabel("operations a byte (each tensor read and written once)")
    axes.set_ylabel("billion operations a second")
    axes.grid(visible=True, color=_LINE, linewidth=0.6)
    return _svg(figure, "roofline", "Roofline: achieved speed of each step and the limit")


def plot_latency(samples_ms: Sequence[float]) -> str:
    """Histogram of the measured calls."""
    figure, axes = _figure(7.0, 2.4)
    axes.hist(list(samples_ms), bins=min(50, max(5, len(samples_ms) // 5)), color=_SERIES_1)
    axes.set_xlabel("ms a call")
    axes.set_ylabel("calls")
    return _svg(figure, "latency", f"Distribution of {len(samples_ms)} measured calls")


def plot_layer_errors(errors: Sequence[LayerError]) -> str:
    """Signal to noise along the graph: in all, and what each layer adds."""
    figure, axes = _figure(7.0, 3.4)
    shown = [error for error in errors if math.isfinite(error.sqnr_db + error.added_sqnr_db)]
    places = range(1, len(shown) + 1)
    added = [error.added_sqnr_db for error in shown]
    axes.plot(places, [error.sqnr_db for error in shown], color=_SERIES_1, label="in all")
    axes.scatter(places, added, s=16, color=_SERIES_2, linewidths=0, label="added by the layer")
    for place in sorted(range(len(shown)), key=added.__getitem__)[:_MOST_NAMES]:
        name = _short(shown[place].name, 28)
        at = (place + 1, added[place])
        axes.annotate(name, at, (0, 5), textcoords="offset points", fontsize=7, color=_INK)
    axes.set_xlabel("layer, in the graph's order")
    axes.set_ylabel("SQNR, dB")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, labelcolor=_INK)
    return _svg(figure, "layer-errors", f"Signal to noise at the output of {len(shown)} layers")


def _bars(names: Sequence[str], values: Sequence[float], unit: str, salt: str) -> str:
    figure, axes = _figure(7.0, 0.9 + 0.22 * len(names))
    positions = range(len(names))
    axes.barh(positions, values, color=_SERIES_1, height=0.7)
    axes.set_yticks(positions, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    return _svg(figure, salt, f"{len(names)} largest steps in {unit}")


def _short(name: str, most: int = 52) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _figure(width_in: float, height_in: float) -> "tuple[Figure, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingToolError(
            "the HTML report needs matplotlib", hint="pip install matplotlib"
        ) from None
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=_MUTED, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: "Figure", salt: str, title: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    # The salt keeps generated ids equal in every run and different between pictures of a page.
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = re.sub(r"(?s)^.*?<svg ", "<svg ", buffer.getvalue())
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for placeholder, variable in _COLOURS.items():
        text = text.replace(placeholder, variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)

"""One page about a compile: self-contained, for a newcomer, with plots and the numbers below."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepseek_edge.artifacts import Accuracy, LayerError, Rung, Step
from deepseek_edge.profiling.plots import (
    plot_latency,
    plot_layer_errors,
    plot_layer_macs,
    plot_layer_times,
    plot_roofline,
    plot_sizes,
)
from deepseek_edge.profiling.roofline import intensity, least_s, step_bytes
from deepseek_edge.report import (
    CompileReport,
    ProfileReport,
    ProgramReport,
    Roof,
    describe_conditions,
)
from deepseek_edge.target import Target


@dataclass(frozen=True)
class Chapter:
    """What the page says of one bundle.

    Attributes:
        compiled: None if only a profile is shown.
        steps: of the entry that was profiled, in the order in which they run.
        profile: None if nothing was measured.
    """

    target: Target
    steps: tuple[Step, ...]
    compiled: CompileReport | None
    profile: ProfileReport | None


def render(title: str, chapters: Sequence[Chapter]) -> str:
    """Write the page: the same chapters give the same bytes.

    Raises:
        MissingToolError: matplotlib is not installed.
    """
    body = "\n".join(_chapter(chapter) for chapter in chapters)
    return _PAGE.format(title=html.escape(title), body=body)


def _chapter(chapter: Chapter) -> str:
    parts = [f"<h2>{html.escape(chapter.target.id)}</h2>"]
    if chapter.compiled is not None:
        for program in chapter.compiled.programs:
            parts += [_compiled(chapter.compiled, program)]
    if chapter.profile is not None:
        parts += [_profiled(chapter, chapter.profile)]
    else:
        parts += [
            "<h3>Work of each step</h3>",
            "<p>No time was measured for this target: emulation says nothing about time. "
            "Run <code>deepseek-edge profile</code> on the device.</p>",
            _figure(plot_layer_macs(chapter.steps)),
            _steps_table(chapter.steps),
        ]
    return f"<section>{''.join(parts)}</section>"


def _compiled(report: CompileReport, checked: ProgramReport) -> str:
    program = checked.program
    rest = report.size_bytes - program.code_bytes - program.weights_bytes
    ran = checked.verified or "NOT RUN"
    tiles = [
        ("program", f"{program.id} ({program.precision})"),
        ("bundle", _bytes(report.size_bytes)),
        ("memory for activations", _bytes(program.arena_bytes)),
        ("checked on", ran),
        ("compiled in", f"{report.time_s.get('total', math.nan):.1f} s"),
    ]
    parts = [_tiles(tiles), *(f"<p class=note>{html.escape(note)}</p>" for note in report.notes)]
    parts += ["<h3>Size</h3>", _figure(plot_sizes(program.code_bytes, program.weights_bytes, rest))]
    parts += ["<h3>Does it compute what the model says?</h3>", _parity(checked)]
    if report.accuracy is not None:
        parts += ["<h3>Is it still accurate?</h3>", _accuracy(report.accuracy)]
    if len(report.ladder) > 1:
        parts += ["<h3>Ways to quantize that were tried</h3>", _ladder(report.ladder)]
    layers = program.layers
    parts += [
        "<h3>Layers</h3>",
        _table(
            ["Conv, Gemm, MatMul layers", "int8", "float16", "float32"],
            [[str(layers.total), str(layers.int8), str(layers.float16), str(layers.float32)]],
        ),
    ]
    if layers.kept_float:
        rows = [[html.escape(one.name), html.escape(one.reason)] for one in layers.kept_float]
        parts += [_table(["layer in float", "why"], rows)]
    if checked.layer_errors:
        parts += ["<h3>Where does the error enter?</h3>", _errors(checked.layer_errors)]
    return "".join(parts)


def _errors(errors: Sequence[LayerError]) -> str:
    worst = sorted(errors, key=lambda error: error.added_sqnr_db)
    rows = [[html.escape(e.name), _decibel(e.added_sqnr_db), _decibel(e.sqnr_db)] for e in worst]
    table = _table(["layer", "added here, SQNR", "with all before it, SQNR"], rows)
    return (
        "<p>Each layer's output against the float model's on calibration samples, as signal to "
        "noise: less is worse, and 6 dB are a factor of two. The points below the line are what "
        "the layer adds by itself, its inputs being exact; the line is what reaches its output "
        "in all. A line that falls where no point is low carries errors of earlier layers.</p>"
        f"{_figure(plot_layer_errors(errors))}"
        f"<details><summary>All {len(rows)} layers, worst first</summary>{table}</details>"
    )


def _parity(checked: ProgramReport) -> str:
    rows = []
    if graph := checked.parity_graph:
        steps = "" if graph.max_steps is None else f"; {graph.max_steps} quantization steps"
        rows.append(
            [
                "its own graph (onnxruntime, unoptimized)",
                str(graph.samples),
                f"largest error {graph.max_abs:.1e} of the output range{steps}",
                f"{graph.within:.3%} inside the tolerance",
            ]
        )
    if model := checked.parity_float:
        agreement = (
            "" if model.top1_agreement is None else f"top-1 equal {model.top1_agreement:.0%}"
        )
        rows.append(
            [
                "the float model",
                str(model.samples),
                f"SQNR {_decibel(model.sqnr_db)}, cosine {model.cosine:.6f}",
                agreement,
            ]
        )
    if not rows:
        return "<p class=warn>NOT RUN: check it on the device before it serves.</p>"
    return _table(["compared with", "samples", "difference", "agreement"], rows)


def _accuracy(accuracy: Accuracy) -> str:
    return _table(
        ["metric", "samples", "float model", "compiled", "lost", "95 % interval"],
        [
            [
                accuracy.metric,
                str(accuracy.samples),
                f"{accuracy.float:.2f} %",
                f"{accuracy.compiled:.2f} %",
                f"{accuracy.drop_pp:+.2f} pp",
                f"&plusmn;{accuracy.ci_pp:.2f} pp",
            ]
        ],
    )


def _ladder(ladder: tuple[Rung, ...]) -> str:
    head = ["tried", "lost", "95 % interval", "int8 work", "measured on", "kept the promise"]
    rows = [
        [
            html.escape(rung.name),
            f"{rung.accuracy.drop_pp:+.2f} pp",
            f"&plusmn;{rung.accuracy.ci_pp:.2f} pp",
            "" if rung.int8_macs_share is None else f"{rung.int8_macs_share:.1%}",
            html.escape(f"{rung.measured_on}, {rung.dataset}"),
            "yes" if rung.is_kept else "no",
        ]
        for rung in ladder
    ]
    return _table(head, rows)


def _profiled(chapter: Chapter, profile: ProfileReport) -> str:
    latency = profile.latency_ms
    peak = "unknown" if profile.peak_rss_bytes is None else _bytes(profile.peak_rss_bytes)
    tiles = [
        ("median of a call", f"{latency.p50:.2f} ms"),
        ("p90", f"{latency.p90:.2f} ms"),
        ("p99", f"{latency.p99:.2f} ms"),
        ("threads", str(profile.threads) if profile.threads else "the GPU's"),
        ("opened in", f"{profile.open_ms:.1f} ms"),
        ("peak memory", peak),
    ]
    parts = [f"<h3>Speed on {html.escape(profile.device)}</h3>", _tiles(tiles)]
    if profile.reasons:
        reasons = html.escape("; ".join(profile.reasons))
        parts += [f"<p class=warn>Don't rely on these times: {reasons}.</p>"]
    if profile.conditions is not None and (rows := describe_conditions(profile.conditions)):
        parts += ["<p class=note>The device meanwhile:</p>", _tiles(rows)]
    parts += [_figure(plot_latency(profile.samples_ms))] if profile.samples_ms else []
    if not profile.layers:
        return "".join([*parts, "<p>TensorRT's layers aren't timed one by one.</p>"])
    parts += ["<h3>Where the time goes</h3>", _figure(plot_layer_times(profile.layers))]
    roof = profile.roof
    parts += ["<h3>How near to the machine's limit</h3>"]
    if roof is None:
        parts += [
            "<p>The clock or memory bandwidth of what was measured isn't known: no roofline.</p>"
        ]
    else:
        share = _whole_share(roof, chapter.steps, latency.p50)
        parts += [
            "<p>A step can be no faster than its arithmetic at full speed, or than memory can "
            "bring its tensors once: the line, and dashed the same for caches, where small "
            "tensors lie. Each dot is a step, its area the time it takes. The whole call runs at "
            f"<b>{share:.0%}</b> of that limit. The flat part is of float32: INT8 steps can lie "
            "above it.</p>",
            _figure(plot_roofline(roof, chapter.steps, profile.layers)),
        ]
    parts += [_steps_table(chapter.steps, profile)]
    return "".join(parts)


def _whole_share(roof: Roof, steps: Iterable[Step], p50_ms: float) -> float:
    return sum(least_s(roof, step) for step in steps) * 1e3 / p50_ms


def _steps_table(steps: Sequence[Step], profile: ProfileReport | None = None) -> str:
    header = ["step", "operators", "million operations", "kB", "operations a byte"]
    rows = [
        [
            html.escape(step.name),
            html.escape(step.op),
            f"{step.operations / 1e6:.2f}",
            f"{step_bytes(step) / 1e3:.1f}",
            f"{intensity(step):.1f}",
        ]
        for step in steps
    ]
    if profile is not None:
        header += ["ms", "share", "billion operations a second", "limit, ms", "of the limit"]
        for row, step, layer in zip(rows, steps, profile.layers, strict=True):
            row += [f"{layer.ms:.3f}", f"{layer.share:.1%}"]
            row += [f"{step.operations / (layer.ms * 1e6):.1f}" if layer.ms else ""]
            limit = "" if layer.limit_ms is None else f"{layer.limit_ms:.3f} ({layer.limited_by})"
            row += [limit, "" if layer.limit_share is None else f"{layer.limit_share:.0%}"]
    return f"<details><summary>All {len(rows)} steps</summary>{_table(header, rows)}</details>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _tiles(tiles: Iterable[tuple[str, str]]) -> str:
    cells = (f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in tiles)
    return f"<dl class=tiles>{''.join(cells)}</dl>"


def _figure(svg: str) -> str:
    return f"<figure class=wide>{svg}</figure>"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _decibel(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "infinite (equal)"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1a; --muted: #77766f; --line: #dddcd5;
  --page: #fbfbf9; --tile: #f1f0ec; --warn: #9c4a00;
  --series-1: #2a78d6; --series-2: #c2571a; --series-3: #4a9a63; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ecebe6; --muted: #9b9a93;
  --line: #3a3935; --page: #191917; --tile: #252522; --warn: #f0a35a;
  --series-1: #4c94ec; --series-2: #e8824a; --series-3: #63b87e; }} }}
body {{ margin: 2rem auto; max-width: 56rem; padding: 0 1rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
h2 {{ border-top: 2px solid var(--line); padding-top: 1rem; margin-top: 2.5rem; }}
h3 {{ margin: 2rem 0 .5rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }}
.tiles div {{ background: var(--tile); border-radius: 6px; padding: .5rem .9rem; }}
dt {{ color: var(--muted); font-size: .8rem; }} dd {{ margin: 0; font-weight: 600; }}
figure {{ margin: .5rem 0; }} svg {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }} .warn {{ color: var(--warn); font-weight: 600; }}
.note {{ color: var(--muted); }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); }}
summary {{ cursor: pointer; margin: 1rem 0; }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""

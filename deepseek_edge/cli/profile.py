"""``deepseek-edge profile``: how fast a bundle's program is here, and where the time goes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepseek_edge.cli.output import (
    FormatOption,
    bytes_text,
    narration,
    print_json,
    print_lines,
)
from deepseek_edge.cli.run import (
    BundleArgument,
    EnginesOption,
    ProgramOption,
    ThreadsOption,
    parse_device,
    warn_unsigned,
)
from deepseek_edge.errors import UnsupportedError

if TYPE_CHECKING:
    from deepseek_edge.report import ProfileReport

SLOWEST = 10

QueriesOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Measured calls; default: 2 seconds.")
]
CheckOption = Annotated[bool, typer.Option("--check", help="Compare the golden outputs first.")]


def profile_command(
    bundle: BundleArgument,
    *,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="host.")] = "host",
    program: ProgramOption = None,
    engines: EnginesOption = None,
    threads: ThreadsOption = 0,
    queries: QueriesOption = None,
    check: CheckOption = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page.")] = None,
    format: FormatOption = "readable",
) -> None:
    """Verify a bundle and measure its program: warm-up, percentiles, each step."""
    if parse_device(device) != "host":
        raise UnsupportedError(
            "emulation says nothing about time, so qemu is not profiled",
            hint="profile on the device itself; --device qemu is for run",
        )
    with narration() as narrator:
        from deepseek_edge.bundle import open_bundle
        from deepseek_edge.capabilities import check_plots
        from deepseek_edge.pipeline.packing import write_page
        from deepseek_edge.pipeline.plan import check_writable
        from deepseek_edge.pipeline.running import profile_bundle, profile_chapter

        if html is not None:
            check_plots()
            check_writable(html)
        with open_bundle(bundle) as opened:
            warn_unsigned(opened, narrator.say)
            narrator.say(f"measuring {bundle}")
            report = profile_bundle(
                opened,
                wanted=program,
                engines=engines,
                threads=threads,
                queries=queries,
                check=check,
                narrate=narrator.say,
            )
            chapter = profile_chapter(opened, report)
        if html is not None:
            write_page(html, f"{opened.manifest.model.name}: profile", [chapter])
    if format == "json":
        from deepseek_edge.report import profile_json

        print_json(profile_json(report))
    else:
        print_lines(describe(report))
        print_lines([] if html is None else [f"report: {html}"])


def describe(report: "ProfileReport") -> Iterator[str]:
    """Say in lines what was measured."""
    from deepseek_edge.report import describe_conditions

    latency = report.latency_ms
    peak = "unknown" if report.peak_rss_bytes is None else bytes_text(report.peak_rss_bytes)
    where = f"{report.threads} threads" if report.threads else "its GPU"
    yield f"{report.bundle}: {report.program} on {report.device}, {where}"
    yield (
        f"  latency: p50 {latency.p50:.3f} ms, p90 {latency.p90:.3f}, p99 {latency.p99:.3f}, "
        f"min {latency.min:.3f}, mean {latency.mean:.3f} ({latency.n} calls)"
    )
    yield f"  opened in {report.open_ms:.1f} ms, peak memory {peak}"
    if report.conditions is not None and (rows := describe_conditions(report.conditions)):
        yield f"  device: {', '.join(f'{name} {value}' for name, value in rows)}"
    yield from (f"  doubtful: {reason}" for reason in report.reasons)
    if not report.layers:
        yield "  TensorRT's layers aren't timed one by one"
        return
    slowest = sorted(report.layers, key=lambda layer: -layer.ms)[:SLOWEST]
    yield f"  slowest {len(slowest)} of {len(report.layers)} steps:"
    for layer in slowest:
        yield f"    {layer.ms:8.3f} ms {layer.share:6.1%}  {layer.op}  {layer.name}"

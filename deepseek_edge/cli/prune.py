"""``deepseek-edge prune``: a module without the channels that matter least."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepseek_edge.cli.output import (
    FormatOption,
    bytes_text,
    narration,
    print_json,
    print_lines,
    warnings_told,
)
from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    from deepseek_edge.pipeline.pruning import Pruned

By = Literal["parameters", "macs"]
Scope = Literal["layer", "global"]
Importance = Literal["l1", "l2", "bn_scale"]

RatioOption = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Remove this share of the model, 0 to 1.")
]
ByOption = Annotated[By, typer.Option(help="What the share is one of.")]
ScopeOption = Annotated[
    Scope,
    typer.Option(help="The same share of each layer, or what matters least wherever it is."),
]
ImportanceOption = Annotated[
    Importance,
    typer.Option(help="How channels are ranked: norms of weights, or scales of batch norms."),
]
RoundOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Layers keep a multiple of N outputs; default: a vector of the target."
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A module whose outputs all stay; repeat it for several."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(metavar="MS", help="Instead of --ratio: what a call may take on --target."),
]
TargetOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Predict times for it, and measure on host.")
]


def prune_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package.module:factory.")],
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="FILE.pt2 or FILE.onnx.")
    ],
    ratio: RatioOption = None,
    latency_budget: BudgetOption = None,
    target: TargetOption = None,
    by: ByOption = "parameters",
    scope: ScopeOption = "layer",
    importance: ImportanceOption = "l1",
    round_to: RoundOption = None,
    exclude: ExcludeOption = None,
    format: FormatOption = "readable",
) -> None:
    """Remove the channels of a torch module that matter least, and export what is left."""
    check_names(model, output)
    with narration() as narrator, warnings_told(narrator):
        from deepseek_edge.export.load import load_module
        from deepseek_edge.export.torch_module import require_torch
        from deepseek_edge.pipeline.plan import check_writable
        from deepseek_edge.pipeline.pruning import prune_module, write_module
        from deepseek_edge.target import load_target

        check_writable(output)
        require_torch()
        module, inputs = load_module(model)
        pruned = prune_module(
            module,
            inputs,
            ratio=ratio,
            latency_budget_ms=latency_budget,
            target=None if target is None else load_target(target),
            by=by,
            scope=scope,
            importance=importance,
            round_to=round_to,
            excluded=exclude or (),
            narrate=narrator.say,
            progress=narrator.advance,
        )
        write_module(pruned.model, output)
    if format == "json":
        print_json(as_json(pruned, output, target))
    else:
        print_lines(list(describe(pruned, output)))


def check_names(model: str, output: Path) -> None:
    """Refuse models that are no modules any more, and files of no known kind.

    Raises:
        UsageError: what, and what works instead.
    """
    from deepseek_edge.importing import is_function_reference

    if not is_function_reference(model):
        raise UsageError(
            f"{model} can't be pruned: channels are removed from a torch module",
            hint="give package.module:factory, a function that returns module and example inputs",
        )
    if output.suffix not in (".pt2", ".onnx"):
        raise UsageError(f"{output} names no kind of file", hint="-o FILE.pt2 or -o FILE.onnx")


def as_json(pruned: "Pruned", output: Path, target: str | None) -> dict[str, Any]:
    """The result as one object with stable keys."""
    report = pruned.model.report
    return {
        "schema": 1,
        "output": str(output),
        "size_bytes": output.stat().st_size,
        "target": target,
        "basis": pruned.basis,
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "macs_before": report.macs_before,
        "macs_after": report.macs_after,
        "predicted_ms_before": report.predicted_ms_before,
        "predicted_ms_after": report.predicted_ms_after,
        "measured_ms_before": pruned.measured_ms_before,
        "measured_ms_after": pruned.measured_ms_after,
        "layers": [asdict(layer) for layer in report.layers],
        "unpruned": [asdict(layer) for layer in report.unpruned],
    }


def describe(pruned: "Pruned", output: Path) -> Iterator[str]:
    """Say in lines what was removed."""
    report = pruned.model.report
    yield f"{output}: {bytes_text(output.stat().st_size)}"
    yield (
        f"  parameters: {report.parameters_before:,} -> {report.parameters_after:,}, "
        f"{report.parameters_share:.1%} removed"
    )
    yield (
        f"  multiply-accumulates: {report.macs_before:,} -> {report.macs_after:,}, "
        f"{report.macs_share:.1%} removed"
    )
    if report.predicted_ms_before is not None and report.predicted_ms_after is not None:
        source = "from measured layers" if pruned.basis == "measured" else "modelled"
        yield (
            f"  predicted, {source}: {report.predicted_ms_before:.3f} -> "
            f"{report.predicted_ms_after:.3f} ms"
        )
    if pruned.measured_ms_before is not None and pruned.measured_ms_after is not None:
        yield (
            f"  measured here: {pruned.measured_ms_before:.3f} -> {pruned.measured_ms_after:.3f} ms"
        )
    changed = [one for one in report.layers if one.out_after < one.out_before]
    yield f"  outputs of {len(changed)} of {len(report.layers)} layers:"
    yield from (f"    {one.name}: {one.out_before} -> {one.out_after}" for one in changed)
    yield from (f"  {one.name}: stays whole, {one.reason}" for one in report.unpruned)

"""``deepseek-edge compile``: a model in, checked bundles out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepseek_edge.cli.output import (
    Format,
    FormatOption,
    bytes_text,
    narration,
    print_json,
    print_lines,
    warnings_told,
)
from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    from deepseek_edge.pipeline import CompileRequest, CompileResult
    from deepseek_edge.recipe import Recipe
    from deepseek_edge.report import CompileReport, ProfileReport, ProgramReport

Precision = Literal["auto", "float32", "float16", "int8", "w4a16"]
Observer = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="x.onnx, x.pt2, a Hugging Face folder, or package.module:factory."
    ),
]
TargetOption = Annotated[
    list[str], typer.Option(metavar="ID", help="What to compile for; repeat it for several.")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        help="auto: int8 where it is faster, with --calib. Default: as the graph is, float32 or "
        "quantized."
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=1,3,48,320", help="An input's shape that the model leaves open."),
]
BatchOption = Annotated[
    str, typer.Option(metavar="1,4,8", help="Batch sizes; all share one set of weights.")
]
CalibOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="Data for int8's ranges: an .npz, a data set's id or a folder."
    ),
]
SamplesOption = Annotated[
    int | None, typer.Option(metavar="N", help="How many calibration samples at most.")
]
ObserverOption = Annotated[
    Observer | None,
    typer.Option(help="How int8's ranges are taken from the data's values; default: minmax."),
]
FloatBudgetOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Of the multiply-accumulates, 0 to 1: the layers that cost most accuracy, up to this "
        "share, stay float. Default: 0.",
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Data set whose preprocessing a folder of images needs."),
]
EvalOption = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Measure accuracy on this data set (an id or .npz)."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="top1, top5, f1, map, map50 or package.module:function; default: the data set's."
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        metavar="PP",
        help="Quantize in other ways, or fail, while more percentage points of the metric are "
        "lost.",
    ),
]
RequireRunOption = Annotated[
    bool, typer.Option("--require-run", help="Refuse targets that can't be run and checked here.")
]
CpuOnlyOption = Annotated[
    bool, typer.Option("--cpu-only", help="Leave out the programs for a target's GPU.")
]
DumpOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep what is generated, for a look.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.dse",
        help="A file, a folder, or a name with {target}; default NAME-TARGET.dse here.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a page about it; measures what runs here."),
]


PruneOption = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|auto",
        help="Remove channels of a factory's module first: this share of its parameters, or as "
        "many as --latency-budget needs.",
    ),
]
LatencyBudgetOption = Annotated[
    float | None,
    typer.Option(metavar="MS", help="What a call may take on the target; implies --prune auto."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Train, prune, fine-tune and quantize as a recipe says (a file, or a name of "
        "calibration/recipes); the other options win.",
    ),
]
TuneOption = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES",
        help="Search for faster schedules on this machine; 0 uses what was found before.",
    ),
]
TuneDbOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where --tune keeps what it finds; default: your cache."),
]


def compile_command(
    model: ModelArgument,
    *,
    target: TargetOption,
    precision: PrecisionOption = None,
    shape: ShapeOption = None,
    batch: BatchOption = "1",
    calib: CalibOption = None,
    samples: SamplesOption = None,
    preprocess: PreprocessOption = None,
    observer: ObserverOption = None,
    float_budget: FloatBudgetOption = None,
    eval: EvalOption = None,
    metric: MetricOption = None,
    max_drop: MaxDropOption = None,
    prune: PruneOption = None,
    latency_budget: LatencyBudgetOption = None,
    recipe: RecipeOption = None,
    require_run: RequireRunOption = False,
    cpu_only: CpuOnlyOption = False,
    dump: DumpOption = None,
    output: OutputOption = None,
    html: HtmlOption = None,
    tune: TuneOption = None,
    tune_db: TuneDbOption = None,
    format: FormatOption = "readable",
) -> None:
    """Compile a model, run what was made, compare it with its graph, and pack it."""
    request = make_request(
        model=model,
        recipe=read_recipe(recipe, prune, latency_budget, observer, float_budget),
        targets=tuple(target),
        precision=precision,
        shapes=dict(parse_shape(text) for text in shape or []),
        batches=parse_batches(batch),
        calibration=calib,
        samples=samples,
        preprocess=preprocess,
        evaluation=eval,
        metric=metric,
        max_drop_pp=max_drop,
        require_run=require_run,
        cpu_only=cpu_only,
        dump=dump,
        output=output,
        html=html,
        tune_minutes=tune,
        tune_database=tune_db,
    )
    compile_and_show(request, format)


def make_request(**fields: Any) -> "CompileRequest":
    """A request with these fields; its class is loaded here."""
    from deepseek_edge.pipeline.plan import CompileRequest

    return CompileRequest(**fields)


def compile_and_show(request: "CompileRequest", format: Format) -> None:
    """Do what is asked for, and print what came out."""
    with narration() as narrator, warnings_told(narrator):
        from deepseek_edge.pipeline import compile_model

        result = compile_model(request, narrate=narrator.say, progress=narrator.advance)
    show(result, format)


def read_recipe(
    name_or_path: str | None,
    prune: str | None,
    budget_ms: float | None,
    observer: Observer | None,
    float_budget: float | None,
) -> "Recipe | None":
    """The recipe that is named, with what the options say instead; None if there is neither.

    Raises:
        UsageError: there is none, or it can't be understood.
    """
    from deepseek_edge.pipeline.stages import override_pruning
    from deepseek_edge.recipe import Recipe, load_recipe

    recipe = None if name_or_path is None else load_recipe(name_or_path)
    recipe = override_pruning(recipe, parse_ratio(prune), budget_ms)
    given = {"observer": observer, "float_budget": float_budget}
    options = {key: value for key, value in given.items() if value is not None}
    if not options:
        return recipe
    recipe = recipe or Recipe()
    return replace(recipe, quantize={**(recipe.quantize or {}), **options})


def parse_ratio(text: str | None) -> "float | Literal['auto'] | None":
    """Read --prune.

    Raises:
        UsageError: it is neither "auto" nor between 0 and 1.
    """
    if text is None or text == "auto":
        return "auto" if text else None
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0.0 < ratio < 1.0:
        raise UsageError(
            f"can't prune {text}", hint="--prune 0.3 removes 30 % of the parameters; or auto"
        )
    return ratio


def show(result: "CompileResult", format: Format) -> None:
    """Print what came out of a compile, as one object or as lines."""
    if format == "json":
        from deepseek_edge.report import compile_json

        print_json(compile_json(result.reports))
    else:
        print_lines(describe(result))


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read NAME=1,3,48,320; NAME= is a scalar.

    Raises:
        UsageError: it is not of this form, or a size is below 1.
    """
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = (0,)
    if not equals or not name or any(size < 1 for size in shape):
        raise UsageError(f"can't read --shape {text}", hint="--shape NAME=1,3,48,320")
    return name, shape


def parse_batches(text: str) -> tuple[int, ...]:
    """Read 1,4,8.

    Raises:
        UsageError: it is not of this form.
    """
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise UsageError(f"can't read --batch {text}", hint="--batch 1,4,8") from None


def describe(result: "CompileResult") -> Iterator[str]:
    """Say in lines what came out of a compile."""
    for chapter in result.chapters:
        if report := chapter.compiled:
            yield f"{report.target}: {report.bundle} ({bytes_text(report.size_bytes)})"
            yield from (f"  {line}" for line in _details(report, chapter.profile))
    if result.html is not None:
        yield f"report: {result.html}"


def _details(report: "CompileReport", profile: "ProfileReport | None") -> Iterator[str]:
    if report.pruned:
        from deepseek_edge.report import describe_pruned

        yield describe_pruned(report.pruned)
    for program in report.programs:
        yield from _program(program)
    if accuracy := report.accuracy:
        yield (
            f"{accuracy.metric}: {accuracy.compiled:.2f} % compiled, {accuracy.float:.2f} % float, "
            f"{accuracy.drop_pp:+.2f} pp lost ({accuracy.samples} samples, "
            f"+/- {accuracy.ci_pp:.2f} pp)"
        )
    if len(report.ladder) > 1:
        from deepseek_edge.pipeline.ladder import tabulate

        yield from (f"  {row}" for row in tabulate(report.ladder))
    yield from report.notes
    if profile is not None:
        latency = profile.latency_ms
        yield (
            f"latency here: p50 {latency.p50:.2f} ms, p99 {latency.p99:.2f} ms, "
            f"{profile.threads} threads, {latency.n} calls"
        )
        yield from (f"  doubtful: {reason}" for reason in profile.reasons)
    stages = [f"{name} {spent:.1f} s" for name, spent in report.time_s.items() if spent >= 0.05]
    yield f"time: {', '.join(stages)}"


def _program(checked: "ProgramReport") -> Iterator[str]:
    program, graph = checked.program, checked.parity_graph
    yield (
        f"{program.id}: weights {bytes_text(program.weights_bytes)}, "
        f"code {bytes_text(program.code_bytes)}, activations {bytes_text(program.arena_bytes)}"
    )
    if checked.verified is None or graph is None:
        yield "NOT RUN: check it on the device before it serves"
        return
    samples = "1 sample" if graph.samples == 1 else f"{graph.samples} samples"
    yield (
        f"verified on {checked.verified}: {samples}, largest error {graph.max_abs:.1e} of the "
        f"output range (allowed {'1e-03' if graph.max_steps is None else '2 steps of 1/255'})"
    )
    if program.precision == "int8" or program.layers.kept_float:
        yield from _integers(checked)


def _integers(checked: "ProgramReport") -> Iterator[str]:
    layers, distance = checked.program.layers, checked.parity_float
    share = "" if layers.int8_macs_share is None else f", {layers.int8_macs_share:.1%} of the work"
    yield f"{layers.int8} of {layers.total} layers int8{share}"
    yield from (f"  {kept.name}: float, {kept.reason}" for kept in layers.kept_float)
    if distance is not None:
        yield f"against the float model: SQNR {distance.sqnr_db:.1f} dB, {distance.samples} samples"

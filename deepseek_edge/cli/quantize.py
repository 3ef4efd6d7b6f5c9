"""``deepseek-edge calibrate`` and ``quantize``: ranges from data, and a Q/DQ graph from ranges."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepseek_edge.cli.compile import (
    CalibOption,
    FloatBudgetOption,
    ModelArgument,
    ObserverOption,
    PreprocessOption,
    SamplesOption,
    ShapeOption,
    parse_shape,
)
from deepseek_edge.cli.output import (
    FormatOption,
    Narrator,
    bytes_text,
    narration,
    print_json,
    print_lines,
    warnings_told,
)
from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    from deepseek_edge.datasets import Dataset
    from deepseek_edge.quantization import QuantConfig, Quantizer

Scheme = Literal["symmetric", "asymmetric"]
Rounding = Literal["nearest", "gptq"]

SchemeOption = Annotated[
    Scheme,
    typer.Option(help="symmetric: zero points are 0, as TensorRT asks for."),
]
RoundingOption = Annotated[
    Rounding, typer.Option(help="Of weights; gptq makes up for errors and needs --calib.")
]
NO_DATA = (
    "note: a table has ranges only, so weights round to nearest and biases stay uncorrected; "
    "--calib SOURCE beside --table makes up for rounding errors"
)
OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="FILE")]


def calibrate_command(
    model: ModelArgument,
    *,
    calib: Annotated[str, typer.Option(metavar="SOURCE", help="An .npz, a data set or a folder.")],
    output: OutputOption,
    samples: SamplesOption = None,
    preprocess: PreprocessOption = None,
    shape: ShapeOption = None,
    observer: ObserverOption = None,
    scheme: SchemeOption = "asymmetric",
    format: FormatOption = "readable",
) -> None:
    """Run a float model over data and write the ranges of its activations as a table."""
    with narration() as narrator, warnings_told(narrator):
        from deepseek_edge.quantization import QuantConfig, write_table

        config = QuantConfig(quant_scheme=scheme, observer=observer or "minmax")
        quantizer = prepare_quantizer(model, shape, config, narrator)
        quantizer.calibrate(calibration_data(calib, preprocess), limit=samples)
        write_table(output, quantizer.table)
    table = quantizer.table
    result = {
        "schema": 1,
        "table": str(output),
        "graph_sha256": table.graph_sha256,
        "dataset_sha256": table.dataset_sha256,
        "samples": table.samples,
        "observer": table.observer,
        "tensors": len(table.tensors),
    }
    show(
        result,
        format,
        f"{output}: {len(table.tensors)} tensors, {table.samples} samples, {table.observer}",
    )


def quantize_command(
    model: ModelArgument,
    *,
    output: OutputOption,
    table: Annotated[
        Path | None, typer.Option(metavar="TABLE.json", help="Ranges from calibrate.")
    ] = None,
    calib: CalibOption = None,
    samples: SamplesOption = None,
    preprocess: PreprocessOption = None,
    shape: ShapeOption = None,
    observer: ObserverOption = None,
    scheme: SchemeOption = "asymmetric",
    rounding: RoundingOption = "gptq",
    float_budget: FloatBudgetOption = None,
    format: FormatOption = "readable",
) -> None:
    """Write a model's Q/DQ graph: int8 activations and weights, as ONNX."""
    with narration() as narrator, warnings_told(narrator):
        check_sources(table, calib, float_budget)
        from deepseek_edge.files import write_atomic
        from deepseek_edge.quantization import QuantConfig, read_table

        config = QuantConfig(
            quant_scheme=scheme,
            observer=observer or "minmax",
            rounding=rounding,
            float_budget=float_budget or 0.0,
        )
        quantizer = prepare_quantizer(model, shape, config, narrator)
        dataset = None if calib is None else calibration_data(calib, preprocess)
        if table is not None:
            quantizer.use_table(read_table(table), dataset, limit=samples)
        elif dataset is not None:
            quantizer.calibrate(dataset, limit=samples)
        if dataset is None:
            narrator.say(NO_DATA)
        quantized = quantizer.quantize()
        data: bytes = quantized.model.SerializeToString(deterministic=True)
        write_atomic(output, data)
    result = {
        "schema": 1,
        "graph": str(output),
        "size_bytes": len(data),
        "layers_int8": len(quantized.layers),
        "kept_float": [{"name": k.name, "reason": k.reason} for k in quantized.kept_float],
    }
    line = f"{output}: {len(quantized.layers)} layers int8, {bytes_text(len(data))}"
    show(result, format, line, *(f"  {k.name}: float, {k.reason}" for k in quantized.kept_float))


def check_sources(table: Path | None, calib: str | None, float_budget: float | None) -> None:
    """Refuse to quantize without ranges, or without the data that an option needs.

    Raises:
        UsageError: what is missing.
    """
    if table is None and calib is None:
        raise UsageError(
            "INT8 needs the ranges of real activations",
            hint="give --calib SOURCE, --table TABLE.json, or both",
        )
    if calib is None and float_budget:
        raise UsageError("which layers cost accuracy shows on data", hint="add --calib SOURCE")


def prepare_quantizer(
    model: str, shape: list[str] | None, config: "QuantConfig", narrator: Narrator
) -> "Quantizer":
    """A quantizer of the model that an argument names.

    Raises:
        UsageError, ModelError, UnsupportedError: it can't be read or quantized.
    """
    from deepseek_edge.export import fix_shapes, load_model
    from deepseek_edge.quantization import Quantizer

    shapes = dict(parse_shape(text) for text in shape or [])
    return Quantizer(fix_shapes(load_model(model), shapes), config, progress=narrator.advance)


def calibration_data(calib: str, preprocess: str | None) -> "Dataset":
    """The data set that the options name.

    Raises:
        UsageError: it is for evaluation, or not to be found.
        InputError: it holds no samples.
    """
    from deepseek_edge.datasets import load_dataset

    dataset = load_dataset(calib, preprocess=preprocess)
    if dataset.split == "evaluation":
        raise UsageError(f"{dataset.id} is for evaluation", hint="give another data set to --calib")
    return dataset


def show(result: dict[str, Any], format: str, *lines: str) -> None:
    """Print a result as one object or as lines."""
    if format == "json":
        print_json(result)
    else:
        print_lines(list(lines))

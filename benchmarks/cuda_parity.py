"""Whether what a GPU computed is right: the part of ``benchmarks.cuda`` that a compile has too.

The GPU is another machine, so what is right is packed beforehand, and judged when results are
back: end to end, and programs of integer and float layers layer by layer where that can't tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import ParityError

if TYPE_CHECKING:
    import onnx

    from deepseek_edge.parity import Array, Tensors


def batch_inputs(model: onnx.ModelProto, batch: int) -> dict[str, Array]:
    """The first samples of ``deepseek_edge.parity.sample_inputs``, one behind the other."""
    import numpy as np

    from deepseek_edge.parity import graph_inputs, sample_inputs

    specs = graph_inputs(model)
    samples = [sample_inputs(model, specs, number) for number in range(batch)]
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def write_golden(model: onnx.ModelProto, batches: Sequence[int], path: Path) -> None:
    """Outputs of the graph; inputs only where cuda_row.py can't make the same from the seed."""
    import numpy as np

    from deepseek_edge.parity import Reference, graph_inputs

    reference, specs = Reference(model), graph_inputs(model)
    arrays: dict[str, Any] = {}
    for batch in batches:
        inputs = batch_inputs(model, batch)
        if len(specs) > 1 or specs[0].dtype != "float32":
            arrays |= {f"batch{batch}/in/{name}": value for name, value in inputs.items()}
        outputs = reference.run(inputs)
        arrays |= {f"batch{batch}/out/{name}": value for name, value in outputs.items()}
    np.savez_compressed(path, **arrays)


def judge(
    model: onnx.ModelProto,
    precision: str,
    batch: int,
    *,
    golden: Mapping[str, Array],
    outputs: Tensors,
    observed: Tensors,
) -> dict[str, Any]:
    """Compare the outputs with the graph's, as a compile does.

    Args:
        model: the graph that was compiled.
        precision: of the program.
        batch: of the entry.
        golden: as :func:`write_golden` wrote them.
        outputs: of the program, by name.
        observed: outputs of the program whose quantized tensors are outputs too; may be empty.
    """
    from deepseek_edge.distance import compare_float
    from deepseek_edge.parity import check_graph, measure_graph, output_steps

    prefix = f"batch{batch}/out/"
    whole = {name.removeprefix(prefix): golden[name] for name in golden if name.startswith(prefix)}
    expected = _by_sample(whole, batch)
    actual = _by_sample(outputs, batch)
    scales = output_steps(model, expected) if precision == "int8" else {}
    found = measure_graph(expected, actual, scales=scales, precision=precision)
    try:
        check_graph(expected, actual, scales=scales, precision=precision)
        verdict = "right end to end"
    except ParityError as error:
        verdict = _by_layer(error, model, batch, outputs, observed)
    noise = compare_float(expected, actual)
    return {
        "parity_graph": {
            "samples": found.samples,
            "max_steps": found.max_steps,
            "max_abs": float(f"{found.max_abs:.3g}"),
            "within": round(found.within, 6),
        },
        "verdict": verdict,
        "sqnr_db": round(min(noise.sqnr_db, 999.0), 1),  # JSON has no infinity
        "top1_agreement": noise.top1_agreement,
    }


def _by_sample(whole: Tensors, batch: int) -> list[dict[str, Array]]:
    import numpy as np

    split = {name: np.split(value, batch) for name, value in whole.items()}
    return [{name: parts[sample] for name, parts in split.items()} for sample in range(batch)]


def _by_layer(
    error: ParityError, model: onnx.ModelProto, batch: int, outputs: Tensors, observed: Tensors
) -> str:
    """The verdict on what failed end to end."""
    from deepseek_edge.pipeline.layer_parity import Call, check_layers

    if not observed:
        return str(error)
    call = Call(0, batch_inputs(model, batch), outputs)
    try:
        count = check_layers(model, lambda inputs, entry: dict(observed), [call])
    except ParityError as wrong_layer:
        return str(wrong_layer)
    return f"right layer by layer: {count} quantized tensors"

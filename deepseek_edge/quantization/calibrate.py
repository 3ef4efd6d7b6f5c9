"""Run the float graph over samples and see which values its tensors take."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import InputError, MissingToolError, ModelError
from deepseek_edge.quantization.affine import Affine, affine_from_range
from deepseek_edge.quantization.observers import (
    BINS,
    Histogram,
    Observer,
    Seen,
    needs_histogram,
    observed_range,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]
    Sample = Mapping[str, Array]

FEW_SAMPLES = 8
Progress = Callable[[int, int], None]


class FewSamplesWarning(UserWarning):
    """Ranges were taken from so few samples that others may lie outside."""


def session(model: onnx.ModelProto, *, optimize: bool) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        model: what to run.
        optimize: False runs a Q/DQ graph as it is written; onnxruntime's optimizations make its
            integer sums saturate on CPUs without VNNI.

    Raises:
        MissingToolError: onnxruntime is not installed.
        ModelError: it refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingToolError(
            "calibration runs the model in onnxruntime, which is not installed",
            hint="pip install onnxruntime",
        ) from None
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exception types share no public base
        raise ModelError(
            f"onnxruntime refuses the graph: {str(error).splitlines()[0]}",
            hint="run onnx.checker.check_model on it",
        ) from error


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are these float tensors."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        # A type without a shape: onnxruntime infers it.
        copy.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    return copy


def check_samples(model: onnx.ModelProto, samples: Sequence[Sample]) -> None:
    """Refuse data that ranges can't be taken from; warn if there are few samples.

    Raises:
        InputError: no samples, a wrong name, dtype or shape, a value that is not finite, or an
            input that has one value throughout.
    """
    import numpy as np
    from onnx import helper

    if not samples:
        raise InputError("there are no calibration samples", hint="INT8 needs data: --calib SOURCE")
    constants = {tensor.name for tensor in model.graph.initializer}
    expected = {
        value.name: (
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in model.graph.input
        if value.name not in constants
    }
    lows, highs = dict.fromkeys(expected, np.inf), dict.fromkeys(expected, -np.inf)
    for number, sample in enumerate(samples):
        _check_sample(expected, sample, number)
        for name, value in sample.items():
            lows[name] = min(lows[name], float(value.min()))
            highs[name] = max(highs[name], float(value.max()))
    for name, (shape, dtype) in expected.items():
        if lows[name] == highs[name] and dtype.kind == "f" and shape:
            raise InputError(
                f"calibration input {name!r} is {lows[name]:g} everywhere",
                hint="ranges need samples of what the model will really see",
            )
    if len(samples) < FEW_SAMPLES:
        warnings.warn(
            f"calibrated on {len(samples)} samples only: other inputs may leave their ranges",
            FewSamplesWarning,
            stacklevel=3,
        )


def _check_sample(
    expected: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], sample: Sample, number: int
) -> None:
    import numpy as np

    if set(sample) != set(expected):
        raise InputError(
            f"calibration sample {number} has {', '.join(sample) or 'no arrays'}",
            hint=f"the model's inputs are {', '.join(expected)}",
        )
    for name, value in sample.items():
        shape, dtype = expected[name]
        if value.dtype != dtype or value.shape != shape:
            raise InputError(
                f"calibration sample {number}: {name!r} is {value.dtype} {list(value.shape)}",
                hint=f"the model takes {dtype} {list(shape)}",
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InputError(
                f"calibration sample {number}: {name!r} holds NaN or infinity",
                hint="take the sample out, or mend its preprocessing",
            )


def observe(
    model: onnx.ModelProto,
    names: Sequence[str],
    samples: Sequence[Sample],
    observer: Observer,
    *,
    symmetric: bool,
    progress: Progress = lambda done, total: None,
) -> dict[str, tuple[float, float]]:
    """Run the float model over the samples, one at a time, and take each tensor's range.

    Args:
        model: prepared, float.
        names: of the tensors.
        samples: checked by ``check_samples``; each is read once or twice.
        observer: that chooses the ranges.
        symmetric: zero points are 0.
        progress: told (runs done, runs in all).

    Returns:
        (low, high) of each tensor, in the order of ``names``.

    Raises:
        InputError: a tensor becomes NaN or infinite.
    """
    passes = 2 if needs_histogram(observer) else 1
    runner = _Runner(model, names)
    lows: dict[str, list[float]] = {name: [] for name in names}
    highs: dict[str, list[float]] = {name: [] for name in names}
    for number, sample in enumerate(samples):
        for name, value in runner.run(sample).items():
            lows[name].append(float(value.min()))
            highs[name].append(float(value.max()))
        _check_finite(lows, highs, number)
        progress(number + 1, passes * len(samples))
    seen = {name: Seen(tuple(lows[name]), tuple(highs[name])) for name in names}
    counts: dict[str, Array] = {}
    if passes == 2:
        for number, sample in enumerate(samples):
            _count(runner.run(sample), seen, counts)
            progress(len(samples) + number + 1, passes * len(samples))
    return {
        name: observed_range(
            observer,
            seen[name],
            Histogram(seen[name].low, seen[name].high, counts[name]) if name in counts else None,
            symmetric=symmetric,
        )
        for name in names
    }


class _Runner:
    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        inputs = {value.name for value in model.graph.input}
        self._given = [name for name in names if name in inputs]
        self._made = [name for name in names if name not in inputs]
        self._session = session(with_outputs(model, self._made), optimize=True)

    def run(self, sample: Sample) -> dict[str, Array]:
        values = self._session.run(self._made, dict(sample)) if self._made else []
        found = {name: sample[name] for name in self._given}
        return found | dict(zip(self._made, values, strict=True))


def _check_finite(
    lows: Mapping[str, list[float]], highs: Mapping[str, list[float]], number: int
) -> None:
    import math

    for name, values in lows.items():
        if not (math.isfinite(values[-1]) and math.isfinite(highs[name][-1])):
            raise InputError(
                f"calibration sample {number} makes tensor {name!r} NaN or infinite",
                hint="the sample or the model is damaged",
            )


def _count(values: Mapping[str, Array], seen: Mapping[str, Seen], counts: dict[str, Array]) -> None:
    import numpy as np

    for name, value in values.items():
        low, high = seen[name].low, seen[name].high
        if low < high:
            found, _ = np.histogram(value, BINS, (low, high))
            counts[name] = counts.get(name, 0.0) + found.astype(np.float64)


def share_ranges(
    ranges: Mapping[str, tuple[float, float]], shared: Sequence[frozenset[str]]
) -> dict[str, tuple[float, float]]:
    """Give tensors that must be quantized alike the range that covers all of them."""
    result = dict(ranges)
    for group in shared:
        low = min(ranges[name][0] for name in group)
        high = max(ranges[name][1] for name in group)
        result.update(dict.fromkeys(group, (low, high)))
    return result


def affines(ranges: Mapping[str, tuple[float, float]], *, symmetric: bool) -> dict[str, Affine]:
    """Scale and zero point of each range."""
    return {
        name: affine_from_range(low, high, symmetric=symmetric)
        for name, (low, high) in ranges.items()
    }

"""No compile is believed: the artifact is run, and its outputs are compared.

``check_graph`` judges the artifact against onnxruntime on the same graph and fails a compile;
``compare_float`` reports how far it is from the float model and fails nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from deepseek_edge.artifacts import ParityGraph
from deepseek_edge.errors import MissingToolError, ModelError, ParityError, UnsupportedError
from deepseek_edge.integer_form import integer_form, is_quantized
from deepseek_edge.tensors import TensorSpec

Array = NDArray[Any]
Tensors = Mapping[str, Array]

FLOAT_TOLERANCE = 1e-3  # of an output's range
# Of the largest value or the range, of a program in half floats: their 11 significant bits round
# each tensor anew. ResNet-50 on an H200 has 33 dB, as onnxruntime with its tensors so rounded.
HALF_TOLERANCE = 2e-2
MAX_STEPS = 2
WITHIN_ONE_STEP = 0.999
SEED = 20261121
# A range far below the values' size is rounding noise, and 1e-3 of it is below float32's
# resolution: the tolerance never falls under 1e-6 of the largest value (8 units in last place).
LEAST_RANGE = 1e-3

# What onnxruntime says of an operator that it doesn't know: it has no code for that.
_UNKNOWN_OPERATOR = (
    "No Op registered",
    "is not a registered function/op",
    "Could not find an implementation",
)
_SAME_VALUES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class Reference:
    """onnxruntime without optimizations: the graph as it is written.

    Its default optimizations saturate int8 sums on CPUs without VNNI, so they are never used.
    """

    def __init__(self, model: onnx.ModelProto, *, as_written: bool = False) -> None:
        """Keep a graph whose shapes are fixed; it is loaded when it is first run.

        Unless it is to be run as it is written, a Q/DQ graph is run in its integer form, in
        which float32 executes it exactly.
        """
        self._model = integer_form(model) if is_quantized(model) and not as_written else model
        self._shapes = {spec.name: spec.shape for spec in graph_inputs(model)}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the graph; a larger batch than the graph's is run sample by sample.

        Args:
            inputs: by name. Each has the graph's shape, or one axis that is k times as long;
                k is the same for all of those.

        Returns:
            Outputs by name; with k > 1 they are concatenated along the same axis.

        Raises:
            MissingToolError: onnxruntime is not installed.
            UnsupportedError: onnxruntime has no implementation of an operator.
            ModelError: onnxruntime refuses the graph.
        """
        axes = {name: self._batch_axis(name, value.shape) for name, value in inputs.items()}
        axis, repeat = next((found for found in axes.values() if found is not None), (0, 1))
        names = [output.name for output in self._session.get_outputs()]
        with _onnxruntime_errors():
            parts = [
                self._session.run(None, _slice(inputs, axes, index)) for index in range(repeat)
            ]
        if repeat == 1:
            return dict(zip(names, parts[0], strict=True))
        return {
            name: np.concatenate(values, axis=axis)
            for name, values in zip(names, zip(*parts, strict=True), strict=True)
        }

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise MissingToolError(
                "onnxruntime is not installed, so nothing can be checked",
                hint="pip install onnxruntime",
            ) from None
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        with _onnxruntime_errors():
            return onnxruntime.InferenceSession(
                self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def _batch_axis(self, name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
        for axis, (one, many) in enumerate(zip(self._shapes[name], shape, strict=True)):
            if one != many:
                return axis, many // one
        return None


@contextmanager
def _onnxruntime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its exception types share no public base
        first_line = str(error).splitlines()[0]
        if any(text in first_line for text in _UNKNOWN_OPERATOR):
            raise UnsupportedError(
                f"onnxruntime can't run the graph: {first_line}",
                hint="export the model with standard ONNX operators (opset 17-20)",
            ) from error
        raise ModelError(
            f"onnxruntime refuses the graph: {first_line}",
            hint="check the model with onnx.checker.check_model(path, full_check=True)",
        ) from error


def _slice(
    inputs: Tensors, axes: Mapping[str, tuple[int, int] | None], index: int
) -> dict[str, Array]:
    parts = {}
    for name, value in inputs.items():
        found = axes[name]
        if found is None:
            parts[name] = value
        else:
            axis, repeat = found
            length = value.shape[axis] // repeat
            parts[name] = value.take(range(index * length, (index + 1) * length), axis=axis)
    return parts


def sample_inputs(
    model: onnx.ModelProto, specs: Sequence[TensorSpec], sample: int, seed: int = SEED
) -> dict[str, Array]:
    """Make inputs that every part of the graph accepts; the same numbers on every machine.

    Floats are standard normal. Integers that index a table stay inside it, masks are ones
    followed by zeros, other integers are 0 or 1.
    """
    rows = table_rows(model)
    random = np.random.default_rng([seed, sample])
    values: dict[str, Array] = {}
    for spec in specs:
        if spec.dtype.startswith("float"):
            value: Array = random.standard_normal(spec.shape)
        elif "mask" in spec.name.lower() and spec.shape:
            length = spec.shape[-1]
            kept = int(random.integers((length + 1) // 2, length + 1))
            value = np.broadcast_to(np.arange(length) < kept, spec.shape)
        else:
            small = {"int8": (-128, 128), "uint8": (0, 256)}.get(spec.dtype, (0, 2))
            low, high = (0, rows[spec.name]) if spec.name in rows else small
            value = random.integers(low, high, spec.shape)
        values[spec.name] = np.asarray(value).astype(spec.dtype)
    return values


def graph_inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What a graph with fixed shapes takes, without its initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        TensorSpec(
            value.name,
            str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in model.graph.input
        if value.name not in constants
    )


def table_rows(model: onnx.ModelProto) -> dict[str, int]:
    """Graph inputs that index a constant table (token ids), with its number of rows."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input if value.name not in shapes}
    rows: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
        elif node.op_type in _SAME_VALUES and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in origin and node.input[0] in shapes:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name = origin[node.input[1]]
            rows[name] = min(shapes[node.input[0]][axis], rows.get(name, 1 << 62))
    return rows


def output_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Quantization step of each graph output that a DequantizeLinear with one scale makes."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    scales = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in outputs:
            scale = constants.get(node.input[1])
            if scale is not None and math.prod(scale.dims) == 1:
                scales[node.output[0]] = float(numpy_helper.to_array(scale).reshape(()))
    return scales


def output_steps(model: onnx.ModelProto, reference: Sequence[Tensors]) -> dict[str, float]:
    """Quantization step of each float output of an INT8 program.

    An output that a DequantizeLinear makes has that one's scale. Any other is computed in float
    from quantized values: its step is what int8 would resolve of it, its range over 255.

    Args:
        model: the Q/DQ graph.
        reference: its outputs, one mapping a sample.
    """
    steps = output_scales(model)
    for name, value in reference[0].items():
        if value.dtype.kind == "f" and name not in steps:
            steps[name] = (
                output_range(np.concatenate([sample[name].ravel() for sample in reference])) / 255
            )
    return steps


@dataclass(frozen=True)
class _Difference:
    """One output of one sample.

    Attributes:
        relative: largest difference over the range (of the elements the reference has finite).
        steps: largest difference in quantization steps, None for a float output.
        inside: elements inside the tolerance.
        wrong: why the output fails by itself, or None.
    """

    relative: float
    steps: int | None
    inside: int
    elements: int
    wrong: str | None


def check_graph(
    reference: Sequence[Tensors],
    artifact: Sequence[Tensors],
    *,
    scales: Mapping[str, float] | None = None,
    precision: str = "float32",
) -> ParityGraph:
    """Check the artifact's outputs against its graph's, sample by sample.

    Float outputs: the largest difference is at most 1e-3 of the output's range (of a program that
    computes in half floats, 2e-2 of it or of the largest value). Quantized
    outputs (int8, uint8, or float with a step in ``scales``): at least 99.9 % within one step
    and none beyond two. Other integers and booleans: equal.

    Args:
        reference: outputs by name, one mapping a sample, of onnxruntime with ORT_DISABLE_ALL.
        artifact: the same of the artifact.
        scales: quantization step of float outputs of an int8 program (``output_scales``).
        precision: of the program.

    Raises:
        ParityError: an output is missing, has another shape, is NaN or infinite where the
            reference is not, or differs by more than the contract allows.
    """
    for name, difference in _differences(reference, artifact, scales, precision):
        if difference.wrong is not None:
            raise ParityError(
                f"parity failed: output {name!r} {difference.wrong}",
                hint="this is a defect of the compiler, not of the model: report it with the "
                "model; --dump DIR keeps what was generated",
            )
    return measure_graph(reference, artifact, scales=scales, precision=precision)


def measure_graph(
    reference: Sequence[Tensors],
    artifact: Sequence[Tensors],
    *,
    scales: Mapping[str, float] | None = None,
    precision: str = "float32",
) -> ParityGraph:
    """As :func:`check_graph`, without judging."""
    found = list(_differences(reference, artifact, scales, precision))
    steps = [difference.steps for _, difference in found if difference.steps is not None]
    elements = sum(difference.elements for _, difference in found)
    inside = sum(difference.inside for _, difference in found)
    return ParityGraph(
        samples=len(reference),
        max_steps=max(steps, default=None),
        max_abs=max((difference.relative for _, difference in found), default=0.0),
        within=inside / elements if elements else 1.0,
    )


def _differences(
    reference: Sequence[Tensors],
    artifact: Sequence[Tensors],
    scales: Mapping[str, float] | None,
    precision: str,
) -> Iterator[tuple[str, _Difference]]:
    steps = scales or {}
    for expected, actual in zip(reference, artifact, strict=True):
        for name, value in expected.items():
            if name not in actual:
                raise ParityError(f"parity failed: the artifact has no output {name!r}")
            yield name, _compare(value, actual[name], steps.get(name), precision)


def _compare(expected: Array, actual: Array, scale: float | None, precision: str) -> _Difference:
    size = int(expected.size)
    if expected.shape != actual.shape:
        wrong = f"has shape {actual.shape}, the graph says {expected.shape}"
        return _Difference(math.inf, None, 0, size, wrong)
    finite = np.isfinite(expected)
    if not np.isfinite(actual[finite]).all():
        return _Difference(math.inf, None, 0, size, "holds NaN or infinity where it should not")
    if size and not finite.any():
        return _Difference(math.inf, None, 0, size, "has no finite value in the reference")
    exact, given = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
    error = np.abs(exact - given)
    worst = float(error.max(initial=0.0))
    relative = worst / output_range(expected)
    if expected.dtype in (np.int8, np.uint8):
        scale = 1.0
    if scale is not None:
        steps = np.rint(error / scale)
        inside = int((steps <= 1).sum()) + size - exact.size
        most = int(steps.max(initial=0))
        failed = most > MAX_STEPS or inside < WITHIN_ONE_STEP * size
        wrong = f"is {most} steps off, {inside / max(size, 1):.2%} within one step"
        return _Difference(relative, most, inside, size, wrong if failed else None)
    if expected.dtype.kind != "f":
        inside = int((error == 0).sum())
        off = exact.size - inside
        wrong = f"differs in {off} of {size} integers"
        return _Difference(relative, None, inside, size, wrong if off else None)
    allowed = golden_tolerance(expected, precision)
    inside = int((error <= allowed).sum()) + size - exact.size
    share = allowed / output_range(expected)
    wrong = f"is off by {relative:.2e} of its range, {share:.0e} is allowed"
    return _Difference(relative, None, inside, size, wrong if inside < size else None)


def output_range(output: Array) -> float:
    """Max - min of the finite values, never below 1e-3 of the largest; 1 if all are zero.

    A single value has no range: its distance from zero counts. (The probability of a speech
    detector may be 1e-5, where onnxruntime's own sigmoid is right to four digits.)
    """
    finite = output[np.isfinite(output)].astype(np.float64)
    if finite.size == 0:
        return 1.0
    largest = float(np.abs(finite).max())
    spread = float(finite.max() - finite.min()) if finite.size > 1 else largest
    return max(spread, LEAST_RANGE * largest) or 1.0


def golden_tolerance(output: Array, precision: str = "float32") -> float:
    """Absolute difference that a program of a precision may show; 0 for integers."""
    if output.dtype.kind != "f":
        return 0.0
    if precision != "float16":
        return FLOAT_TOLERANCE * output_range(output)
    finite = output[np.isfinite(output)].astype(np.float64)
    return HALF_TOLERANCE * max(output_range(output), float(np.abs(finite).max(initial=0.0)))

"""Post-training quantization on one page: prepare, place, calibrate, round, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import KeptFloat
from deepseek_edge.datasets import Dataset
from deepseek_edge.digest import digest_bytes
from deepseek_edge.errors import UsageError
from deepseek_edge.quantization.affine import Affine
from deepseek_edge.quantization.calibrate import affines, check_samples, observe, share_ranges
from deepseek_edge.quantization.config import QuantConfig
from deepseek_edge.quantization.equalize import channel_factors, equalize
from deepseek_edge.quantization.graph import GraphIndex, set_initializer
from deepseek_edge.quantization.insert import QuantizedWeights, insert
from deepseek_edge.quantization.placement import Placement, place
from deepseek_edge.quantization.prepare import prepare
from deepseek_edge.quantization.reconstruct import (
    Reconstruction,
    bias_of,
    quantize_plainly,
    reconstruct,
)
from deepseek_edge.quantization.sensitivity import (
    choose_float,
    layer_macs,
    layer_sensitivity,
)
from deepseek_edge.quantization.table import (
    SCHEMA,
    CalibrationTable,
    TensorRange,
    check_table,
    dataset_digest,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import nn

    Array = np.ndarray[Any, Any]
    Sample = Mapping[str, Array]

Progress = Callable[[str, int, int], None]
# What deepseek_edge.export does; this package doesn't know it.
Export = Callable[["nn.Module"], "onnx.ModelProto"]
# Of each layer: SQNR with it alone quantized, and multiply-accumulates.
Ranking = tuple[dict[str, float], dict[str, int]]


def _silent(*_: object) -> None:
    pass


@dataclass(frozen=True)
class QuantizedModel:
    """A Q/DQ graph, and how it came to be.

    Attributes:
        model: obeys the Q/DQ contract.
        table: the ranges of the float model's activations, before equalization.
        layers: names of Conv, Gemm and MatMul nodes that compute on integers.
        kept_float: the others, with the reason.
        parts: what ``model`` was written from.
    """

    model: onnx.ModelProto
    table: CalibrationTable
    layers: tuple[str, ...]
    kept_float: tuple[KeptFloat, ...]
    parts: Parts

    def keep_float(self, reasons: Mapping[str, str]) -> QuantizedModel:
        """The same with some more layers in float; the others keep their integers.

        Args:
            reasons: by the layer's name; of a layer that is float already, the first one stays.
        """
        parts = replace(self.parts, excluded={**reasons, **self.parts.excluded})
        return write_quantized(parts, self.table)

    def keep_costly_float(
        self, samples: Sequence[Sample], budget: float, *, progress: Progress = _silent
    ) -> QuantizedModel:
        """The same with the layers in float that cost most accuracy, as with ``float_budget``.

        Args:
            samples: arrays by input name; the first four are run.
            budget: share of the multiply-accumulates, 0 to 1, that may become float.
            progress: told (stage, done, total).
        """
        parts = self.parts
        placement = place(GraphIndex(parts.model), parts.excluded)
        ranking = _rank(parts, placement, parts.rounded.weights, samples, progress)
        return self.keep_float(choose_float(*ranking, budget))

    @property
    def int8_macs_share(self) -> float:
        """Of the multiply-accumulates of all layers, those that are integer, 0 to 1."""
        names = [*self.layers, *(one.name for one in self.kept_float)]
        macs = layer_macs(GraphIndex(self.parts.model), names)
        return sum(macs[name] for name in self.layers) / max(sum(macs.values()), 1)


@dataclass(frozen=True)
class Parts:
    """What a Q/DQ graph is written from.

    Attributes:
        model: prepared and equalized, float.
        activations: of every tensor that can be quantized.
        rounded: of every layer that can compute on integers.
        excluded: layers that stay float although they could, with the reason.
    """

    model: onnx.ModelProto
    activations: Mapping[str, Affine]
    rounded: Reconstruction
    excluded: Mapping[str, str]


def write_quantized(parts: Parts, table: CalibrationTable) -> QuantizedModel:
    """Write the Q/DQ graph of these parts."""
    index = GraphIndex(parts.model)
    placement = place(index, parts.excluded)
    nodes = {node.name: node for node in index.nodes}
    weights = {name: parts.rounded.weights[name] for name in placement.layers}
    quantized = insert(parts.model, placement, parts.activations, weights)
    for layer in placement.layers:
        bias = bias_of(index, nodes[layer])
        if bias is not None and bias in parts.rounded.biases:
            set_initializer(quantized, bias, parts.rounded.biases[bias])
    return QuantizedModel(quantized, table, placement.layers, placement.kept_float, parts)


def _rank(
    parts: Parts,
    placement: Placement,
    weights: Mapping[str, QuantizedWeights],
    samples: Sequence[Sample],
    progress: Progress,
) -> Ranking:
    sensitivity = layer_sensitivity(
        parts.model,
        placement,
        parts.activations,
        weights,
        samples,
        progress=lambda done, total: progress("sensitivity", done, total),
    )
    return sensitivity, layer_macs(GraphIndex(parts.model), placement.layers)


def _graph(model: onnx.ModelProto | nn.Module, export: Export | None) -> onnx.ModelProto:
    import onnx

    if isinstance(model, onnx.ModelProto):
        return model
    if export is None:
        raise UsageError(
            f"a {type(model).__name__} doesn't tell the shapes of its inputs",
            hint="give export: lambda m: fix_shapes(export_module(m, inputs), {}), with "
            "deepseek_edge.export's fix_shapes and torch_module.export_module",
        )
    return export(model)


def load_samples(
    model: onnx.ModelProto, data: Dataset | Sequence[Sample], limit: int | None = None
) -> list[Sample]:
    """Samples for a model's inputs, in memory.

    Args:
        model: float, static shapes.
        data: a data set, or arrays by input name with the shapes that the model takes.
        limit: how many at most.

    Raises:
        UsageError: the data set doesn't fit the model's inputs.
        InputError: an image can't be read.
    """
    if not isinstance(data, Dataset):
        return list(data[:limit])
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    fitting = data.for_inputs(names)
    count = len(fitting) if limit is None else min(limit, len(fitting))
    return [fitting.sample(number) for number in range(count)]


class Quantizer:
    """Quantizes one float graph.

    ``Quantizer(model, QuantConfig()).calibrate(data).quantize().model`` is the Q/DQ graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto | nn.Module,
        config: QuantConfig | None = None,
        *,
        export: Export | None = None,
        progress: Progress = _silent,
    ) -> None:
        """Prepare a model; it is not changed.

        Args:
            model: a graph: float, static shapes, opset up to 20; or a module.
            config: defaults if None.
            export: makes such a graph of a module: it knows the shapes of the inputs.
            progress: told (stage, done, total).

        Raises:
            UsageError: a module comes without ``export``.
            ModelError: it is quantized already, or a shape is not static.
            UnsupportedError: its opset can't be converted; or as ``export``.
        """
        model = _graph(model, export)
        self.config = config or QuantConfig()
        self.graph_sha256 = digest_bytes(model.SerializeToString(deterministic=True))
        self._progress = progress
        self._model = prepare(model)
        self._table: CalibrationTable | None = None
        self._samples: list[Sample] | None = None
        self._is_given = False
        self._even: tuple[onnx.ModelProto, Mapping[str, Affine]] | None = None
        self._ranking: Ranking | None = None

    def calibrate(self, data: Dataset | Sequence[Sample], *, limit: int | None = None) -> Quantizer:
        """Take the activations' ranges from data, which rounding then uses too.

        Args:
            data: a data set, or samples: arrays by input name.
            limit: how many samples at most.

        Returns:
            This quantizer.

        Raises:
            UsageError, InputError: the data can't serve; the quantizer is as it was.
        """
        samples = load_samples(self._model, data, limit)
        check_samples(self._model, samples)
        ranges = self._ranges(self._model, samples, "calibrate")
        found = affines(ranges, symmetric=self.config.is_symmetric)
        self._table = CalibrationTable(
            schema=SCHEMA,
            graph_sha256=self.graph_sha256,
            dataset_sha256=data.sha256 if isinstance(data, Dataset) else dataset_digest(samples),
            samples=len(samples),
            observer=self.config.observer,
            tensors={
                name: TensorRange(low, high, found[name].scale, found[name].zero_point)
                for name, (low, high) in ranges.items()
            },
        )
        self._samples, self._is_given = samples, False
        self._even = self._ranking = None
        return self

    def _ranges(
        self, model: onnx.ModelProto, samples: Sequence[Sample], stage: str
    ) -> dict[str, tuple[float, float]]:
        placement = place(GraphIndex(model))
        ranges = observe(
            model,
            placement.tensors,
            samples,
            self.config.observer,
            symmetric=self.config.is_symmetric,
            progress=lambda done, total: self._progress(stage, done, total),
        )
        return share_ranges(ranges, placement.shared)

    def use_table(
        self,
        table: CalibrationTable,
        data: Dataset | Sequence[Sample] | None = None,
        *,
        limit: int | None = None,
    ) -> Quantizer:
        """Take the activations' ranges from a table of this graph.

        Channels aren't equalized then, since that would change the ranges.

        Args:
            table: of this graph.
            data: for compensated rounding and bias correction; None: weights round to nearest,
                and biases stay.
            limit: how many samples of it at most.

        Returns:
            This quantizer.

        Raises:
            UsageError: the table belongs to another graph, or its zero points don't suit the
                config; or, as InputError: the data can't serve. The quantizer is as it was.
        """
        check_table(table, self.graph_sha256, place(GraphIndex(self._model)).tensors)
        if self.config.is_symmetric and not table.is_symmetric:
            raise UsageError(
                "the calibration table has zero points, a symmetric scheme has none",
                hint="calibrate with the symmetric scheme",
            )
        samples = None if data is None else load_samples(self._model, data, limit)
        if samples is not None:
            check_samples(self._model, samples)
        self._table, self._samples, self._is_given = table, samples, True
        self._even = self._ranking = None
        return self

    @property
    def table(self) -> CalibrationTable:
        """The ranges in use.

        Raises:
            UsageError: there are none yet.
        """
        if self._table is None:
            raise UsageError(
                "INT8 needs the ranges of real activations",
                hint="give calibration data (--calib SOURCE) or a table (--table FILE)",
            )
        return self._table

    def quantize(self, *, float_budget: float | None = None) -> QuantizedModel:
        """Write the Q/DQ graph.

        Args:
            float_budget: the config's if None. Ranges and sensitivities are found once, so that
                several budgets cost little more than one.

        Raises:
            UsageError: nothing was calibrated.
        """
        table, samples = self.table, self._samples
        model, activations = self._equalized()
        budget = self.config.float_budget if float_budget is None else float_budget
        excluded = self._find_costly(budget)
        placement = place(GraphIndex(model), excluded)
        if samples is None:
            result = quantize_plainly(model, placement, activations)
        else:
            result = reconstruct(
                model,
                placement,
                activations,
                samples,
                rounding=self.config.rounding,
                progress=lambda done, total: self._progress("quantize", done, total),
            )
        return write_quantized(Parts(model, activations, result, excluded), table)

    def _equalized(self) -> tuple[onnx.ModelProto, Mapping[str, Affine]]:
        """The model to be quantized, and the integers of its activations."""
        if self._even is None:
            model, activations = self._model, self.table.affines
            if self._samples is not None and self.config.equalization and not self._is_given:
                model = equalize(model, channel_factors(model, self._samples))
                ranges = self._ranges(model, self._samples, "equalize")
                activations = affines(ranges, symmetric=self.config.is_symmetric)
            self._even = model, activations
        return self._even

    def _find_costly(self, budget: float) -> dict[str, str]:
        """Layers that a budget lets stay float, with the reason."""
        if not budget or self._samples is None:
            return {}
        if self._ranking is None:
            model, activations = self._equalized()
            placement = place(GraphIndex(model))
            plain = quantize_plainly(model, placement, activations)
            parts = Parts(model, activations, plain, {})
            self._ranking = _rank(parts, placement, plain.weights, self._samples, self._progress)
        return choose_float(*self._ranking, budget)

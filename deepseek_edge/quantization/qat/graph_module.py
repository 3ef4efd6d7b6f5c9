"""An ONNX graph as a torch module: any model that can be imported can be trained.

Nodes run one after the other as torch functions. Tensors that a placement names are read through
fake-quant, and so are the weights of its layers: the very places where the Q/DQ graph will have
its QuantizeLinear and DequantizeLinear nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepseek_edge.errors import InputError
from deepseek_edge.quantization.affine import Affine
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.placement import Placement, weight_axis
from deepseek_edge.quantization.prepare import LAYERS
from deepseek_edge.quantization.qat.batch_axes import batch_axes
from deepseek_edge.quantization.qat.elementwise import elementwise
from deepseek_edge.quantization.qat.fake_quant import ActivationQuantizer, WeightQuantizer
from deepseek_edge.quantization.qat.layers import layer
from deepseek_edge.quantization.qat.movement import movement
from deepseek_edge.quantization.qat.nodes import Node
from deepseek_edge.quantization.reconstruct import bias_of

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

# Inputs that hold values; those behind them say how, and are read beforehand.
_DATA_INPUTS = {
    **dict.fromkeys(["Clip", "Expand", "Flatten", "Pad", "Reshape", "Resize"], 1),
    **dict.fromkeys(["Slice", "Split", "Squeeze", "Tile", "Unsqueeze"], 1),
    **dict.fromkeys(["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"], 1),
    **dict.fromkeys(["ReduceProd", "ReduceSum"], 1),
}


@dataclass(frozen=True)
class Simulation:
    """What of a graph is quantized, and how.

    Attributes:
        placement: of the graph.
        activations: of each tensor of the placement.
        scales: (channels,) float32 of the weights, by layer of the placement.
    """

    placement: Placement
    activations: Mapping[str, Affine]
    scales: Mapping[str, Array]


@dataclass(frozen=True)
class _Step:
    """One node.

    Attributes:
        inputs: names; "" for one that is left out.
        quantized: places of the inputs that are read through fake-quant.
        weights: the layer whose quantizer its weights pass, or None.
        rounds_bias: the artifact adds its bias to integer sums.
        last: tensors that nobody reads afterwards.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantized: frozenset[int]
    weights: str | None
    rounds_bias: bool
    last: tuple[str, ...]


class GraphModule(nn.Module):
    """Runs a prepared graph with any number of samples.

    Weights and biases of its layers are parameters, other constants are buffers.

    Args:
        model: prepared, float, with a batch of 1.
        simulation: fake-quant; None: the float graph.

    Attributes:
        activation_quantizers: by tensor, those that share a scale share one.
        weight_quantizers: by layer.

    Raises:
        UnsupportedError: a node can't be trained; it is named.
    """

    _has_observed: Tensor

    def __init__(self, model: onnx.ModelProto, simulation: Simulation | None = None) -> None:
        super().__init__()
        index = GraphIndex(model)
        axes = batch_axes(index)
        self._inputs, self._outputs = list(index.inputs), list(index.outputs)
        self._keys: dict[str, str] = {}
        self.register_buffer("_has_observed", torch.tensor(False))
        self._add_quantizers(index, simulation)
        edges = {} if simulation is None else simulation.placement.edges
        last = _last_reads(index)
        functions = []
        self._steps: list[_Step] = []
        for number, proto in enumerate(index.nodes):
            node = Node(proto, index, axes)
            function = function_of(node)
            functions.append(function)
            count = _DATA_INPUTS.get(proto.op_type, len(proto.input))
            self._steps.append(
                _Step(
                    name=proto.name,
                    function=function,
                    inputs=tuple(proto.input[:count]),
                    outputs=tuple(name for name in proto.output if name),
                    quantized=frozenset(
                        place
                        for place, name in enumerate(proto.input[:count])
                        if (proto.name, place) in edges.get(name, ())
                    ),
                    weights=proto.name if proto.name in self.weight_quantizers else None,
                    rounds_bias=proto.op_type in ("Conv", "Gemm"),
                    last=tuple(last.get(number, ())),
                )
            )
        self.functions = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self._add_constants(index, trained_constants(index))

    def _add_quantizers(self, index: GraphIndex, simulation: Simulation | None) -> None:
        self.activation_quantizers: dict[str, ActivationQuantizer] = {}
        self.weight_quantizers: dict[str, WeightQuantizer] = {}
        if simulation is not None:
            groups = {name: group for group in simulation.placement.shared for name in group}
            for name in simulation.placement.tensors:
                of_group = [
                    self.activation_quantizers[other]
                    for other in groups.get(name, ())
                    if other in self.activation_quantizers
                ]
                elements = int(torch.Size(index.shape(name)).numel())
                self.activation_quantizers[name] = (
                    of_group[0]
                    if of_group
                    else ActivationQuantizer(simulation.activations[name], elements)
                )
            nodes = {node.name: node for node in index.nodes}
            for name in simulation.placement.layers:
                node = nodes[name]
                self.weight_quantizers[name] = WeightQuantizer(
                    torch.tensor(simulation.scales[name]),
                    index.shape(node.input[1]),
                    weight_axis(node),
                )
        self.quantizers = nn.ModuleList(
            [
                *dict.fromkeys(self.activation_quantizers.values()),
                *self.weight_quantizers.values(),
            ]
        )

    def _add_constants(self, index: GraphIndex, trained: set[str]) -> None:
        read = dict.fromkeys(name for step in self._steps for name in step.inputs)
        for name in [*read, *self._outputs]:
            if not name or not index.is_constant(name) or name in self._keys:
                continue
            # torch allows no dots in names.
            key = f"constant_{len(self._keys)}_{name.replace('.', '/')}"
            self._keys[name] = key
            value = torch.from_numpy(index.value(name).copy())
            if name in trained:
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value)

    @property
    def is_observing(self) -> bool:
        """True while activations' steps follow their ranges instead of being learned."""
        return any(q.is_observing for q in self.activation_quantizers.values())

    def start_observing(self) -> None:
        """Let steps follow ranges, unless a checkpoint says at the first pass that this is over."""
        self._set_observing(True)
        self._has_observed.fill_(False)

        def stop_if_done(*_: object) -> None:
            if bool(self._has_observed):
                self._set_observing(False)
            hook.remove()

        hook = self.register_forward_pre_hook(stop_if_done)

    def follow_ranges(self, *, is_last: bool) -> None:
        """Set the steps so that they cover the ranges that were seen.

        Args:
            is_last: steps are learned from now on.
        """
        for quantizer in dict.fromkeys(self.activation_quantizers.values()):
            quantizer.follow()
        if is_last:
            self._set_observing(False)
            self._has_observed.fill_(True)

    def _set_observing(self, value: bool) -> None:
        for quantizer in self.activation_quantizers.values():
            quantizer.is_observing = value

    def constants(self) -> dict[str, Tensor]:
        """Parameters and buffers by the names of the graph's initializers."""
        return {name: getattr(self, key) for name, key in self._keys.items()}

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph.

        Args:
            inputs: (n, ...) each, in the graph's order.

        Returns:
            The output, (n, ...); a tuple if the graph has several.

        Raises:
            InputError: another number of inputs.
        """
        if len(inputs) != len(self._inputs):
            raise InputError(
                f"{len(inputs)} inputs are given, the graph has {len(self._inputs)}",
                hint=f"they are {', '.join(self._inputs)}",
            )
        if not self.quantizers:
            return self._run(inputs)
        # bfloat16's 8 significant bits would move activations by up to half a step, as much as
        # what is to be learned; TF32's 11 by an eighth at most.
        with torch.autocast(inputs[0].device.type, enabled=False):
            return self._run(inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Any:
        values: dict[str, Tensor] = dict(zip(self._inputs, map(_as_float, inputs), strict=True))
        quantized: dict[str, Tensor] = {}
        for step in self._steps:
            arguments = [
                self._read(step, place, name, values, quantized)
                for place, name in enumerate(step.inputs)
            ]
            result = step.function(*arguments)
            results = result if isinstance(result, tuple | list) else (result,)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.last:
                values.pop(name, None)
                quantized.pop(name, None)
        found = [values[n] if n in values else self._constant(n) for n in self._outputs]
        return found[0] if len(found) == 1 else tuple(found)

    def _read(
        self,
        step: _Step,
        place: int,
        name: str,
        values: dict[str, Tensor],
        quantized: dict[str, Tensor],
    ) -> Tensor | None:
        if not name:
            return None
        if place in step.quantized:
            if name not in quantized:
                quantized[name] = self.activation_quantizers[name](values[name])
            return quantized[name]
        if name in values:
            return values[name]
        constant = self._constant(name)
        if step.weights is None:
            return constant
        if place == 1:
            weights: Tensor = self.weight_quantizers[step.weights](constant)
            return weights
        is_rounded = place == 2 and step.rounds_bias and 0 in step.quantized and not self.training
        return self._rounded_bias(step, constant) if is_rounded else constant

    def _rounded_bias(self, step: _Step, bias: Tensor) -> Tensor:
        """A bias in steps of the layer's sums, as in ``requantization``.

        While training it stays as it is: half such a step is a thousandth of an activation's, and
        rounding would take some time for each layer.
        """
        assert step.weights is not None
        scale = self.activation_quantizers[step.inputs[0]].affine.scale
        steps = self.weight_quantizers[step.weights].scales.double() * scale
        return ((bias.double() / steps).float().round().double() * steps).float()

    def _constant(self, name: str) -> Tensor:
        value: Tensor = getattr(self, self._keys[name])
        return value


def _as_float(value: Tensor) -> Tensor:
    if value.is_cuda and value.dim() == 4:  # which its tensor cores prefer
        value = value.contiguous(memory_format=torch.channels_last)
    return value.float() if value.is_floating_point() else value


def function_of(node: Node) -> Callable[..., Any]:
    """The torch function of a node's data inputs.

    Raises:
        UnsupportedError: it has none.
    """
    for find in (elementwise, layer, movement):
        function = find(node)
        if function is not None:
            return function
    raise node.refusal("the operator has no form for training")


def trained_constants(index: GraphIndex) -> set[str]:
    """Names of the weights and biases of layers."""
    found = set()
    for node in index.nodes:
        if node.op_type not in LAYERS:
            continue
        names = [*node.input[1:], bias_of(index, node)]
        found |= {n for n in names if n and index.is_constant(n) and index.is_float(n)}
    return found


def _last_reads(index: GraphIndex) -> dict[int, list[str]]:
    """Tensors by the number of the node that reads them last."""
    places = {}
    for number, node in enumerate(index.nodes):
        for name in [*node.input, *node.output]:
            places[name] = number
    found: dict[int, list[str]] = {}
    for name, number in places.items():
        if name and name not in index.outputs:
            found.setdefault(number, []).append(name)
    return found

"""Which tensors become int8: those that are written to memory, and no others.

A back end computes elementwise operators in registers right after the layer whose result they
read. Rounding between them would cost accuracy and save nothing, so a tensor is quantized at the
end of such a chain only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek_edge.artifacts import KeptFloat
from deepseek_edge.quantization.graph import GraphIndex, attribute
from deepseek_edge.quantization.prepare import LAYERS

if TYPE_CHECKING:
    import onnx

# fmt: off
ELEMENTWISE = frozenset({
    "Abs", "Add", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu",
    "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
})
POOLING = frozenset({
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceSum", "Resize", "Upsample",
})
# Values are moved, never computed: the result has the scale of what was moved.
_MOVEMENT = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "MaxPool", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
# fmt: on
_SPATIAL = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Upsample"})
_KEEPS_FEATURES = frozenset({"Concat", "Pad", "Slice", "Split"})

Edge = tuple[str, int]  # node, place among its inputs


@dataclass(frozen=True)
class Placement:
    """Where a graph is quantized.

    Attributes:
        tensors: activations to quantize, in the graph's order.
        edges: of each such tensor, the inputs of nodes that read its quantized form; others
            read the float one.
        shared: sets of tensors that must have one scale and zero point.
        layers: names of nodes that compute on integers.
        kept_float: the other Conv, Gemm and MatMul nodes, with the reason.
    """

    tensors: tuple[str, ...]
    edges: dict[str, frozenset[Edge]]
    shared: tuple[frozenset[str], ...]
    layers: tuple[str, ...]
    kept_float: tuple[KeptFloat, ...]


def place(index: GraphIndex, excluded: Mapping[str, str] | None = None) -> Placement:
    """Decide what is quantized in a prepared graph.

    Args:
        index: of a graph that ``prepare`` made.
        excluded: layers that stay float because accuracy asks for it, with the reason.

    Returns:
        The placement; the same for the same graph.
    """
    return _Placer(index, excluded or {}).place()


def weight_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weights that counts output channels.

    A ConvTranspose of several groups has its axis within a group.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1  # MatMul: (in, out); ConvTranspose: (in, out / groups, ...)


class _Placer:
    def __init__(self, index: GraphIndex, excluded: Mapping[str, str]) -> None:
        self.index = index
        self.excluded = excluded
        self.order = {id(node): place for place, node in enumerate(index.nodes)}
        self.chain: dict[int, int] = {}  # node -> the node that its chain starts with
        self.features: dict[str, bool] = {}
        self.wanted: dict[str, bool] = {}

    def place(self) -> Placement:
        self._find_chains()
        reasons = {
            node.name: self._reason(node) for node in self.index.nodes if node.op_type in LAYERS
        }
        self.layers = {name for name, reason in reasons.items() if reason is None}
        names = self._activations()
        chosen = {name for name in names if self._is_wanted(name)}
        for name in names:  # a feature map that is moved from int8 stays int8
            node = self.index.producer.get(name)
            if node is not None and self._moves(node) and self._is_feature(name):
                sources = self._sources(node)
                if sources and all(source in chosen for source in sources):
                    chosen.add(name)
        edges = {
            name: frozenset(
                (node.name, place)
                for node, place in self.index.consumers.get(name, [])
                if self._reads_quantized(node, place, name, chosen)
            )
            for name in names
            if name in chosen
        }
        edges = {name: readers for name, readers in edges.items() if readers}
        return Placement(
            tensors=tuple(edges),
            edges=edges,
            shared=self._shared(edges),
            layers=tuple(name for name in reasons if name in self.layers),
            kept_float=tuple(
                KeptFloat(name, reason) for name, reason in reasons.items() if reason is not None
            ),
        )

    def _activations(self) -> list[str]:
        made = [name for node in self.index.nodes for name in node.output if name]
        return [name for name in [*self.index.inputs, *made] if self.index.is_float(name)]

    def _reason(self, node: onnx.NodeProto) -> str | None:
        """Why a layer stays float, None if it doesn't."""
        if node.name in self.excluded:
            return self.excluded[node.name]
        return self._operand_reason(node) or self._form_reason(node)

    def _operand_reason(self, node: onnx.NodeProto) -> str | None:
        if len(node.input) < 2 or not self.index.is_constant(node.input[1]):
            return "both operands are activations"
        if self.index.is_constant(node.input[0]):
            return "its input is a constant"
        if not self.index.is_float(node.input[1]):
            return "its weights are not float32"
        return None

    def _form_reason(self, node: onnx.NodeProto) -> str | None:
        if node.op_type == "MatMul" and len(self.index.shape(node.input[1])) != 2:
            return "its weights are a batch of matrices"
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            return "its input is transposed"
        if node.op_type == "Gemm" and attribute(node, "alpha", 1.0) != 1.0:
            return "its product is scaled"
        return None

    def _find_chains(self) -> None:
        """Let each elementwise node join the chain of the operand that is made last."""
        for node in self.index.nodes:
            self.chain[id(node)] = id(node)
            if node.op_type not in ELEMENTWISE or not self.index.is_float(node.output[0]):
                continue
            shape = self.index.shape(node.output[0])
            makers = [
                maker
                for name in node.input
                if (maker := self.index.producer.get(name)) is not None
                and self.index.shape(name) == shape
                and len(maker.output) == 1
            ]
            if makers:
                last = max(makers, key=lambda n: self.order[self.chain[id(n)]])
                self.chain[id(node)] = self.chain[id(last)]

    def _is_boundary(self, name: str) -> bool:
        """True if somebody outside the chain that makes it reads the tensor."""
        maker = self.index.producer.get(name)
        if maker is None:
            return True
        chain = self.chain[id(maker)]
        return any(self.chain[id(n)] != chain for n, _ in self.index.consumers.get(name, []))

    def _is_feature(self, name: str) -> bool:
        """True for feature maps: rank 4, made by a spatial operator, more than one pixel.

        What a layer computes that was kept float is read as it is.
        """
        if name not in self.features:
            self.features[name] = self._find_feature(name)
        return self.features[name]

    def _find_feature(self, name: str) -> bool:
        maker = self.index.producer.get(name)
        shape = self.index.shape(name)
        if maker is None or len(shape) != 4 or shape[2] * shape[3] == 1:
            return False
        if maker.op_type in _SPATIAL:
            return maker.name not in self.excluded
        if maker.op_type in ELEMENTWISE or maker.op_type in _KEEPS_FEATURES:
            return any(
                self._is_feature(source)
                for source in self._sources(maker)
                if self.index.is_float(source)
            )
        return False

    def _sources(self, node: onnx.NodeProto) -> list[str]:
        """Inputs whose values end up in the node's outputs."""
        count = 1 if node.op_type in _MOVEMENT | {"Pad"} and node.op_type != "Concat" else None
        return [name for name in node.input[:count] if name and not self.index.is_constant(name)]

    def _moves(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Pad":
            return attribute(node, "mode", "constant") != "constant" or self._pads_with_zero(node)
        if node.op_type in ("Resize", "Upsample"):
            return bool(attribute(node, "mode", "nearest") == "nearest")
        if node.op_type == "Concat":
            return len(self._sources(node)) == len(node.input)
        return node.op_type in _MOVEMENT and all(self.index.is_float(n) for n in node.output if n)

    def _pads_with_zero(self, node: onnx.NodeProto) -> bool:
        if len(node.input) < 3 or not node.input[2]:
            return True
        return self.index.is_constant(node.input[2]) and not self.index.value(node.input[2]).any()

    def _is_wanted(self, name: str) -> bool:
        if name not in self.wanted:
            self.wanted[name] = False  # a graph has no cycles; this only bounds the recursion
            self.wanted[name] = self._is_boundary(name) and any(
                self._asks(node, place, name) for node, place in self.index.consumers.get(name, [])
            )
        return self.wanted[name]

    def _asks(self, node: onnx.NodeProto, place: int, name: str) -> bool:
        """True if this reader wants the tensor quantized."""
        if node.op_type in LAYERS:
            return place == 0 and node.name in self.layers
        if self._moves(node) and name in self._sources(node):
            if any(out and self._is_wanted(out) for out in node.output):
                return True
            return self._is_feature(name) and node.op_type in POOLING | _KEEPS_FEATURES
        return self._is_feature(name) and self._reads_feature(node, name)

    def _reads_feature(self, node: onnx.NodeProto, name: str) -> bool:
        if node.op_type in POOLING | _KEEPS_FEATURES:
            return True
        outside = self.chain[id(node)] != self._chain_of(name)
        return node.op_type in ELEMENTWISE and (outside or self._is_boundary(name))

    def _chain_of(self, name: str) -> int | None:
        maker = self.index.producer.get(name)
        return None if maker is None else self.chain[id(maker)]

    def _reads_quantized(
        self, node: onnx.NodeProto, place: int, name: str, chosen: set[str]
    ) -> bool:
        if self._asks(node, place, name):
            return True
        moved = self._moves(node) and name in self._sources(node)
        return moved and any(out in chosen for out in node.output)

    def _shared(self, edges: dict[str, frozenset[Edge]]) -> tuple[frozenset[str], ...]:
        """Tensors joined by nodes that move int8 to int8."""
        group = {name: {name} for name in edges}
        for node in self.index.nodes:
            if not self._moves(node):
                continue
            moved = [(name, p) for p, name in enumerate(node.input) if name in self._sources(node)]
            joined = [name for name, p in moved if (node.name, p) in edges.get(name, ())]
            joined += [name for name in node.output if name in edges]
            for name in joined[1:]:
                if group[name] is not group[joined[0]]:
                    group[joined[0]] |= group[name]
                    for member in group[name]:
                        group[member] = group[joined[0]]
        found = {id(members): frozenset(members) for members in group.values()}
        return tuple(members for members in found.values() if len(members) > 1)

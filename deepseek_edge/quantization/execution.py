"""Run a graph piece by piece, over many samples, keeping only what is still to be read.

Layers are quantized one after the other, and each must see what its quantized predecessors
really give it. Running every piece once keeps that as cheap as running the graph once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.graph import GraphIndex, set_initializer

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]


class Tape:
    """The live tensors of every sample, at one place of the graph.

    Attributes:
        samples: tensors by name, one mapping a sample.
    """

    def __init__(self, model: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> None:
        """Start before the first node.

        Args:
            model: belongs to the tape from now on, which may replace its initializers.
            samples: the graph's inputs.
        """
        self._model = model
        self._index = GraphIndex(model)
        self._nodes: dict[str, onnx.NodeProto] = {n.name: n for n in self._index.nodes}
        self._done = 0
        self.samples: list[dict[str, Array]] = [dict(sample) for sample in samples]
        outputs = {value.name for value in model.graph.output}
        self._last_read = dict.fromkeys(outputs, len(model.graph.node))
        for place, node in enumerate(model.graph.node):
            self._last_read.update(dict.fromkeys(node.input, place))

    def run_until(self, node_name: str | None) -> None:
        """Run every node before the one of this name; all that are left if None."""
        nodes = self._index.nodes
        end = self._done
        while end < len(nodes) and nodes[end].name != node_name:
            end += 1
        if end > self._done:
            self._run(nodes[self._done : end], end)
            self._done = end

    def node(self, name: str) -> onnx.NodeProto:
        """The node of this name; its inputs may be renamed before it runs."""
        return self._nodes[name]

    def set_constant(self, name: str, value: Array) -> None:
        """Replace or add an initializer, for the nodes that have not run yet."""
        set_initializer(self._model, name, value)

    def set_weights(self, node_name: str, value: Array) -> None:
        """Give a layer that has not run yet other weights, which no other node reads."""
        name = f"{node_name}/weights/simulated"
        self.set_constant(name, value)
        self.node(node_name).input[1] = name

    def values(self, name: str) -> list[Array]:
        """A tensor of each sample."""
        return [sample[name] for sample in self.samples]

    def _run(self, nodes: list[onnx.NodeProto], end: int) -> None:
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in node.input if name}
        constants = {tensor.name for tensor in self._model.graph.initializer}
        given = sorted(read - made - constants)
        kept = sorted(name for name in made if self._last_read.get(name, -1) >= end)
        piece = session(self._piece(nodes, given, kept), optimize=False)
        for sample in self.samples:
            values = piece.run(kept, {name: sample[name] for name in given})
            sample.update(zip(kept, values, strict=True))
            for name in [n for n in sample if self._last_read.get(n, -1) < end]:
                del sample[name]

    def _piece(
        self, nodes: list[onnx.NodeProto], given: Sequence[str], kept: Sequence[str]
    ) -> onnx.ModelProto:
        from onnx import helper

        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "piece",
            [self._info(name) for name in given],
            [self._info(name) for name in kept],
            [tensor for tensor in self._model.graph.initializer if tensor.name in read],
        )
        return helper.make_model(
            graph,
            opset_imports=list(self._model.opset_import),
            ir_version=self._model.ir_version,
        )

    def _info(self, name: str) -> onnx.ValueInfoProto:
        from onnx import helper

        element = self._index.element_type(name)
        return helper.make_tensor_value_info(name, element, self._index.shape(name))

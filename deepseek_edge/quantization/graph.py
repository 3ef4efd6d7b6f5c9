"""An ONNX graph with static shapes, indexed for reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]


# Elements of a constant that may say a shape.
_SMALL = 1024


class GraphIndex:
    """Who makes and who reads each tensor, its shape and its value if it is constant.

    Attributes:
        nodes: in the graph's order, which is topological.
        inputs, outputs: of the graph, without initializers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index a model; it must not change while the index is used.

        Raises:
            ModelError: a float tensor has no static shape.
        """
        graph = _with_shapes(model)
        self.nodes = list(model.graph.node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [v.name for v in model.graph.input if v.name not in self._tensors]
        self.outputs = [value.name for value in graph.output]
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            for place, name in enumerate(node.input):
                if name:
                    self.consumers.setdefault(name, []).append((node, place))
        self._types = {
            value.name: value.type.tensor_type
            for value in [*graph.input, *graph.value_info, *graph.output]
        }
        self._values: dict[str, Array] = {}

    def is_constant(self, name: str) -> bool:
        """True for initializers."""
        return name in self._tensors

    def value(self, name: str) -> Array:
        """The initializer of this name; not to be written to."""
        from onnx import numpy_helper

        if name not in self._values:
            self._values[name] = numpy_helper.to_array(self._tensors[name])
        return self._values[name]

    def is_float(self, name: str) -> bool:
        """True for float32 activations and initializers."""
        import onnx

        if name in self._tensors:
            return bool(self._tensors[name].data_type == onnx.TensorProto.FLOAT)
        return name in self._types and self._types[name].elem_type == onnx.TensorProto.FLOAT

    def element_type(self, name: str) -> int:
        """The TensorProto code of an activation's dtype."""
        return int(self._types[name].elem_type)

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a tensor.

        Raises:
            ModelError: it is not known.
        """
        if name in self._tensors:
            return tuple(self._tensors[name].dims)
        if name in self._types and self._types[name].HasField("shape"):
            dims = self._types[name].shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                return tuple(dim.dim_value for dim in dims)
        raise ModelError(
            f"the shape of tensor {name!r} is not static",
            hint="fix the model's input shapes first: --shape NAME=1,3,224,224",
        )

    def sole_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, None if there are more or it is a graph output."""
        readers = {id(node): node for node, _ in self.consumers.get(name, [])}
        if len(readers) != 1 or name in self.outputs:
            return None
        return next(iter(readers.values()))


def _with_shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with its tensors' shapes; large constants, which would be copied, are inputs."""
    import math

    import onnx
    from onnx import helper

    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    graph = model.graph
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(graph, field))
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return onnx.shape_inference.infer_shapes(light, data_prop=True).graph


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default; strings as str, lists as list."""
    from onnx import helper

    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            if isinstance(value, bytes):
                return value.decode()
            return list(value) if isinstance(value, Iterable) else value
    return default


def set_initializer(model: onnx.ModelProto, name: str, value: Array) -> None:
    """Replace the initializer of this name, or add it."""
    import numpy as np
    from onnx import numpy_helper

    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for old in model.graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)

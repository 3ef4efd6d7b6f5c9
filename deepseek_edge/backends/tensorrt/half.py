"""A float graph in float16: what strongly typed TensorRT wants instead of a flag.

Inputs and outputs stay float32. So do operators whose results easily leave the range of float16
(6e-8 to 65504), and shapes and scales that operators want in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

# Their results grow with the square or the exponential of what goes in, or with its number.
KEPT_FLOAT32 = frozenset(
    {
        *("Pow", "Exp", "Log", "CumSum"),
        *("ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp"),
        # ONNX has no float16 form of these.
        *("Range", "NonMaxSuppression"),
    }
)
# They stay float32 behind those, up to the division that brings results back into range: what
# LayerNorm, Softmax and Softplus are made of.
_FOLLOWERS = frozenset({"Add", "ReduceMean", "Sqrt", "Div", "Reciprocal"})
_ENDS = frozenset({"Div", "Reciprocal", "Log"})
# Inputs that ONNX wants in float32 whatever the data are, by place.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul")


def to_float16(
    model: onnx.ModelProto,
    *,
    kept: Collection[str] = KEPT_FLOAT32,
    kept_nodes: Collection[str] = (),
    is_quantized: bool = False,
) -> onnx.ModelProto:
    """Convert a float32 graph; constants beyond 65504, such as masks, become 65504.

    Args:
        model: float, static shapes, no control flow; not changed.
        kept: operators that stay float32.
        kept_nodes: names of nodes that stay float32.
        is_quantized: take a Q/DQ graph too (opset 19), whose scales become float16.

    Returns:
        A graph of the same names, whose inputs and outputs are float32.

    Raises:
        UnsupportedError: it is quantized, or has subgraphs or functions; the node is named.
    """
    import onnx

    if model.functions:
        raise UnsupportedError(
            "a graph with functions isn't converted to float16", hint="inline them first"
        )
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    typed = {value.name for value in [*inferred.graph.value_info, *inferred.graph.output]}
    for node in inferred.graph.node:
        _check(node, typed, is_quantized)
    return _Conversion(inferred, frozenset(kept), frozenset(kept_nodes)).run()


def _check(node: onnx.NodeProto, typed: set[str], is_quantized: bool) -> None:
    where = f"{node.op_type} (node {node.name!r})"
    if node.op_type in _QUANTIZED and not is_quantized:
        raise UnsupportedError(
            f"{where}: a quantized graph isn't converted to float16", hint="give the float model"
        )
    if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        raise UnsupportedError(
            f"{where} has a subgraph, which isn't converted to float16",
            hint="export the model without control flow",
        )
    unknown = sorted(name for name in node.output if name and name not in typed)
    if unknown:
        raise UnsupportedError(
            f"{where}: the type of its output {unknown[0]!r} isn't known",
            hint="export the model with ONNX's own operators",
        )


class _Conversion:
    """One pass over the nodes; each float tensor may exist in both types, made when first read."""

    def __init__(
        self, model: onnx.ModelProto, kept: frozenset[str], kept_nodes: frozenset[str]
    ) -> None:
        import onnx

        self.model, self.kept, self.kept_nodes = model, kept, kept_nodes
        graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        values = [*graph.input, *graph.value_info, *graph.output]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == 1}
        self.floats |= {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        # name -> its float32 or float16 tensor, under the name it has in the new graph.
        inputs = [value for value in graph.input if value.name not in self.constants]
        graph.ClearField("input")
        graph.input.extend(inputs)
        self.float32: dict[str, str] = {v.name: v.name for v in inputs if v.name in self.floats}
        self.float16: dict[str, str] = {}
        self.large: set[str] = set()  # may be beyond the range of float16
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def run(self) -> onnx.ModelProto:
        import onnx

        outputs = {value.name for value in self.model.graph.output}
        for node in self.model.graph.node:
            self._convert(node, outputs)
        for name in outputs & self.floats:
            self._cast(name, name, self.float16, onnx.TensorProto.FLOAT, name in self.float32)
        graph = self.model.graph
        for tensor in graph.initializer:
            if tensor.name not in self.floats:
                self.initializers[tensor.name] = tensor
        constants = [onnx.TensorProto.FromString(t.SerializeToString()) for t in self._used()]
        for field, values in (("node", self.nodes), ("initializer", constants), ("value_info", [])):
            graph.ClearField(field)
            getattr(graph, field).extend(values)
        return self.model

    def _used(self) -> list[onnx.TensorProto]:
        read = {name for node in self.nodes for name in node.input}
        read |= {value.name for value in self.model.graph.output}
        return [tensor for name, tensor in self.initializers.items() if name in read]

    def _convert(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        import onnx

        new = onnx.NodeProto.FromString(node.SerializeToString())
        is_kept = node.op_type in self.kept or node.name in self.kept_nodes
        if node.op_type in _FOLLOWERS and self.large.intersection(node.input):
            is_kept = True
        is_cast = node.op_type == "Cast"
        for place, name in enumerate(node.input):
            if name not in self.floats:
                continue
            # A cast takes what there is.
            wants32 = is_kept or place in _FLOAT32_INPUTS.get(node.op_type, ())
            if is_cast and name in self.float32 and name not in self.float16:
                wants32 = True
            new.input[place] = self._read(name, wants32)
        if not is_kept:
            _retype_attributes(new)
        for place, name in enumerate(node.output):
            if name in self.floats:
                made = self.float32 if is_kept else self.float16
                # An output's own name is kept for its float32 form.
                made[name] = name if is_kept or name not in outputs else f"{name}/float16"
                new.output[place] = made[name]
        if is_kept and node.op_type not in _ENDS:
            self.large.update(node.output)
        self.nodes.append(new)

    def _read(self, name: str, as_float32: bool) -> str:
        """The tensor in the type that is wanted, converted if it isn't there yet."""
        import onnx

        made, other = self.float32, self.float16
        wanted, suffix = onnx.TensorProto.FLOAT, "float32"
        if not as_float32:
            made, other = other, made
            wanted, suffix = onnx.TensorProto.FLOAT16, "float16"
        if name in made:
            return made[name]
        if name in self.constants:
            made[name] = self._constant(name, as_float32)
        else:
            made[name] = f"{name}/{suffix}"
            self._cast(name, made[name], other, wanted, False)
        return made[name]

    def _constant(self, name: str, as_float32: bool) -> str:
        from onnx import numpy_helper

        value = numpy_helper.to_array(self.constants[name])
        new = f"{name}/float32" if as_float32 else name
        array = value if as_float32 else _half(value)
        self.initializers[new] = numpy_helper.from_array(array, new)
        return new

    def _cast(self, name: str, new: str, source: dict[str, str], to: int, is_made: bool) -> None:
        from onnx import helper

        if not is_made:
            cast = helper.make_node("Cast", [source[name]], [new], name=f"{new}/cast", to=to)
            self.nodes.append(cast)


def _half(value: Array) -> Array:
    import numpy as np

    most = float(np.finfo(np.float16).max)
    halved: Array = np.clip(value, -most, most).astype(np.float16)
    return halved


def _retype_attributes(node: onnx.NodeProto) -> None:
    """Types and values that a node states itself: Cast, Constant, ConstantOfShape."""
    import onnx
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        elif attribute.type == attribute.TENSOR and attribute.t.data_type == 1:
            value = _half(numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            _float_constant(node, attribute)


def _float_constant(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    values = attribute.floats if attribute.name == "value_floats" else attribute.f
    tensor = numpy_helper.from_array(_half(np.asarray(values, np.float32)))
    node.ClearField("attribute")
    node.attribute.append(helper.make_attribute("value", tensor))

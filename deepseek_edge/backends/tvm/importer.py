"""ONNX -> Graph: static shapes, constants folded, branches with known conditions taken.

Each node is visited once, in order. If all its inputs are constant it is evaluated by onnx's
reference evaluator; otherwise its output types are inferred from its input types, so that by
the end of the walk every shape is a number. Subgraphs of ``If`` are walked in place when the
condition is constant.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from deepseek_edge.backends.tvm.graph import Graph, Node, Value, constant
from deepseek_edge.backends.tvm.operators import ONNX, unsupported
from deepseek_edge.errors import ModelError, UnsupportedError
from deepseek_edge.tensors import DTYPE_CODES

MAX_RANK = 8  # DSE_MAX_RANK

# What depends on more than its inputs must not be folded away.
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def import_onnx(model: onnx.ModelProto) -> Graph:
    """Import a checked model whose inputs have static shapes.

    Raises:
        ModelError: an input's shape isn't static, or shape inference contradicts the graph.
        UnsupportedError: a domain, dtype, control flow or shape that depends on data.
    """
    walk = _Walk(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_graph_input(info) for info in model.graph.input if info.name not in weights]
    for tensor in model.graph.initializer:
        walk.values[tensor.name] = constant(tensor.name, numpy_helper.to_array(tensor))
    walk.values.update({value.name: value for value in inputs})
    walk.run(model.graph)
    names = [info.name for info in model.graph.output]
    for name in names:
        _check_output(name, walk.values[name])
    graph = Graph(inputs, [walk.values[name] for name in names], walk.nodes)
    graph.remove_dead()
    return graph


def _graph_input(info: onnx.ValueInfoProto) -> Value:
    dtype, shape = _type_of(info.name, info.type)
    if shape is None:
        raise ModelError(
            f"the shape of input {info.name!r} is not static",
            hint=f"give it with --shape {info.name}=1,3,224,224",
        )
    if 0 in shape or len(shape) > MAX_RANK:
        raise UnsupportedError(
            f"input {info.name!r} has shape {list(shape)}",
            hint=f"every dimension must be positive, and there may be at most {MAX_RANK}",
        )
    return Value(info.name, dtype, shape)


def _check_output(name: str, value: Value) -> None:
    if len(value.shape) > MAX_RANK or value.elements == 0 or value.dtype not in DTYPE_CODES:
        raise UnsupportedError(
            f"output {name!r} has shape {list(value.shape)} and dtype {value.dtype}",
            hint=f"it needs elements, at most {MAX_RANK} dimensions, and one of "
            f"{', '.join(DTYPE_CODES)}",
        )


def _type_of(name: str, proto: onnx.TypeProto) -> tuple[str, tuple[int, ...] | None]:
    """Dtype and, if every dimension is known, shape."""
    tensor = proto.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else ""
    if dtype == "float64":
        raise UnsupportedError(
            f"tensor {name!r} is float64", hint="export the model in float32 (model.float())"
        )
    if dtype not in DTYPE_CODES:
        raise UnsupportedError(f"tensor {name!r} has dtype {dtype or 'unknown'}")
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return dtype, None
    return dtype, tuple(d.dim_value for d in tensor.shape.dim)


class _Walk:
    """The state of one import: values by name, and the nodes kept so far."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.opset_imports = list(model.opset_import)
        self.ir_version = model.ir_version
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def run(self, graph: onnx.GraphProto) -> None:
        for index, proto in enumerate(graph.node):
            name = proto.name or f"{proto.op_type}_{index}"
            if proto.domain not in ("", "ai.onnx"):
                raise UnsupportedError(
                    f"operator {proto.domain}.{proto.op_type} (node {name!r}) is not ONNX's own",
                    hint="export the model with standard ONNX operators (opset 17-20)",
                )
            self._node(proto, name)

    def _node(self, proto: onnx.NodeProto, name: str) -> None:
        inputs = [self.values[key] if key else None for key in proto.input]
        if proto.op_type == "If":
            self._if(proto, name, inputs[0])
        elif proto.op_type == "Dropout":
            self._dropout(proto, name, inputs)
        elif proto.op_type in ("Loop", "Scan"):
            raise UnsupportedError(
                f"operator {proto.op_type} (node {name!r}) is not supported",
                hint="unroll it at export, or compile the loop's body as a model of its own",
            )
        elif proto.op_type in ("Shape", "Size") or (
            # Constants behind DequantizeLinear are a layer's integer weights.
            proto.op_type not in _RANDOM | {"DequantizeLinear"}
            and all(v is None or v.data is not None for v in inputs)
        ):
            self._fold(proto, name, inputs)
        else:
            self._keep(proto, name, inputs)

    def _if(self, proto: onnx.NodeProto, name: str, condition: Value | None) -> None:
        if condition is None or condition.data is None:
            raise UnsupportedError(
                f"the branch of If (node {name!r}) depends on data",
                hint="compile each branch as a model of its own",
            )
        taken = "then_branch" if bool(condition.data.reshape(-1)[0]) else "else_branch"
        branch = next(a.g for a in proto.attribute if a.name == taken)
        for tensor in branch.initializer:
            self.values[tensor.name] = constant(tensor.name, numpy_helper.to_array(tensor))
        self.run(branch)
        for outer, inner in zip(proto.output, branch.output, strict=True):
            self.values[outer] = self.values[inner.name]

    def _dropout(self, proto: onnx.NodeProto, name: str, inputs: list[Value | None]) -> None:
        """Does nothing at inference; its mask is all true."""
        training = inputs[2] if len(inputs) > 2 else None
        if training is not None and (training.data is None or bool(training.data)):
            raise UnsupportedError(
                f"Dropout (node {name!r}) is in training mode", hint="export the model in eval mode"
            )
        x = self.values[proto.input[0]]
        self.values[proto.output[0]] = x
        for key in proto.output[1:]:
            self.values[key] = constant(key, np.ones(x.shape, bool))

    def _fold(self, proto: onnx.NodeProto, name: str, inputs: list[Value | None]) -> None:
        """Evaluate a node whose inputs (or, for Shape, whose input's shape) are known."""
        feeds = {
            key: value.data if value.data is not None else np.zeros(value.shape, value.dtype)
            for key, value in zip(proto.input, inputs, strict=True)
            if value is not None
        }
        typed = [
            helper.make_tensor_value_info(
                key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for key, array in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(key) for key in proto.output if key]
        graph = helper.make_graph([proto], "constant", typed, outputs)
        model = helper.make_model(graph, opset_imports=self.opset_imports)
        try:
            results = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:  # whatever numpy or onnx raise for a broken node
            raise UnsupportedError(
                f"operator {proto.op_type} (node {name!r}) can't be evaluated on its constant "
                f"inputs: {str(error).strip().splitlines()[0] if str(error) else repr(error)}"
            ) from error
        for key, result in zip((k for k in proto.output if k), results, strict=True):
            array = np.asarray(result)
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            self.values[key] = constant(key, array)

    def _keep(self, proto: onnx.NodeProto, name: str, inputs: list[Value | None]) -> None:
        types = {
            key: _proto_of(value)
            for key, value in zip(proto.input, inputs, strict=True)
            if value is not None
        }
        data = {
            key: numpy_helper.from_array(value.data)
            for key, value in zip(proto.input, inputs, strict=True)
            if value is not None and value.data is not None
        }
        if proto.op_type not in ONNX:
            raise unsupported(proto.op_type, name)
        try:
            schema = onnx.defs.get_schema(proto.op_type, self.opsets.get("", 1), "")
            inferred = shape_inference.infer_node_outputs(
                schema, proto, types, data, None, self.opset_imports, self.ir_version
            )
        except (
            onnx.defs.SchemaError,
            shape_inference.InferenceError,
            onnx.checker.ValidationError,
        ) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"node {name!r} ({proto.op_type}): {first}") from error
        attrs = {a.name: _attribute(a) for a in proto.attribute}
        if attrs.get("ceil_mode") and inputs[0] is not None:
            for inferred_type in inferred.values():
                _drop_empty_windows(inferred_type, inputs[0].shape, attrs)
        outputs = [self._output(key, name, proto.op_type, inferred) for key in proto.output]
        attrs["opset"] = self.opsets.get("", 1)
        self.nodes.append(Node(proto.op_type, inputs, outputs, attrs, name))

    def _output(self, key: str, name: str, op: str, inferred: dict[str, onnx.TypeProto]) -> Value:
        if not key:
            return Value("", "float32", ())
        if key not in inferred:
            raise UnsupportedError(
                f"the type of {key!r}, an output of {op} (node {name!r}), can't be inferred"
            )
        dtype, shape = _type_of(f"{key}, an output of {op} (node {name})", inferred[key])
        if shape is not None and 0 in shape:
            raise UnsupportedError(
                f"{key!r}, an output of {op} (node {name!r}), has no elements: shape {list(shape)}"
            )
        if shape is None:
            raise UnsupportedError(
                f"the shape of {key!r}, an output of {op} (node {name!r}), depends on data",
                hint="only shapes that follow from the inputs' shapes can be compiled",
            )
        self.values[key] = Value(key, dtype, shape)
        return self.values[key]


def _drop_empty_windows(out: onnx.TypeProto, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """Without the last window of an axis if it starts behind the image, as onnxruntime has it."""
    spatial = len(shape) - 2
    strides, pads = attrs.get("strides") or [1] * spatial, attrs.get("pads") or [0] * spatial
    for axis in range(spatial):
        dim = out.tensor_type.shape.dim[2 + axis]
        if (dim.dim_value - 1) * strides[axis] >= shape[2 + axis] + pads[axis]:
            dim.dim_value -= 1


def _proto_of(value: Value) -> onnx.TypeProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_type_proto(kind, value.shape)


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value

"""Compute at once what does not depend on the inputs' values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Larger results than this stay as computed: folding an Expand could make a file of gigabytes.
_MAX_ELEMENTS = 1 << 24
_NOT_CONSTANT = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}
_NOT_CONSTANT |= {"Bernoulli", "Multinomial", "Dropout", "If", "Loop", "Scan"}
# Their constant inputs are weights in integers; computed, they would be floats again.
_NOT_CONSTANT |= {"DequantizeLinear"}


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace constant nodes, and those with constant inputs only, by initializers.

    ``Shape`` of a tensor whose shape inference knows counts as constant, and an ``If`` with a
    constant condition is replaced by its branch. Stale shapes of inner tensors are dropped and
    inferred anew.

    Args:
        model: with static input shapes; changed.

    Returns:
        The folded model, with shapes of inner tensors and outputs where they can be inferred.

    Raises:
        ModelError: the shapes in the graph contradict each other.
    """
    for value in model.graph.output:
        # Exporters leave symbols here that no longer hold once the inputs are fixed.
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    while True:
        model = _infer_shapes(model)
        if not _fold_once(model):
            break
        del model.graph.value_info[:]
    _check_reshapes(model.graph)
    _drop_unused(model.graph)
    return model


def _check_reshapes(graph: onnx.GraphProto) -> None:
    """Refuse what inference lets pass: a fixed batch in a Reshape, the usual exporter's slip."""
    shapes = _static_shapes(graph)
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or {node.input[0], node.output[0]} - set(shapes):
            continue
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        if math.prod(before) != math.prod(after):
            raise ModelError(
                f"the model's shapes contradict each other: {node.name or node.output[0]} turns "
                f"{before} into {after}",
                hint="check --shape, or export the model with this batch size",
            )


def _infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1]
        if "No Op registered" in reason or "No opset" in reason:
            # Whether a back end knows the operator is for it to say, with the node's name.
            return shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        raise ModelError(
            f"the model's shapes contradict each other: {reason}",
            hint="check --shape, or export the model with this batch size",
        ) from error


def _fold_once(model: onnx.ModelProto) -> bool:
    """Fold what can be seen now; True if anything was."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = _static_shapes(graph)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in constants:
            nodes.extend(_inlined_branch(graph, node, constants[node.input[0]]))
        elif (values := _values(model, node, constants, shapes)) is not None:
            for name, value in zip(node.output, values, strict=True):
                constants[name] = numpy_helper.from_array(value, name)
                graph.initializer.append(constants[name])
        else:
            nodes.append(node)
            continue
        changed = True
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _values(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    shapes: dict[str, tuple[int, ...]],
) -> list[np.ndarray[Any, Any]] | None:
    """What the node computes, or None where that depends on inputs or is too large."""
    import numpy as np

    if node.op_type == "Shape" and node.input[0] in shapes:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        dims = shapes[node.input[0]][attributes.get("start", 0) : attributes.get("end")]
        return [np.array(dims, np.int64)]
    if node.op_type in _NOT_CONSTANT or node.domain not in {"", "ai.onnx"}:
        return None
    inputs = [name for name in node.input if name]
    if not all(name in constants for name in inputs):
        return None
    sizes = [math.prod(shapes[name]) for name in node.output if name in shapes]
    if len(sizes) < len(node.output) or sum(sizes) > _MAX_ELEMENTS:
        return None
    return _evaluate(model, node, [constants[name] for name in dict.fromkeys(inputs)])


def _evaluate(
    model: onnx.ModelProto, node: onnx.NodeProto, inputs: list[onnx.TensorProto]
) -> list[np.ndarray[Any, Any]]:
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", [], outputs, inputs)
    single = helper.make_model(graph, opset_imports=model.opset_import)
    single.ir_version = model.ir_version
    return [np.asarray(value) for value in ReferenceEvaluator(single).run(None, {})]


def _inlined_branch(
    graph: onnx.GraphProto, node: onnx.NodeProto, condition: onnx.TensorProto
) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    taken = "then_branch" if numpy_helper.to_array(condition).item() else "else_branch"
    branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
    graph.initializer.extend(branch.initializer)
    renames = [
        helper.make_node("Identity", [value.name], [name])
        for value, name in zip(branch.output, node.output, strict=True)
    ]
    return [*branch.node, *renames]


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {value.name for value in graph.output} | set(_read_names(graph))
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _read_names(subgraph)
                yield from (value.name for value in subgraph.output)

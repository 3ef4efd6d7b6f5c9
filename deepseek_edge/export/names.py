"""Names for the nodes of exported graphs, as a reader of the torch module knows them."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_nodes_by_module(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node "module.path/Operator" and drop what names this machine's files.

    torch's exporter numbers its nodes and keeps stack traces in their metadata, so that the same
    model would give other bytes in another folder.

    Args:
        model: from torch's exporter; changed.

    Returns:
        ``model``.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        # A convolution that swallowed its batch normalization has the latter's scope; its
        # weight still has its own.
        weights = [name for name in node.input[1:2] if name in initializers and "." in name]
        path = weights[0].rpartition(".")[0] if weights else _module_path(node)
        name = f"{path}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
    _clear_metadata(model)
    return model


def _module_path(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            # ['', 'features', 'features.0', 'conv2d']: the last is the call itself.
            scopes: list[str] = ast.literal_eval(entry.value)
            inner = [scope for scope in scopes[:-1] if not scope.startswith("_")]
            return inner[-1] if inner else ""
    return ""


def _clear_metadata(model: onnx.ModelProto) -> None:
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for item in [*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        item.ClearField("doc_string")
        del item.metadata_props[:]

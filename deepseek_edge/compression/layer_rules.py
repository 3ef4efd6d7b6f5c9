"""How channels pass layers with weights: convolutions, products, normalizations, attention.

Each rule ties what can only go together, pins what can't go, and returns the output's labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from deepseek_edge.compression.channels import Ids, fixed
from deepseek_edge.compression.flow import (
    Call,
    Flow,
    Labels,
    Layer,
    Rule,
    read_call,
    unlabelled,
)
from deepseek_edge.compression.shapes import LayerOp, LayerShape

if TYPE_CHECKING:
    from torch._ops import OpOverloadPacket

_ALL_COUNT = "it is computed from all of these channels at once"


def convolution(flow: Flow, call: Call) -> Labels:
    """(n, in, ...) with weights (out, in / groups, ...) to (n, out, ...)."""
    x, weight, groups = flow.of(call["input"]), flow.of(call["weight"]), call["groups"]
    axis = len(x) - len(weight) + 1  # 0 of one sample without a batch
    flow.pin(call, x, range(axis + 1, len(x)), "a window slides over them")
    if groups == 1:
        flow.tie(call, x[axis], weight[1])
    else:
        _tie_groups(flow, call, groups, x[axis], weight[0])
    outputs = weight[0]
    _add_layer(flow, call, outputs, axes=(0, 1), shape=_shape(call, "conv", axis))
    return (*x[:axis], outputs, *(fixed(size) for size in call.shape[axis + 1 :]))


def transposed_convolution(flow: Flow, call: Call) -> Labels:
    """(n, in, ...) with weights (in, out / groups, ...) to (n, out, ...)."""
    x, weight, groups = flow.of(call["input"]), flow.of(call["weight"]), call["groups"]
    axis = len(x) - len(weight) + 1
    flow.pin(call, x, range(axis + 1, len(x)), "a window slides over them")
    flow.tie(call, x[axis], weight[0])
    outputs = weight[1]
    if groups > 1:
        _tie_groups(flow, call, groups, weight[0])
        outputs = np.repeat(weight[0].reshape(groups, -1)[:, 0], len(weight[1]))
    shape = _shape(call, "conv_transpose", axis)
    # Of groups, whole ones go: with them their inputs, which the weights have by row.
    _add_layer(flow, call, outputs, axes=(1 if groups == 1 else 0, 0), shape=shape)
    return (*x[:axis], outputs, *(fixed(size) for size in call.shape[axis + 1 :]))


def linear(flow: Flow, call: Call) -> Labels:
    """(..., in) with weights (out, in) to (..., out)."""
    x, weight = flow.of(call["input"]), flow.of(call["weight"])
    flow.tie(call, x[-1], weight[1])
    sizes = tuple(call["input"].meta["val"].shape)
    shape = LayerShape(
        "linear",
        in_channels=sizes[-1],
        out_channels=call.shape[-1],
        size=(int(np.prod(sizes[1:-1])),),
        batch=sizes[0] if len(sizes) > 1 else 1,
    )
    _add_layer(flow, call, weight[0], axes=(0, 1), shape=shape)
    return (*x[:-1], weight[0])


def embedding(flow: Flow, call: Call) -> Labels:
    """Indices (...) and a table (entries, width) to (..., width)."""
    weight = flow.of(call["weight"])
    flow.pin(call, weight, (0,), "any entry may be looked up")
    _add_layer(flow, call, weight[1], axes=(1, 0), shape=None)
    return (*flow.of(call["indices"]), weight[1])


def batch_norm(flow: Flow, call: Call) -> Labels:
    """Batch or instance normalization: each channel for itself."""
    x = flow.of(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(call.get(name), Node):
            flow.tie(call, x[1], flow.of(call[name])[0])
    return x


def group_norm(flow: Flow, call: Call) -> Labels:
    """Means over groups of channels: whole groups go."""
    x = flow.of(call["input"])
    groups = call["num_groups"]
    _tie_groups(flow, call, groups, x[1])
    for name in ("weight", "bias"):
        if isinstance(call.get(name), Node):
            flow.tie(call, x[1], flow.of(call[name])[0])
    return x


def layer_norm(flow: Flow, call: Call) -> Labels:
    """A mean over the last axes."""
    x = flow.of(call["input"])
    count = len(call["normalized_shape"])
    flow.pin(call, x, range(len(x) - count, len(x)), _ALL_COUNT)
    for name in ("weight", "bias"):
        if isinstance(call.get(name), Node):
            labels = flow.of(call[name])
            flow.pin(call, labels, range(len(labels)), _ALL_COUNT)
    return x


def prelu(flow: Flow, call: Call) -> Labels:
    """A slope for each channel, or one for all."""
    x, slopes = flow.of(call["self"]), flow.of(call["weight"])
    if len(x) > 1 and slopes and len(slopes[0]) == len(x[1]):
        flow.tie(call, x[1], slopes[0])
    return x


def matmul(flow: Flow, call: Call) -> Labels | list[Labels]:
    """(..., n, k) times (..., k, m) to (..., n, m): what is summed over goes together."""
    left, right = (flow.of(call.node.args[index]) for index in (0, 1))
    if min(len(left), len(right)) < 2:
        return pin_all(flow, call)
    flow.tie(call, left[-1], right[-2])
    batch = align(flow, call, [left[:-2], right[:-2]])
    return (*batch, left[-2], right[-1])


def attention(flow: Flow, call: Call) -> Labels | list[Labels]:
    """Queries, keys (..., n, d) and values (..., m, e) to (..., n, e)."""
    query, key, value = (flow.of(call[name]) for name in ("query", "key", "value"))
    if call["enable_gqa"] or call["attn_mask"] is not None:
        return pin_all(flow, call)
    flow.tie(call, query[-1], key[-1])
    flow.tie(call, key[-2], value[-2])
    flow.pin(call, key, (len(key) - 2,), _ALL_COUNT)
    if call["scale"] is None:
        flow.pin(call, query, (len(query) - 1,), "their number scales the scores")
    batch = align(flow, call, [query[:-2], key[:-2], value[:-2]])
    return (*batch, query[-2], value[-1])


def align(flow: Flow, call: Call, operands: list[Labels]) -> Labels:
    """Tie operands along axes that broadcast, aligned at the last."""
    result = []
    for back in range(1, max(map(len, operands)) + 1):
        axes = [labels[-back] for labels in operands if len(labels) >= back]
        size = max(map(len, axes))
        # What is repeated along an axis doesn't care how often.
        axes = [ids for ids in axes if len(ids) == size]
        for ids in axes[1:]:
            flow.tie(call, axes[0], ids)
        result.append(axes[0])
    return tuple(reversed(result))


def pin_all(flow: Flow, call: Call) -> Labels | list[Labels]:
    """What is not known here keeps all channels of its arguments."""
    for node in call.node.all_input_nodes:
        labels = flow.labels[node]
        for one in labels if isinstance(labels, list) else [labels]:
            flow.pin(call, one, range(len(one)), "an operation that pruning doesn't know")
    return unlabelled(call.node.meta.get("val"))


def _tie_groups(flow: Flow, call: Call, groups: int, *axes: Ids) -> None:
    """Tie the channels of each group, of all axes: whole groups go."""
    anchors = axes[0].reshape(groups, -1)[:, :1]
    for ids in axes:
        blocks = ids.reshape(groups, -1)
        flow.tie(call, blocks, np.broadcast_to(anchors, blocks.shape))


def _add_layer(
    flow: Flow, call: Call, outputs: Ids, *, axes: tuple[int, int], shape: LayerShape | None
) -> None:
    """Tie the bias, and note the layer; ``axes`` of its weights are those of outputs and inputs."""
    if isinstance(call.get("bias"), Node):
        flow.tie(call, outputs, flow.of(call["bias"])[0])
    weight = flow.parameters.get(call["weight"])
    if weight is None:
        flow.channels.pin(outputs, f"its weights are computed (at {call.place})")
        return
    layer = Layer(
        name=weight.rpartition(".")[0] or weight,
        op=call.op,
        weight=weight,
        out_axis=axes[0],
        in_axis=axes[1],
        shape=shape,
        norm=_norm(flow, call),
    )
    flow.layers.append(layer)


def _norm(flow: Flow, call: Call) -> tuple[str, str, float] | None:
    users = list(call.node.users)
    if len(users) != 1 or users[0].target is not torch.ops.aten.batch_norm.default:
        return None
    norm = read_call(users[0])
    weight, variance = (flow.parameters.get(norm[name]) for name in ("weight", "running_var"))
    if weight is None or variance is None:
        return None
    return weight, variance, norm["eps"]


def _shape(call: Call, op: LayerOp, axis: int) -> LayerShape:
    """Read a convolution's shape; ``axis`` is that of the channels."""
    sizes = tuple(call["input"].meta["val"].shape)
    kernel = tuple(call["weight"].meta["val"].shape[2:])
    dilation = _each(call["dilation"], kernel)
    padding = call["padding"]
    if isinstance(padding, str):  # "same" pads an odd one at the end only
        spread = zip(kernel, dilation, strict=True)
        padding = [(k - 1) * d // 2 if padding == "same" else 0 for k, d in spread]
    return LayerShape(
        op,
        in_channels=sizes[axis],
        out_channels=call.shape[axis],
        groups=call["groups"],
        kernel=kernel,
        stride=_each(call["stride"], kernel),
        padding=_each(padding, kernel),
        dilation=dilation,
        size=sizes[axis + 1 :],
        batch=sizes[0] if axis else 1,
    )


def _each(value: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """One number an axis; torch takes a single one for all."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers if len(numbers) == len(kernel) else numbers * len(kernel))


def rules() -> dict[OpOverloadPacket, Rule]:
    """The rules of this module by operation."""
    aten = torch.ops.aten
    return {
        aten.conv1d: convolution,
        aten.conv2d: convolution,
        aten.conv3d: convolution,
        aten.conv_transpose1d: transposed_convolution,
        aten.conv_transpose2d: transposed_convolution,
        aten.conv_transpose3d: transposed_convolution,
        aten.linear: linear,
        aten.embedding: embedding,
        aten.batch_norm: batch_norm,
        aten.instance_norm: batch_norm,
        aten.group_norm: group_norm,
        aten.layer_norm: layer_norm,
        aten.prelu: prelu,
        aten.matmul: matmul,
        aten.mm: matmul,
        aten.bmm: matmul,
        aten.scaled_dot_product_attention: attention,
    }

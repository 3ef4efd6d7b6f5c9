"""Quantization-aware training: what post-training quantization made, trained and written again.

Placement, zero points and the form of the graph stay; weights, biases and steps are learned. The
steps that were trained are those that are written, so that each layer computes the same integers
in the artifact as in training, except where a number lies exactly between two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from torch import nn

from deepseek_edge.errors import UsageError
from deepseek_edge.quantization.affine import WEIGHT_MAX, quantize_weights
from deepseek_edge.quantization.graph import GraphIndex, set_initializer
from deepseek_edge.quantization.insert import QuantizedWeights
from deepseek_edge.quantization.placement import place, weight_axis
from deepseek_edge.quantization.qat.graph_module import (
    GraphModule,
    Simulation,
    trained_constants,
)
from deepseek_edge.quantization.quantizer import Parts, QuantizedModel, write_quantized
from deepseek_edge.quantization.reconstruct import Reconstruction, least_scales
from deepseek_edge.training import TrainConfig, TrainingData, distill, train

if TYPE_CHECKING:
    from deepseek_edge.training.config import Loss

    Array = np.ndarray[Any, Any]

Progress = Callable[[str, int, int], None]

# How far from the middle of its step a weight may start: it must not round to the next one.
_WITHIN_STEP = 0.49


def _silent(*_: object) -> None:
    pass


def fine_tune(
    quantized: QuantizedModel,
    data: TrainingData,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    observe_epochs: float = 0.0,
    compiled: bool = False,
    checkpoint: Path | None = None,
    progress: Progress = _silent,
) -> QuantizedModel:
    """Train a quantized model's weights, biases and steps; it starts as it is.

    Args:
        quantized: of one input; not changed.
        data: what its input is trained on.
        config: AdamW with 1e-4, or SGD with a hundredth of the float model's rate, is usual;
            ``precision`` doesn't reach the quantized model, which is float32 (TF32 on GPUs).
        teacher: from inputs to logits, whose soft answers are learned; None: the float graph.
        loss: what is made small instead of the distance to the teacher.
        observe_epochs: passes in the beginning during which the activations' steps follow a
            moving average of their ranges instead of being learned.
        compiled: ``torch.compile`` fuses what lies between the layers; that takes a while at the
            start, and a C compiler.
        checkpoint: as in ``training.train``.
        progress: told (stage, done, total).

    Returns:
        A Q/DQ graph of the same structure; ``parts.model`` holds the trained float weights.

    Raises:
        UsageError: nothing is quantized, both a teacher and a loss, a negative time.
        UnsupportedError: a node can't be trained; it is named.
        UsageError, TrainingError, OutputError: as ``training.train``.
    """
    _check(teacher, loss, observe_epochs)
    module = to_module(quantized)
    if observe_epochs > 0:
        module.start_observing()
    if compiled:
        module.compile()
    if loss is None:
        loss = distill(GraphModule(quantized.parts.model) if teacher is None else teacher)
    end = observe_epochs / config.epochs
    follow = partial(_follow_ranges, module, end)
    train(module, data, config, loss=loss, checkpoint=checkpoint, on_step=follow, progress=progress)
    return from_module(quantized, module)


def _check(teacher: nn.Module | None, loss: Loss | None, observe_epochs: float) -> None:
    if teacher is not None and loss is not None:
        raise UsageError("a loss leaves the teacher nothing to do", hint="give one of them")
    if observe_epochs < 0:
        raise UsageError(f"observe_epochs is {observe_epochs}", hint="a number from 0")


def _follow_ranges(module: GraphModule, end: float, done: int, total: int) -> None:
    """After a step: ranges are followed until a share ``end`` of all steps is done."""
    if module.is_observing:
        module.follow_ranges(is_last=done >= end * total)


def to_module(quantized: QuantizedModel) -> GraphModule:
    """The quantized model with fake-quant, to be trained.

    Weights are the float ones, each moved into the step that quantization rounded it to: so the
    module computes what the Q/DQ graph does, and knows which way each weight leans.

    Args:
        quantized: not changed.

    Raises:
        UsageError: nothing is quantized.
        UnsupportedError: a node can't be trained; it is named.
    """
    if not quantized.layers:
        raise UsageError(
            "no layer of the model is quantized: there is nothing to train",
            hint="quantized.kept_float says why",
        )
    parts = quantized.parts
    index = GraphIndex(parts.model)
    placement = place(index, parts.excluded)
    rounded = parts.rounded
    scales = {name: rounded.weights[name].scales for name in placement.layers}
    start = onnx.ModelProto()
    start.CopyFrom(parts.model)
    nodes = {node.name: node for node in index.nodes}
    for name in placement.layers:
        node = nodes[name]
        weights = _within_steps(
            index.value(node.input[1]), rounded.weights[name], weight_axis(node)
        )
        set_initializer(start, node.input[1], weights)
    for bias, value in rounded.biases.items():
        set_initializer(start, bias, value)
    return GraphModule(start, Simulation(placement, parts.activations, scales))


def from_module(quantized: QuantizedModel, module: GraphModule) -> QuantizedModel:
    """The Q/DQ graph of what was trained.

    Args:
        quantized: that the module was made of.
        module: on the CPU.
    """
    parts = quantized.parts
    model = onnx.ModelProto()
    model.CopyFrom(parts.model)
    before = GraphIndex(parts.model)
    constants = module.constants()
    for name in sorted(trained_constants(before) & set(constants)):
        set_initializer(model, name, constants[name].detach().contiguous().numpy())
    index = GraphIndex(model)
    affines = {name: q.affine for name, q in module.activation_quantizers.items()}
    activations = {**parts.activations, **affines}
    nodes = {node.name: node for node in index.nodes}
    weights = {}
    for name, quantizer in module.weight_quantizers.items():
        node = nodes[name]
        scales = quantizer.scales.numpy()
        if node.op_type != "ConvTranspose":  # whose bias stays float
            scales = np.maximum(scales, least_scales(index, node, activations).astype(np.float32))
        weights[name] = _rounded(index.value(node.input[1]), scales, weight_axis(node))
    trained = Parts(model, activations, Reconstruction(weights, {}), parts.excluded)
    return write_quantized(trained, quantized.table)


def _within_steps(weights: Array, rounded: QuantizedWeights, axis: int) -> Array:
    spread = rounded.scales.reshape([-1 if place == axis else 1 for place in range(weights.ndim)])
    steps = rounded.values.astype(np.float32)
    low = np.maximum(steps - _WITHIN_STEP, -WEIGHT_MAX) * spread
    high = np.minimum(steps + _WITHIN_STEP, WEIGHT_MAX) * spread
    found: Array = np.clip(weights, low, high).astype(np.float32)
    return found


def _rounded(weights: Array, scales: Array, axis: int) -> QuantizedWeights:
    moved = quantize_weights(np.moveaxis(weights, axis, 0), scales)
    return QuantizedWeights(np.ascontiguousarray(np.moveaxis(moved, 0, axis)), scales)

"""The onnx package's graphs without weights, filled with seeded ones.

They are old exports (opset 9) of well-known networks whose weights are ``ConstantOfShape``
nodes: good for import coverage, meaningless in accuracy.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
# Position of an operator's input -> what it means, for inputs that are not plain weights.
BATCH_NORMALIZATION = {1: "scale", 2: "shift", 3: "shift", 4: "scale"}


def graph_path(name: str) -> Path:
    """The file of a graph in the installed onnx package."""
    spec = importlib.util.find_spec("onnx")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / f"backend/test/data/light/light_{name}.onnx"


def filled_graph(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """The graph with each ``ConstantOfShape`` weight replaced by a seeded initializer.

    Args:
        name: one of ``NAMES``.
        seed: of numpy's generator.

    Returns:
        A model whose weights keep activations at a size of about 1.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph_path(name))
    graph = model.graph
    generator = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = _roles(graph)
    weights = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in weights:
        shape = tuple(int(size) for size in shapes[node.input[0]])
        value = _draw(generator, shape, roles.get(node.output[0], "weight"))
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        graph.node.remove(node)
    used = {tensor for node in graph.node for tensor in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.input if value.name not in used]:
        graph.input.remove(value)
    # Before version 4 every initializer had to be an input too.
    model.ir_version = 8
    return model


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each tensor is to its consumers, seen through Unsqueeze."""
    roles: dict[str, str] = {}
    for node in reversed(graph.node):
        for index, name in enumerate(node.input):
            if node.op_type == "BatchNormalization":
                is_residual = index == 1 and roles.get(node.output[0]) == "residual"
                usual = BATCH_NORMALIZATION.get(index, "weight")
                roles[name] = "small scale" if is_residual else usual
            elif node.op_type in {"Conv", "Gemm"}:
                is_last = roles.get(node.output[0]) == "softmax"
                weight = "classifier" if is_last and node.op_type == "Gemm" else "weight"
                roles[name] = "shift" if index == 2 else weight
            elif node.op_type in {"Softmax", "Sum"}:
                roles[name] = {"Softmax": "softmax", "Sum": "residual"}[node.op_type]
            elif node.op_type == "Mul":
                roles[name] = "scale"
            elif node.op_type == "Add":
                roles[name] = "shift"
            elif node.op_type == "Unsqueeze":
                roles[name] = roles.get(node.output[0], "weight")
    return roles


def _draw(generator: np.random.Generator, shape: tuple[int, ...], role: str) -> np.ndarray:
    import numpy as np

    if role == "scale":
        return generator.uniform(0.8, 1.2, shape).astype(np.float32)
    if role == "small scale":
        # Sixteen residual additions at full scale would grow to hundreds.
        return generator.uniform(0.2, 0.4, shape).astype(np.float32)
    if role == "shift":
        return generator.normal(0.0, 0.05, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    # float32 noise: VGG19 has 143 million weights.
    noise = generator.standard_normal(shape, dtype=np.float32)
    # A classifier's gain is smaller, lest its softmax answers 0 and 1 and hides every error.
    gain = 0.01 if role == "classifier" else 2.0
    noise *= np.float32((gain / fan_in) ** 0.5)
    return noise

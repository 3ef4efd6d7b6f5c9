"""A Q/DQ graph written so that float arithmetic executes it exactly.

In a Q/DQ graph as it stands a layer multiplies dequantized numbers, so float32 rounds every
product and sum, and a result near a rounding tie may fall on either side. Each such flip is
amplified by the layers behind it, and two right executions end up as far apart as the
quantization noise itself. With the scales moved behind the layer,

    DQ(x, s_x), DQ(w, s_w) -> Conv + b -> Relu -> Q(s_y)
    (x - z), w -> Conv -> Add round(b / (s_x s_w)) -> Mul s_x s_w / s_y -> Relu -> Q(1)

    DQ(x, s_x), DQ(w, s_w) -> Conv + b -> Add r -> Q(s_y)
    (x - z), w -> Conv -> Add round(b / (s_x s_w)) -> Mul s_x s_w -> Add r -> Mul 1/s_y -> Q(1)

the layer sums integers, which float32 holds exactly below 2**24, and what remains are the few
roundings that the Q/DQ contract (design section 4) names. This is the form in which
onnxruntime is the reference for int8 programs.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from deepseek_edge.requantization import (
    Array,
    Bounds,
    in_steps,
    requantization,
    up_to_quantization,
)

if TYPE_CHECKING:
    import onnx

# Weights' axis of output channels.
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}

# Their scale can be applied to the result.
_MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")


def is_quantized(model: "onnx.ModelProto") -> bool:
    """True if the graph has QuantizeLinear or DequantizeLinear nodes."""
    return any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node)


def integer_form(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same model with scales moved behind its quantized layers; inputs and outputs stay.

    Nodes that are not of the contract's form are left as they are.
    """
    import onnx

    rewriter = _Rewriter(model)
    nodes = [new for node in model.graph.node for new in rewriter.rewrite(node)]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(rewriter.added)
    return result


class _Rewriter:
    def __init__(self, model: "onnx.ModelProto") -> None:
        from onnx import numpy_helper

        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.results = {value.name for value in model.graph.output}
        # Nodes behind a layer that counts in their quantization's steps, by output name.
        self.step_sizes: dict[str, float] = {}
        self.added: list[Any] = []

    def rewrite(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        if node.op_type == "QuantizeLinear" and node.input[0] not in self.constants:
            return self._quantize(node)
        if node.op_type == "Clip" and node.output[0] in self.step_sizes:
            return [self._clip(node)]
        if node.op_type in _OUTPUT_AXIS:
            return self._product(node) or self._layer(node) or [node]
        if node.op_type in _MEANS:
            return self._mean(node) or [node]
        return [node]

    def constant(self, data: Any) -> str:
        from onnx import numpy_helper

        name = f"integer_form/{len(self.added)}"
        self.added.append(numpy_helper.from_array(data, name))
        return name

    def _quantize(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        import numpy as np
        from onnx import helper

        scale = self.constants.get(node.input[1])
        if scale is None or scale.size != 1:
            return [node]
        one = self.constant(np.ones(scale.shape, np.float32))
        name = f"{node.output[0]}/scaled"
        nodes = []
        if node.output[0] in self.step_sizes:
            name = node.input[0]
        else:
            inverse = np.float32(1.0 / scale.astype(np.float64).reshape(()))
            factor = self.constant(np.asarray(inverse))
            nodes = [helper.make_node("Mul", [node.input[0], factor], [name])]
        inputs = [name, one, *node.input[2:]]
        return [
            *nodes,
            helper.make_node("QuantizeLinear", inputs, list(node.output), name=node.name),
        ]

    def _clip(self, node: "onnx.NodeProto") -> "onnx.NodeProto":
        import numpy as np
        from onnx import helper

        bounds = self._bounds(node)
        assert bounds is not None
        steps = (np.float32(in_steps(b, self.step_sizes[node.output[0]])) for b in bounds)
        inputs = [node.input[0], *(self.constant(np.asarray(bound)) for bound in steps)]
        return helper.make_node("Clip", inputs, list(node.output), name=node.name)

    def _bounds(self, node: "onnx.NodeProto") -> Bounds | None:
        """What a Relu or Clip with constant bounds keeps its input between."""
        if node.op_type == "Relu":
            return 0.0, float("inf")
        if node.op_type != "Clip" or node.attribute:
            return None
        bounds = [float("-inf"), float("inf")]
        for place, name in enumerate(node.input[1:]):
            if name:
                if name not in self.constants:
                    return None
                bounds[place] = float(self.constants[name].reshape(()))
        return bounds[0], bounds[1]

    def _step_size(self, node: "onnx.NodeProto") -> float | None:
        """Of the quantization behind a layer, if only bounds stand between; marks those nodes."""
        if node.op_type == "ConvTranspose":
            return None

        def reader(node: "onnx.NodeProto") -> "onnx.NodeProto | None":
            readers = self.readers[node.output[0]]
            return readers[0] if len(readers) == 1 and node.output[0] not in self.results else None

        def is_quantization(node: "onnx.NodeProto") -> bool:
            scale = self.constants.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
            return scale is not None and scale.size == 1

        nodes = up_to_quantization(node, reader, self._bounds, is_quantization)
        if nodes is None:
            return None
        size = float(self.constants[nodes[-1].input[1]].reshape(()))
        self.step_sizes.update({behind.output[0]: size for behind in nodes})
        return size

    def _layer(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto] | None":
        import numpy as np
        from onnx import helper

        data, weights = (self.producers.get(name) for name in node.input[:2])
        if not self._is_dequantize(data) or not self._is_dequantize(weights) or _scales(node):
            return None
        assert data is not None and weights is not None
        integers = self.constants.get(weights.input[0])
        x_scale, w_scale = (self.constants[n.input[1]] for n in (data, weights))
        if integers is None or x_scale.size != 1 or self._zero_point(weights):
            return None
        axis = 0 if _transposes(node) else _OUTPUT_AXIS[node.op_type]
        if not _is_a_channel(node, weights, integers, w_scale, axis):
            return None
        biased = len(node.input) > 2 and bool(node.input[2])
        bias = self.constants.get(node.input[2]) if biased else None
        if biased and (bias is None or bias.size != (bias.shape or (1,))[-1]):
            return None
        # A transposed one is compiled to a matrix product and an addition.
        foldable = node.op_type != "ConvTranspose"
        channels, folded = integers.shape[axis], bias if foldable else None
        behind = requantization(
            float(x_scale.reshape(())),
            np.broadcast_to(w_scale.reshape(-1), (channels,)),
            None if folded is None else np.broadcast_to(folded.reshape(-1), (channels,)),
            products=integers.size // channels,
            y_scale=self._step_size(node),
        )
        shape = (1, -1, *[1] * (integers.ndim - 2)) if "Conv" in node.op_type else (-1,)
        one = self.constant(np.ones(x_scale.shape, np.float32))
        prefix = node.output[0]
        centred, total = f"{prefix}/centred", f"{prefix}/sum"
        layer = helper.make_node(
            node.op_type, [centred, self.constant(integers.astype(np.float32))], [total]
        )
        layer.attribute.extend(node.attribute)
        nodes = [
            helper.make_node("DequantizeLinear", [data.input[0], one, *data.input[2:]], [centred]),
            layer,
        ]
        offset = behind.offset if foldable else bias
        # The groups of a transposed one share their scales.
        factor = behind.factor if foldable else np.tile(behind.factor, _groups(node))
        rows = [("Add", behind.bias), ("Mul", factor), ("Add", offset)]
        for op, row in rows:
            if row is not None:
                self._append_row(nodes, op, row.reshape(shape), f"{prefix}/{len(nodes)}")
        nodes[-1].output[0] = prefix
        return nodes

    def _append_row(self, nodes: "list[onnx.NodeProto]", op: str, row: Array, out: str) -> None:
        """An operator on the last node's result and one number a channel."""
        from onnx import helper

        table = self.constant(row.astype("float32"))
        nodes.append(helper.make_node(op, [nodes[-1].output[0], table], [out]))

    def _product(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto] | None":
        """MatMul of two dequantized activations: scaled once, behind the sum."""
        import numpy as np
        from onnx import helper

        operands = [self.producers.get(name) for name in node.input[:2]]
        found = [n for n in operands if n is not None and self._is_dequantize(n)]
        scales = [self.constants[n.input[1]] for n in found]
        constant = any(n.input[0] in self.constants for n in found)
        if (
            node.op_type != "MatMul"
            or len(found) < 2
            or constant
            or any(s.size > 1 for s in scales)
        ):
            return None
        scale = float(scales[0].reshape(())) * float(scales[1].reshape(()))
        prefix = node.output[0]
        centred = [f"{prefix}/centred{place}" for place in range(2)]
        nodes = []
        for operand, name in zip(found, centred, strict=True):
            one = self.constant(np.ones(self.constants[operand.input[1]].shape, np.float32))
            inputs = [operand.input[0], one, *operand.input[2:]]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name]))
        factor = self.constant(np.asarray(scale, np.float32))
        nodes.append(helper.make_node("MatMul", centred, [f"{prefix}/sum"]))
        nodes.append(helper.make_node("Mul", [f"{prefix}/sum", factor], [prefix]))
        return nodes

    def _mean(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto] | None":
        import numpy as np
        from onnx import helper

        data = self.producers.get(node.input[0])
        if not self._is_dequantize(data):
            return None
        assert data is not None
        scale = self.constants[data.input[1]]
        one = self.constant(np.ones(scale.shape, np.float32))
        prefix = node.output[0]
        mean = helper.make_node(
            node.op_type, [f"{prefix}/centred", *node.input[1:]], [f"{prefix}/mean"]
        )
        mean.attribute.extend(node.attribute)
        return [
            helper.make_node(
                "DequantizeLinear", [data.input[0], one, *data.input[2:]], [f"{prefix}/centred"]
            ),
            mean,
            helper.make_node("Mul", [f"{prefix}/mean", data.input[1]], [prefix]),
        ]

    def _is_dequantize(self, node: "onnx.NodeProto | None") -> bool:
        return (
            node is not None
            and node.op_type == "DequantizeLinear"
            and node.input[1] in self.constants
        )

    def _zero_point(self, node: "onnx.NodeProto") -> bool:
        points = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return points is not None and bool(points.any())


def _scales(node: "onnx.NodeProto") -> bool:
    """True for a Gemm that scales its product or its bias, or transposes its input."""
    neutral = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return any(
        (a.i if a.name == "transA" else a.f) != neutral[a.name]
        for a in node.attribute
        if node.op_type == "Gemm" and a.name in neutral
    )


def _is_a_channel(
    node: "onnx.NodeProto", weights: "onnx.NodeProto", integers: Array, scales: Array, axis: int
) -> bool:
    """True if the layer's weights have one scale in all, or one for each output channel."""
    if node.op_type == "MatMul" and integers.ndim != 2:
        return False
    given = next((a.i for a in weights.attribute if a.name == "axis"), 1)
    return scales.size == 1 or given % integers.ndim == axis


def _groups(node: "onnx.NodeProto") -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _transposes(node: "onnx.NodeProto") -> bool:
    """True for a Gemm whose weights are (out, in)."""
    return any(a.name == "transB" and a.i for a in node.attribute)

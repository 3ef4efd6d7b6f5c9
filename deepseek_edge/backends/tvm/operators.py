"""Which operators are computed element by element, and so can be fused with a neighbour."""

from deepseek_edge.backends.tvm.graph import Node

UNARY = {
    "Abs",
    "Ceil",
    "Cast",
    "Clip",
    "Copy",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tanh",
    "ThresholdedRelu",
    "DequantizeLinear",
    "QuantizeLinear",
    "IsNaN",
    "Celu",
    "Expand",
}
BINARY = {
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "PRelu",
    "Sub",
    "Sum",
    "Xor",
    "Where",
}


def is_elementwise(node: Node) -> bool:
    """True if each output element depends on the (broadcast) input elements at its place."""
    return node.op in UNARY or node.op in BINARY

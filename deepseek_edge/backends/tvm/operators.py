"""Which operators of ONNX are compiled, for which dtypes, and how they behave in the passes.

``ONNX`` is what the importer lets in; docs/operators.md says it in prose. Simplification writes
some of them out in others, so that schedules see fewer.
"""

from deepseek_edge.backends.tvm.graph import Node
from deepseek_edge.errors import UnsupportedError

FLOAT = frozenset({"float32"})
NUMBER = FLOAT | {"int8", "uint8", "int16", "int32", "int64"}
LOGIC = frozenset({"bool"})
ANY = NUMBER | LOGIC

# Computed element by element: operator -> dtypes of its input (the second of Where).
ELEMENTWISE: dict[str, frozenset[str]] = {
    **dict.fromkeys(["And", "Not", "Or", "Xor"], LOGIC),
    **dict.fromkeys(["Cast", "Copy", "Expand", "Where"], ANY | {"float16"}),
    "Equal": ANY,
    **dict.fromkeys(["DequantizeLinear", "QuantizeLinear"], NUMBER),
    **dict.fromkeys(
        ["Abs", "Add", "Clip", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], NUMBER
    ),
    **dict.fromkeys(["Max", "Min", "Mod", "Mul", "Neg", "Pow", "Relu", "Sign", "Sub"], NUMBER),
    **dict.fromkeys(["Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu"], FLOAT),
    **dict.fromkeys(["HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log"], FLOAT),
    **dict.fromkeys(["Mish", "PRelu", "Reciprocal", "Round", "Selu", "Sigmoid", "Sin"], FLOAT),
    **dict.fromkeys(["Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"], FLOAT),
}

# With a schedule of its own: operator -> dtypes of its first input.
ANCHORS: dict[str, frozenset[str]] = {
    **dict.fromkeys(["Concat", "Gather", "Pad", "Slice", "Transpose"], ANY | {"float16"}),
    **dict.fromkeys(["ArgMax", "ArgMin", "MaxPool"], NUMBER),
    **dict.fromkeys(["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"], NUMBER),
    **dict.fromkeys(["AveragePool", "Conv", "ConvTranspose", "LRN", "LayerNormalization"], FLOAT),
    **dict.fromkeys(["LogSoftmax", "MatMul", "Softmax"], FLOAT),
    **dict.fromkeys(["IntegerConv", "IntegerMatMul"], NUMBER),
    "Resize": NUMBER,
}

# Written out in other operators, or taken away, before anything is scheduled.
REWRITTEN = frozenset(
    [
        "BatchNormalization",
        "CastLike",
        "CumSum",
        "DepthToSpace",
        "Dropout",
        "Einsum",
        "Flatten",
        "GRU",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "If",
        "InstanceNormalization",
        "LSTM",
        "Mean",
        "RNN",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
        "Reshape",
        "Shape",
        "Size",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Sum",
        "Tile",
        "Trilu",
        "Unsqueeze",
        "Upsample",
    ]
)

_OURS = {"Copy", "IntegerConv", "IntegerMatMul"}  # no operators of ONNX
ONNX = frozenset(set(ELEMENTWISE) | set(ANCHORS) | REWRITTEN) - _OURS

# Products that an integer MatMul of two activations may sum: a task packs the second on its stack,
# 128 KiB at most.
LONGEST_PRODUCT = 1024


def is_elementwise(node: Node) -> bool:
    """True if each output element depends on the (broadcast) input elements at its place."""
    return node.op in ELEMENTWISE


def is_reduction(node: Node) -> bool:
    """True if the node makes one element of all those along its axes."""
    return node.op.startswith("Reduce") or node.op in ("ArgMax", "ArgMin")


def check_supported(node: Node) -> None:
    """Refuse what no schedule computes.

    Raises:
        UnsupportedError: the operator, or its dtype, naming the node.
    """
    allowed = ELEMENTWISE.get(node.op) or ANCHORS.get(node.op)
    if allowed is None:
        raise unsupported(node.op, node.source)
    dtype = node.value(1 if node.op == "Where" else 0).dtype
    if dtype not in allowed and "dequantize" not in node.attrs:
        raise UnsupportedError(
            f"{node.op} (node {node.source!r}) of {dtype} is not supported",
            hint=f"its input may be {', '.join(sorted(allowed))}; add a Cast before it",
        )


def unsupported(op: str, source: str) -> UnsupportedError:
    """The error for an operator that isn't compiled at all."""
    return UnsupportedError(
        f"operator {op} (node {source!r}) is not supported",
        hint="docs/operators.md lists what is; export the model without it, or open an issue",
    )

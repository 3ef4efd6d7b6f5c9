"""Which layers an engine has: what was fused, in which precision, where data are reformatted.

Reads the JSON of TensorRT's engine inspector, which ``trtexec --exportLayerInfo`` writes too, of
engines that were built with detailed verbosity. TensorRT 8.5 says source nodes in a layer's name
("a + b", "{ForeignNode[a...b]}"), TensorRT 10 in "Metadata" ("[ONNX Layer: a]"). Recorded samples
of both are in the tests; what else it may say is treated as not known, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_edge.artifacts import KeptFloat, Layers
from deepseek_edge.errors import ModelError

if TYPE_CHECKING:
    import onnx

# TensorRT's words for element types, in formats ("Row major linear FP16 format") and weights.
_TYPES = (
    ("int8", re.compile(r"\bint8\b", re.I)),
    ("float16", re.compile(r"\b(fp16|half)\b", re.I)),
    ("bfloat16", re.compile(r"\b(bf16|bfloat16)\b", re.I)),
    ("float8", re.compile(r"\bfp8\b", re.I)),
    ("float32", re.compile(r"\b(fp32|float|tf32)\b", re.I)),
    ("int32", re.compile(r"\bint32\b", re.I)),
    ("int64", re.compile(r"\bint64\b", re.I)),
    ("bool", re.compile(r"\bbool\b", re.I)),
)
_ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]*)\]")
_RANGE = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}")
_WRAPPED = re.compile(r"^(?:PWN|POOLWN)\((.*)\)$", re.S)
_DEEPEST = 100  # no layer of TensorRT's: a file made to exhaust the stack
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: TensorRT's.
        kind: TensorRT's type, e.g. "CaskConvolution", "Reformat", "gemm"; "" if not said.
        precision: it computes in: "int8", "float16", "float32", ...; None if not said.
        nodes: of the source graph that it stands for, as far as TensorRT says.
        first, last: the ends of a range of nodes, where TensorRT says no more; else None.
        input_formats, output_formats: in memory, as TensorRT says them.
        tactic: name of the kernel, None if not said.
    """

    name: str
    kind: str
    precision: str | None
    nodes: tuple[str, ...]
    first: str | None
    last: str | None
    input_formats: tuple[str, ...]
    output_formats: tuple[str, ...]
    tactic: str | None

    @property
    def is_reformat(self) -> bool:
        """Only changes type or layout of a tensor."""
        return self.kind.lower() == "reformat" or self.name.startswith("Reformatting CopyNode")


def parse_layer_information(text: str | bytes) -> tuple[EngineLayer, ...]:
    """Read the inspector's JSON of an engine.

    Raises:
        ModelError: it is no such JSON, or of an engine that says only names.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the layer information is no JSON: {error}") from error
    layers = document.get("Layers") if isinstance(document, dict) else document
    if not isinstance(layers, list):
        raise ModelError("the layer information has no list of layers")
    if any(isinstance(layer, str) for layer in layers):
        raise ModelError(
            "the layer information has names only",
            hint="build the engine with detailed verbosity: trtexec --profilingVerbosity=detailed",
        )
    return tuple(_layer(layer, place) for place, layer in enumerate(layers))


def _layer(layer: Any, place: int) -> EngineLayer:
    if not isinstance(layer, dict) or not isinstance(layer.get("Name"), str):
        raise ModelError(f"layer {place} of the layer information has no name")
    name, kind = layer["Name"], _text(layer, "LayerType")
    inputs, outputs = _formats(layer, "Inputs"), _formats(layer, "Outputs")
    span = _RANGE.search(name)
    nodes = tuple(dict.fromkeys(_ONNX_NAME.findall(_text(layer, "Metadata"))))
    if not nodes and span is None:
        nodes = tuple(split_name(name))
    return EngineLayer(
        name=name,
        kind=kind,
        precision=_precision(layer, inputs),
        nodes=nodes,
        first=span[1].strip() if span and not nodes else None,
        last=span[2].strip() if span and not nodes else None,
        input_formats=inputs,
        output_formats=outputs,
        tactic=_text(layer, "TacticName") or None,
    )


def _text(layer: Mapping[str, Any], key: str) -> str:
    value = layer.get(key)
    return value if isinstance(value, str) else ""


def _formats(layer: Mapping[str, Any], key: str) -> tuple[str, ...]:
    tensors = layer.get(key)
    if not isinstance(tensors, list):
        return ()
    return tuple(_text(t, "Format/Datatype") if isinstance(t, dict) else "" for t in tensors)


def _precision(layer: Mapping[str, Any], inputs: Sequence[str]) -> str | None:
    """Of the weights where there are some, else of the first input."""
    weights = layer.get("Weights")
    said = _text(weights, "Type") if isinstance(weights, dict) else ""
    return element_type(said) or (element_type(inputs[0]) if inputs else None)


def element_type(text: str) -> str | None:
    """The element type that TensorRT's description of a format names."""
    return next((name for name, pattern in _TYPES if pattern.search(text)), None)


def split_name(name: str) -> list[str]:
    """Nodes in a fused layer's name, e.g. "a + PWN(b, c)" -> a, b, c (TensorRT 8)."""
    if name.startswith("Reformatting CopyNode"):
        return []
    if name.count("(") > _DEEPEST:
        return [name.strip()]
    wrapped = _WRAPPED.match(name.strip())
    if wrapped:
        return split_name(wrapped[1])
    parts, depth, start, position = [], 0, 0, 0
    while position < len(name):
        depth += {"(": 1, ")": -1}.get(name[position], 0)
        width = (
            3 if name.startswith(" + ", position) else 2 if name.startswith(", ", position) else 0
        )
        if name.startswith(" || ", position):
            width = 4
        if width and depth == 0:
            parts.append(name[start:position])
            position = start = position + width
            continue
        position += 1
    parts.append(name[start:])
    if len(parts) == 1:
        return [name.strip()] if name.strip() else []
    return [node for part in parts for node in split_name(part)]


def count_reformats(layers: Sequence[EngineLayer]) -> int:
    """How many layers only change a tensor's type or layout."""
    return sum(layer.is_reformat for layer in layers)


def layer_report(model: onnx.ModelProto, layers: Sequence[EngineLayer]) -> Layers:
    """How the source graph's layers (Conv, ConvTranspose, Gemm, MatMul) are computed.

    Args:
        model: the graph that the engine was built from, with static shapes.
        layers: of its engine.

    Returns:
        Counts, and a reason for each layer that is not int8 in a quantized graph. A layer that no
        engine layer names counts as float32 and says so.
    """
    from deepseek_edge.integer_form import is_quantized

    macs = _macs(model)
    homes = _homes(model, layers)
    found = {name: homes[name].precision if name in homes else None for name in macs}
    int8 = [name for name in macs if found[name] == "int8"]
    half = [name for name in macs if found[name] in ("float16", "bfloat16")]
    quantized = is_quantized(model)
    kept = [KeptFloat(n, _reason(homes.get(n))) for n in macs if n not in int8 and quantized]
    share = sum(macs[name] for name in int8) / max(sum(macs.values()), 1)
    return Layers(
        total=len(macs),
        int8=len(int8),
        float16=len(half),
        float32=len(macs) - len(int8) - len(half),
        int8_macs_share=share if quantized else None,
        kept_float=tuple(kept),
    )


def _reason(layer: EngineLayer | None) -> str:
    if layer is None:
        return "TensorRT's layer information doesn't name it"
    if layer.precision is None:
        return f"TensorRT doesn't say in which precision {layer.kind or layer.name!r} computes"
    return f"TensorRT computes it in {layer.precision} ({layer.kind or 'kind not said'})"


def _homes(model: onnx.ModelProto, layers: Sequence[EngineLayer]) -> dict[str, EngineLayer]:
    """The engine layer that stands for each node; names of nodes first, then ranges."""
    homes: dict[str, EngineLayer] = {}
    order = {node.name: place for place, node in enumerate(model.graph.node)}
    computing = [layer for layer in layers if not layer.is_reformat]
    for layer in computing:
        homes.update((name, layer) for name in layer.nodes if name in order)
    for layer in computing:
        first, last = order.get(layer.first or ""), order.get(layer.last or "")
        if first is None or last is None:
            continue
        for node in model.graph.node[first : last + 1]:
            homes.setdefault(node.name, layer)
    return homes


def _macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each layer by node name; 0 where a shape isn't known."""
    import math

    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes.setdefault(value.name, [d.dim_value for d in value.type.tensor_type.shape.dim])
    macs = {}
    for node in graph.node:
        if node.op_type not in _LAYERS:
            continue
        data, weights = (shapes.get(name, []) for name in node.input[:2])
        output = math.prod(shapes.get(node.output[0], [0]) or [0])
        if node.op_type == "Conv":
            macs[node.name] = output * math.prod(weights[1:])
        elif node.op_type == "ConvTranspose":
            macs[node.name] = math.prod(data) * math.prod(weights[1:])
        else:
            is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
            macs[node.name] = output * (data or [0])[0 if is_transposed else -1]
    return macs

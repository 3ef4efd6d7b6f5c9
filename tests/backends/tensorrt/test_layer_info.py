import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.artifacts import KeptFloat
from deepseek_edge.backends.tensorrt.layer_info import (
    EngineLayer,
    count_reformats,
    element_type,
    layer_report,
    parse_layer_information,
    split_name,
)
from deepseek_edge.errors import ModelError
from deepseek_edge.quantization import QuantConfig, Quantizer
from tests.backends.tensorrt.layer_samples import NAMES_ONLY, VERSION_8_5, VERSION_10
from tests.quantization.graphs import residual, samples


def parse(document: Any) -> tuple[EngineLayer, ...]:
    return parse_layer_information(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear INT8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Half", "float16"),
        ("Row major linear FP32", "float32"),
        ("Float", "float32"),
        ("BFloat16", "bfloat16"),
        ("Row major Int32 format", "int32"),
        ("", None),
        ("Unknown format", None),
    ],
)
def test_formats_name_their_element_type(text: str, expected: str | None) -> None:
    assert element_type(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ["a"]),
        ("a + b", ["a", "b"]),
        ("/conv1/Conv + /relu/Relu", ["/conv1/Conv", "/relu/Relu"]),
        ("PWN(a)", ["a"]),
        ("a + PWN(b, PWN(c, d))", ["a", "b", "c", "d"]),
        ("PWN(PWN(a), b) + c", ["a", "b", "c"]),
        ("a || b", ["a", "b"]),
        ("Reformatting CopyNode for Input Tensor 0 to a + b", []),
        ("", []),
        ("a + PWN(b", ["a", "PWN(b"]),
    ],
)
def test_names_of_fused_layers_are_taken_apart(name: str, expected: list[str]) -> None:
    assert split_name(name) == expected


def test_version_8_says_sources_in_names() -> None:
    layers = parse(VERSION_8_5)
    assert [layer.nodes for layer in layers[:4]] == [
        (),
        ("a_node", "a_relu_node"),
        ("b_node", "b_clip_node"),
        ("c_node", "sum_node"),
    ]
    assert (layers[4].first, layers[4].last) == ("pooled_node", "y_node")
    assert [layer.precision for layer in layers] == [
        "float32",
        "int8",
        "float16",
        "int8",
        "float32",
    ]
    assert str(layers[1].tactic).startswith("sm72_xmma")
    assert count_reformats(layers) == 1


def test_version_10_says_sources_in_metadata() -> None:
    layers = parse(VERSION_10)
    assert layers[1].nodes == ("a_node", "a_relu_node")
    assert layers[2].nodes == ("b_node", "b_clip_node")
    assert [layer.precision for layer in layers[1:]] == ["int8"] * 4 + ["float16"]
    assert count_reformats(layers) == 1


def quantized() -> Any:
    quantizer = Quantizer(residual(), QuantConfig(quant_scheme="symmetric", rounding="nearest"))
    return quantizer.calibrate(samples(16)).quantize().model


# Multiply-accumulates of a, b, c and y.
MACS = (144 * 8 * 27, 144 * 8 * 9, 144 * 8 * 8, 40)


def test_the_report_counts_layers_by_precision() -> None:
    report = layer_report(quantized(), parse(VERSION_8_5))
    assert (report.total, report.int8, report.float16, report.float32) == (4, 2, 1, 1)
    assert report.int8_macs_share == pytest.approx((MACS[0] + MACS[2]) / sum(MACS))
    assert report.kept_float == (
        KeptFloat("b_node", "TensorRT computes it in float16 (CaskDepthwiseConvolution)"),
        KeptFloat("y_node", "TensorRT computes it in float32 (Myelin)"),
    )
    newer = layer_report(quantized(), parse(VERSION_10))
    assert (newer.int8, newer.float16) == (3, 1)
    assert newer.kept_float == (KeptFloat("y_node", "TensorRT computes it in float16 (gemm)"),)


def test_a_layer_that_is_not_named_is_said_to_be_unknown() -> None:
    document = copy.deepcopy(VERSION_10)
    del document["Layers"][1]
    report = layer_report(quantized(), parse(document))
    assert report.kept_float[0] == KeptFloat(
        "a_node", "TensorRT's layer information doesn't name it"
    )


def test_a_layer_without_formats_is_said_to_be_unknown() -> None:
    layers = parse({"Layers": [{"Name": "a_node", "LayerType": "conv"}]})
    reasons = {one.name: one.reason for one in layer_report(quantized(), layers).kept_float}
    assert reasons["a_node"] == "TensorRT doesn't say in which precision 'conv' computes"


def test_a_float_graph_keeps_nothing_from_being_int8() -> None:
    report = layer_report(residual(), parse(VERSION_8_5))
    assert report.kept_float == ()
    assert report.int8_macs_share is None


def test_names_only_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match="names only") as refusal:
        parse(NAMES_ONLY)
    assert "detailed" in str(refusal.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        "1",
        "null",
        '{"Layers": 3}',
        '{"Layers": [3]}',
        '{"Layers": [{}]}',
        b"\xff",
    ],
)
def test_garbage_is_refused(text: str | bytes) -> None:
    with pytest.raises(ModelError):
        parse_layer_information(text)


def test_a_name_nested_without_end_is_one_node() -> None:
    name = "PWN(" * 100_000
    assert split_name(name) == [name]


def test_an_empty_list_is_an_engine_without_layers() -> None:
    assert parse({"Layers": []}) == ()
    assert parse([]) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"Name": st.text(max_size=30)},
        optional=dict.fromkeys(
            ("LayerType", "Inputs", "Outputs", "Weights", "Metadata", "TacticName"), json_values
        ),
    )
)
def test_odd_values_of_a_layer_never_crash_the_parser(layer: dict[str, Any]) -> None:
    (parsed,) = parse({"Layers": [layer]})
    assert parsed.name == layer["Name"]

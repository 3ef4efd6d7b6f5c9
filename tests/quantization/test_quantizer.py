import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deepseek_edge.distance import compare_float
from deepseek_edge.errors import InputError, UnsupportedError, UsageError
from deepseek_edge.quantization import QuantConfig, Quantizer, read_table, write_table
from deepseek_edge.quantization.calibrate import FewSamplesWarning, session
from deepseek_edge.quantization.equalize import channel_factors, equalize
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.prepare import prepare
from tests.quantization.graphs import conv, conv_constants, model, node, residual, samples


def sqnr_db(graph: onnx.ModelProto, quantized: onnx.ModelProto) -> float:
    data = samples(16, seed=9)
    runs = [session(one, optimize=False) for one in (graph, quantized)]
    expected, actual = ([{"y": run.run(None, s)[0]} for s in data] for run in runs)
    return compare_float(expected, actual).sqnr_db


def quantize(graph: onnx.ModelProto, **config: Any) -> onnx.ModelProto:
    return Quantizer(graph, QuantConfig(**config)).calibrate(samples(16)).quantize().model


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_the_graph_obeys_the_contract(scheme: str) -> None:
    found = quantize(residual(), quant_scheme=scheme)
    onnx.checker.check_model(found, full_check=True)
    assert 17 <= found.opset_import[0].version <= 20
    constants = {t.name: t for t in found.graph.initializer}
    produced = {name for one in found.graph.node for name in one.output}
    for one in found.graph.node:
        if one.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero_point = (numpy_helper.to_array(constants[n]) for n in one.input[1:])
        assert scale.dtype == np.float32 and (scale > 0).all()
        assert zero_point.dtype == np.int8
        if one.input[0] in constants:
            weights = numpy_helper.to_array(constants[one.input[0]])
            assert weights.dtype == np.int8 and weights.min() >= -127
            assert not zero_point.any()
        else:
            assert scale.shape == () and (scheme == "asymmetric" or zero_point == 0)
    biases = [one.input[2] for one in found.graph.node if one.op_type in ("Conv", "Gemm")]
    assert {constants[name].data_type for name in biases} == {TensorProto.FLOAT}
    assert found.graph.output[0].name in produced - {
        one.output[0] for one in found.graph.node if one.op_type == "DequantizeLinear"
    }


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "mse"])
def test_it_is_near_the_float_model(observer: str) -> None:
    graph = residual()
    assert sqnr_db(graph, quantize(graph, observer=observer)) > 22


def test_compensated_rounding_and_corrected_biases_beat_nearest_without_data() -> None:
    graph = residual()
    quantizer = Quantizer(graph).calibrate(samples(16))
    plain = Quantizer(graph).use_table(quantizer.table).quantize().model
    assert sqnr_db(graph, quantizer.quantize().model) > sqnr_db(graph, plain)


def test_a_table_beside_data_gives_its_ranges_and_the_data_the_rounding() -> None:
    graph = residual()
    table = Quantizer(graph).calibrate(samples(16, seed=3)).table
    plain = Quantizer(graph).use_table(table).quantize()
    rounded = Quantizer(graph).use_table(table, samples(16)).quantize()
    assert rounded.table == plain.table == table
    assert rounded.parts.activations == plain.parts.activations == table.affines
    assert sqnr_db(graph, rounded.model) > sqnr_db(graph, plain.model)


def test_a_table_beside_data_that_cannot_serve_is_refused() -> None:
    quantizer = Quantizer(residual()).calibrate(samples(8))
    with pytest.raises(InputError, match="everywhere"):
        quantizer.use_table(quantizer.table, [{"x": np.ones((1, 3, 12, 12), np.float32)}] * 8)


def test_a_relu_loses_no_integers_to_negative_values() -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    assert table.tensors["a_relu"].zero_point == -128
    assert table.tensors["pooled"] == table.tensors["flat"]


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_channel_of_vanishing_weights_gets_steps_that_count_its_bias(rounding: str) -> None:
    constants = conv_constants("y", (4, 3, 1, 1))
    constants["y_w"][1] *= 1e-12
    graph = model([conv("x", "y")], {"x": (1, 3, 12, 12)}, ("y",), constants)
    found = quantize(graph, rounding=rounding, equalization=False)
    index = GraphIndex(found)
    layer = next(one for one in found.graph.node if one.op_type == "Conv")
    x, w = (index.producer[name] for name in layer.input[:2])
    steps = index.value(x.input[1]) * index.value(w.input[1]).astype(np.float64)
    counts = np.abs(index.value(layer.input[2]) / steps)
    assert counts.max() < 2**30
    assert counts.argmax() == 1 and counts[1] > 2**28  # the other channels keep their own steps
    assert not index.value(w.input[0])[1].any()


def test_the_same_data_gives_the_same_bytes() -> None:
    first, second = (quantize(residual()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_equalization_changes_nothing_in_float() -> None:
    nodes = [conv("x", "a"), node("Relu", ["a"], "r"), conv("r", "b", group=4), conv("b", "y")]
    constants = {
        **conv_constants("a", (4, 3, 1, 1)),
        **conv_constants("b", (8, 1, 3, 3)),
        **conv_constants("y", (2, 8, 1, 1)),
    }
    constants["a_w"] *= np.array([1, 0.1, 0.01, 5], np.float32).reshape(4, 1, 1, 1)
    graph = prepare(model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants))
    factors = channel_factors(graph, samples(4))
    assert set(factors) == {"r", "b"} and factors["r"].max() > 1
    equal = equalize(graph, factors)
    assert not np.array_equal(GraphIndex(equal).value("a_w"), constants["a_w"])
    assert sqnr_db(graph, equal) > 120


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    write_table(tmp_path / "t.json", table)
    assert read_table(tmp_path / "t.json") == table


def test_a_table_of_another_graph_is_refused() -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    other = residual()
    other.graph.name = "other"
    with pytest.raises(UsageError, match="another graph"):
        Quantizer(other).use_table(table)


def test_a_table_that_lacks_a_tensor_is_refused() -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    tensors = {name: entry for name, entry in table.tensors.items() if name != "sum"}
    with pytest.raises(UsageError, match="'sum'"):
        Quantizer(residual()).use_table(dataclasses.replace(table, tensors=tensors))


def test_zero_points_do_not_suit_a_symmetric_scheme() -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    with pytest.raises(UsageError, match="zero points"):
        Quantizer(residual(), QuantConfig(quant_scheme="symmetric")).use_table(table)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 1}', "\xff"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text, "latin-1")
    with pytest.raises(UsageError, match="no calibration table"):
        read_table(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"scale": 0.0}, "impossible"),
        ({"min": 5.0, "max": -5.0}, "impossible"),
        ({"zero_point": 128}, "int8"),
    ],
)
def test_impossible_numbers_of_a_table_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    table = Quantizer(residual()).calibrate(samples(8)).table
    if "schema" in change:
        table = dataclasses.replace(table, **change)
    else:
        entry = dataclasses.replace(table.tensors["sum"], **change)
        table = dataclasses.replace(table, tensors={**table.tensors, "sum": entry})
    write_table(tmp_path / "t.json", table)
    with pytest.raises(UsageError, match=message):
        read_table(tmp_path / "t.json")


def test_nothing_calibrated_is_refused() -> None:
    with pytest.raises(UsageError, match="real activations"):
        Quantizer(residual()).quantize()


def test_few_samples_are_told_by_their_number() -> None:
    with pytest.warns(FewSamplesWarning, match="3 samples"):
        Quantizer(residual()).calibrate(samples(3))


BAD: dict[str, tuple[Any, str]] = {
    "no samples": ([], "no calibration samples"),
    "zeros": ([{"x": np.zeros((1, 3, 12, 12), np.float32)}] * 8, "is 0 everywhere"),
    "constant": ([{"x": np.full((1, 3, 12, 12), 2, np.float32)}] * 8, "is 2 everywhere"),
    "NaN": ([{"x": np.full((1, 3, 12, 12), np.nan, np.float32)}] * 8, "NaN"),
    "infinity": ([{"x": np.full((1, 3, 12, 12), np.inf, np.float32)}] * 8, "infinity"),
    "name": ([{"z": np.zeros((1, 3, 12, 12), np.float32)}] * 8, "has z"),
    "shape": (samples(8, shape=(1, 3, 13, 12)), "13"),
    "dtype": ([{"x": np.zeros((1, 3, 12, 12), np.float64)}] * 8, "float64"),
    "overflow": (
        [{"x": np.full((1, 3, 12, 12), 3e38, np.float32)} | {}] * 7
        + [{"x": np.zeros((1, 3, 12, 12), np.float32)}],
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_data_that_ranges_cannot_be_taken_from_is_refused(kind: str) -> None:
    data, message = BAD[kind]
    quantizer = Quantizer(residual())
    with pytest.raises(InputError, match=message):
        quantizer.calibrate(data)
    with pytest.raises(UsageError, match="real activations"):
        quantizer.quantize()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"weight_bit": 4}, UnsupportedError),
        ({"activation_bit": 16}, UnsupportedError),
        ({"observer": "guess"}, UsageError),
        ({"rounding": "up"}, UsageError),
        ({"quant_scheme": "none"}, UsageError),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(
    config: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        QuantConfig(**config)


def test_layers_kept_float_later_leave_the_others_their_integers() -> None:
    quantized = Quantizer(residual()).calibrate(samples(16)).quantize()
    mixed = quantized.keep_float({"b_node": "float is faster"})
    assert [(one.name, one.reason) for one in mixed.kept_float] == [("b_node", "float is faster")]
    assert mixed.layers == tuple(name for name in quantized.layers if name != "b_node")
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in one.model.graph.initializer}
        for one in (quantized, mixed)
    )
    assert "b_node/weights/quantized" not in after
    for layer in mixed.layers:
        name = f"{layer}/weights/quantized"
        np.testing.assert_array_equal(after[name], before[name])
    float_parts = {t.name: t for t in quantized.parts.model.graph.initializer}
    np.testing.assert_array_equal(after["b_b"], numpy_helper.to_array(float_parts["b_b"]))
    assert sqnr_db(residual(), mixed.model) > sqnr_db(residual(), quantized.model) - 1


def test_all_layers_kept_float_are_the_float_graph() -> None:
    quantized = Quantizer(residual()).calibrate(samples(16)).quantize()
    float_again = quantized.keep_float(dict.fromkeys(quantized.layers, "asked"))
    assert float_again.layers == ()
    assert sqnr_db(residual(), float_again.model) > 100

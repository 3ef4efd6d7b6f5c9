import numpy as np
import onnx
import pytest

from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.quantization.affine import affine_from_range
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.placement import place
from deepseek_edge.quantization.prepare import prepare
from deepseek_edge.quantization.reconstruct import quantize_plainly
from deepseek_edge.quantization.sensitivity import choose_float, layer_macs, layer_sensitivity
from tests.quantization.graphs import model, node, residual, samples


def test_a_layer_with_a_coarse_input_costs_most() -> None:
    graph = prepare(residual())
    placement = place(GraphIndex(graph))
    fine = affine_from_range(-8, 8, symmetric=False)
    coarse = affine_from_range(-800, 800, symmetric=False)
    activations = dict.fromkeys(placement.tensors, fine) | {"b_clip": coarse}
    weights = quantize_plainly(graph, placement, activations).weights
    found = layer_sensitivity(graph, placement, activations, weights, samples(4))
    assert list(found) == ["a_node", "b_node", "c_node", "y_node"]
    assert min(found, key=found.__getitem__) == "c_node"
    assert found["c_node"] < 20 < found["a_node"]


def test_the_worst_layers_stay_float_until_the_budget_is_spent() -> None:
    cost = {"a": 10.0, "b": 20.0, "c": 30.0, "d": np.inf}
    macs = {"a": 60, "b": 30, "c": 10, "d": 0}
    assert choose_float(cost, macs, 0.0) == {}
    assert list(choose_float(cost, macs, 0.4)) == ["b", "c"]
    assert list(choose_float(cost, macs, 1.0)) == ["a", "b", "c"]
    assert "20.0 dB" in choose_float(cost, macs, 0.3)["b"]


def test_work_is_counted_in_multiply_accumulates() -> None:
    index = GraphIndex(prepare(residual()))
    names = ["a_node", "b_node", "c_node", "y_node"]
    expected = [144 * 8 * 27, 144 * 8 * 9, 144 * 8 * 8, 5 * 8]
    assert list(layer_macs(index, names).values()) == expected


@pytest.mark.parametrize(("groups", "macs"), [(1, 9 * 4 * 6 * 4), (2, 9 * 4 * 3 * 4)])
def test_a_transposed_convolution_multiplies_each_input_with_each_tap(
    groups: int, macs: int
) -> None:
    weights = np.ones((4, 6 // groups, 2, 2), np.float32)
    graph = model(
        [node("ConvTranspose", ["x", "w"], "y", strides=[2, 2], group=groups)],
        {"x": (1, 4, 3, 3)},
        ("y",),
        {"w": weights},
    )
    assert layer_macs(GraphIndex(graph), ["y_node"]) == {"y_node": macs}


def test_what_stays_float_has_its_reason() -> None:
    config = QuantConfig(float_budget=0.01)
    found = Quantizer(residual(), config).calibrate(samples(8)).quantize()
    assert [kept.name for kept in found.kept_float] == ["y_node"]
    assert "dB at the output" in found.kept_float[0].reason
    assert "y_node" not in found.layers
    onnx.checker.check_model(found.model, full_check=True)


def test_one_calibration_serves_several_budgets() -> None:
    quantizer = Quantizer(residual(), QuantConfig(float_budget=0.01)).calibrate(samples(8))
    assert quantizer.quantize().layers == ("a_node", "b_node", "c_node")
    assert len(quantizer.quantize(float_budget=0.0).layers) == 4
    least = quantizer.quantize(float_budget=1.0)
    assert least.layers == ()
    again = Quantizer(residual(), QuantConfig(float_budget=1.0)).calibrate(samples(8)).quantize()
    assert again.model == least.model


def test_a_quantized_model_can_give_up_its_costliest_layers() -> None:
    data = samples(8)
    whole = Quantizer(residual()).calibrate(data).quantize()
    found = whole.keep_costly_float(data, 0.01)
    assert [kept.name for kept in found.kept_float] == ["y_node"]
    assert "dB at the output" in found.kept_float[0].reason
    # 144 x 8 x (27 + 9 + 8) multiply-accumulates before the 40 of the last layer.
    assert whole.int8_macs_share == 1.0
    assert found.int8_macs_share == pytest.approx(50688 / 50728)

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deepseek_edge.backends.tensorrt import prepare_graph
from deepseek_edge.backends.tensorrt.mixed import with_float16_rest
from deepseek_edge.errors import UnsupportedError
from deepseek_edge.quantization import QuantConfig, Quantizer
from tests.backends.tensorrt.test_half import execute, types
from tests.quantization.graphs import residual, samples

Array = np.ndarray[Any, Any]


def quantized() -> onnx.ModelProto:
    config = QuantConfig(quant_scheme="symmetric", rounding="nearest")
    return Quantizer(residual(), config).calibrate(samples(16)).quantize().model


def constant(model: onnx.ModelProto, name: str) -> Array:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value: Array = numpy_helper.to_array(tensor)
    return value


def replace(model: onnx.ModelProto, name: str, value: Array) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def test_everything_that_was_float_is_float16() -> None:
    mixed = with_float16_rest(quantized())
    onnx.checker.check_model(mixed, full_check=True)
    assert mixed.opset_import[0].version >= 19
    kinds = {t.data_type for t in mixed.graph.initializer}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT8}
    found = types(mixed)
    assert {name for name, kind in found.items() if kind == TensorProto.FLOAT} == {"x", "y"}


def test_integers_of_weights_stay_what_they_were() -> None:
    before, after = quantized(), with_float16_rest(quantized())
    for name in ("a_node/weights/quantized", "y_node/weights/quantized"):
        assert (constant(before, name) == constant(after, name)).all()


def test_results_differ_by_less_than_a_few_steps() -> None:
    model = quantized()
    mixed = with_float16_rest(model)
    for sample in samples(4, seed=5):
        (expected,), (found,) = execute(model, sample), execute(mixed, sample)
        assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)


def test_tiny_channels_get_a_scale_that_float16_has() -> None:
    model = quantized()
    scale = constant(model, "a_node/weights/scale").copy()
    weights = constant(model, "a_node/weights/quantized")
    scale[0], scale[1] = 1e-9, 2.0**-15
    replace(model, "a_node/weights/scale", scale)
    mixed = with_float16_rest(model)
    fitted = constant(mixed, "a_node/weights/scale")
    assert fitted.dtype == np.float16
    assert fitted[:2].tolist() == [2.0**-14] * 2
    integers = constant(mixed, "a_node/weights/quantized")
    assert (integers[0] == 0).all()
    assert (integers[1] == np.rint(weights[1] / 2)).all()
    assert (integers[2:] == weights[2:]).all()


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_an_activation_outside_of_float16_is_refused(scale: float) -> None:
    model = quantized()
    replace(model, "x/scale", np.array(scale, np.float32))
    with pytest.raises(UnsupportedError, match="node 'x/quantized'") as refusal:
        with_float16_rest(model)
    assert "float32" in str(refusal.value.hint)


def test_the_rest_stays_float32_unless_asked() -> None:
    plain = prepare_graph(quantized(), "int8")
    assert TensorProto.FLOAT16 not in {t.data_type for t in plain.graph.initializer}
    mixed = prepare_graph(quantized(), "int8", rest="float16")
    assert TensorProto.FLOAT16 in {t.data_type for t in mixed.graph.initializer}

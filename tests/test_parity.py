import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.distance import compare_float
from deepseek_edge.errors import ModelError, ParityError, UnsupportedError
from deepseek_edge.parity import (
    Reference,
    check_graph,
    golden_tolerance,
    output_range,
    output_scales,
    sample_inputs,
    table_rows,
)
from deepseek_edge.tensors import TensorSpec
from tests.tiny_model import IN, parameters, tiny_onnx


def floats(*values: float) -> dict[str, NDArray[Any]]:
    return {"y": np.array(values, dtype=np.float32)}


def test_an_error_of_a_thousandth_of_the_range_passes() -> None:
    # The range is 8, so 0.008 is allowed.
    parity = check_graph([floats(-4, 0, 4)], [floats(-4, 0.0078, 4)])
    assert parity.samples == 1
    assert parity.max_abs == pytest.approx(0.0078 / 8, rel=1e-4)
    assert (parity.within, parity.max_steps) == (1.0, None)


def test_a_larger_error_fails_and_names_the_output() -> None:
    with pytest.raises(ParityError, match=r"output 'y' is off by 1\.0\de-03"):
        check_graph([floats(-4, 0, 4)], [floats(-4, 0.0084, 4)])


def test_each_sample_is_judged_by_its_own_range() -> None:
    good, bad = floats(0, 1000), floats(0, 1)
    with pytest.raises(ParityError):
        check_graph([good, bad], [good, floats(0, 1.01)])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails(poison: float) -> None:
    with pytest.raises(ParityError, match="NaN or infinity"):
        check_graph([floats(1, 2)], [floats(1, poison)])


def test_what_is_not_finite_in_the_reference_is_not_compared() -> None:
    parity = check_graph([floats(1, math.inf, 2)], [floats(1, 7, 2)])
    assert (parity.max_abs, parity.within) == (0.0, 1.0)


def test_a_reference_without_a_finite_value_judges_nothing() -> None:
    with pytest.raises(ParityError, match="no finite value"):
        check_graph([floats(math.nan)], [floats(math.nan)])


def test_another_shape_or_a_missing_output_fails() -> None:
    with pytest.raises(ParityError, match=r"shape \(1,\)"):
        check_graph([floats(1, 2)], [floats(1)])
    with pytest.raises(ParityError, match="no output 'y'"):
        check_graph([floats(1, 2)], [{}])


def test_a_constant_output_has_a_tolerance_of_its_size() -> None:
    assert output_range(np.full(3, 5.0)) == 5e-3
    assert output_range(np.zeros(3)) == 1.0
    assert output_range(np.array([[1e-5]])) == 1e-5
    check_graph([floats(5, 5)], [floats(5, 5.000004)])
    with pytest.raises(ParityError):
        check_graph([floats(5, 5)], [floats(5, 5.00001)])


def test_integers_must_be_equal() -> None:
    index = {"i": np.array([3, 4], dtype=np.int64)}
    assert check_graph([index], [index]).within == 1.0
    with pytest.raises(ParityError, match="1 of 2 integers"):
        check_graph([index], [{"i": np.array([3, 5], dtype=np.int64)}])


def quantized(*, ones: int, twos: int = 0, threes: int = 0) -> dict[str, NDArray[Any]]:
    values = np.zeros(2000, dtype=np.int8)
    values[:ones] = 1
    values[ones : ones + twos] = -2
    values[ones + twos : ones + twos + threes] = 3
    return {"q": values}


def test_int8_may_be_off_by_one_step_anywhere_and_by_two_in_a_thousandth() -> None:
    reference = [quantized(ones=0)]
    assert check_graph(reference, [quantized(ones=2000)]).max_steps == 1
    parity = check_graph(reference, [quantized(ones=5, twos=2)])
    assert (parity.max_steps, parity.within) == (2, 0.999)
    with pytest.raises(ParityError, match="2 steps off"):
        check_graph(reference, [quantized(ones=0, twos=3)])
    with pytest.raises(ParityError, match="3 steps off"):
        check_graph(reference, [quantized(ones=0, threes=1)])


def test_a_dequantized_output_is_judged_in_steps_of_its_scale() -> None:
    reference, artifact = [floats(0, 0.5, 8)], [floats(0, 1.0, 8)]
    assert check_graph(reference, artifact, scales={"y": 0.5}).max_steps == 1
    with pytest.raises(ParityError):
        check_graph(reference, artifact)


def test_scales_of_outputs_are_read_off_the_graph() -> None:
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("q", TensorProto.INT8, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [
            numpy_helper.from_array(np.float32(0.25), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
        ],
    )
    assert output_scales(helper.make_model(graph)) == {"y": 0.25}


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_equal_outputs_always_pass(values: list[float]) -> None:
    parity = check_graph([floats(*values)], [floats(*values)])
    assert (parity.max_abs, parity.within) == (0.0, 1.0)


def test_distance_to_the_float_model_by_hand() -> None:
    # sum f^2 = 25 and sum (f-q)^2 = 0.25; f.q = 9 + 14.
    parity = compare_float([floats(3, 4)], [floats(3, 3.5)])
    assert parity.sqnr_db == pytest.approx(20.0)
    assert parity.cosine == pytest.approx(23 / math.sqrt(25 * 21.25))
    assert parity.top1_agreement is None


def test_top1_agreement_counts_rows() -> None:
    scores = {"y": np.array([[1, 2], [3, 1]], dtype=np.float32)}
    others = {"y": np.array([[1, 2], [3, 4]], dtype=np.float32)}
    assert compare_float([scores], [others]).top1_agreement == 0.5
    assert compare_float([scores], [scores]).sqnr_db == math.inf


def test_the_reference_computes_the_layer() -> None:
    x = np.arange(IN, dtype=np.float32)[None]
    weights, bias = parameters()
    outputs = Reference(tiny_onnx()).run({"x": x})
    np.testing.assert_allclose(outputs["y"], np.maximum(x @ weights.T + bias, 0), rtol=1e-6)


def test_the_reference_runs_a_larger_batch_sample_by_sample() -> None:
    reference = Reference(tiny_onnx())
    x = np.random.default_rng(0).standard_normal((3, IN)).astype(np.float32)
    rows = [reference.run({"x": x[i : i + 1]})["y"] for i in range(3)]
    np.testing.assert_array_equal(reference.run({"x": x})["y"], np.concatenate(rows))


def test_a_graph_that_onnxruntime_refuses_is_a_model_error() -> None:
    broken = tiny_onnx()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="onnxruntime refuses the graph"):
        Reference(broken).run({"x": np.zeros((1, IN), np.float32)})


def test_an_operator_that_onnxruntime_lacks_is_unsupported() -> None:
    unknown = tiny_onnx()
    unknown.graph.node[0].op_type = "Gemmm"
    with pytest.raises(UnsupportedError, match="Gemmm"):
        Reference(unknown).run({"x": np.zeros((1, IN), np.float32)})


def embedding() -> onnx.ModelProto:
    """Token ids through a Cast into a table of 30 rows, types into one of 2."""
    table = np.zeros((30, 4), dtype=np.float32)
    int64 = TensorProto.INT64
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["ids"], ["cast"], to=int64),
            helper.make_node("Gather", ["table", "cast"], ["e"]),
            helper.make_node("Constant", [], ["types"], value=numpy_helper.from_array(table[:2])),
            helper.make_node("Gather", ["types", "kinds"], ["t"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, [1, 100]),
            helper.make_tensor_value_info("kinds", int64, [1, 100]),
        ],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 100, 4])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph)


def test_token_ids_stay_inside_their_table() -> None:
    model = embedding()
    assert table_rows(model) == {"ids": 30, "kinds": 2}
    specs = [TensorSpec("ids", "int32", (1, 100)), TensorSpec("kinds", "int64", (1, 100))]
    values = sample_inputs(model, specs, 0)
    assert values["ids"].dtype == np.int32
    assert values["ids"].min() >= 0
    assert 2 < values["ids"].max() < 30
    assert set(values["kinds"].ravel()) == {0, 1}


def test_masks_are_ones_and_then_zeros() -> None:
    spec = TensorSpec("attention_mask", "int64", (1, 16))
    for sample in range(5):
        mask = sample_inputs(tiny_onnx(), [spec], sample)["attention_mask"][0]
        assert mask.sum() >= 8
        assert (np.diff(mask) <= 0).all()


def test_samples_repeat_and_differ() -> None:
    specs = [TensorSpec("x", "float32", (1, IN))]
    one, again = (sample_inputs(tiny_onnx(), specs, 0)["x"] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert (one != sample_inputs(tiny_onnx(), specs, 1)["x"]).all()


def test_golden_tolerance_is_a_thousandth_of_the_range_and_0_for_integers() -> None:
    assert golden_tolerance(np.array([-4, 4], dtype=np.float32)) == 8e-3
    assert golden_tolerance(np.array([-4, 4], dtype=np.int8)) == 0.0


def test_half_floats_are_judged_by_the_size_of_their_numbers() -> None:
    """Two numbers close together have no range to speak of, and each is rounded by its own size."""
    close = [floats(100.0, 100.5)]
    assert check_graph(close, [floats(101.0, 100.5)], precision="float16").within == 1.0
    with pytest.raises(ParityError, match="is allowed"):
        check_graph(close, [floats(102.5, 100.5)], precision="float16")
    with pytest.raises(ParityError, match="1e-03 is allowed"):
        check_graph(close, [floats(101.0, 100.5)])

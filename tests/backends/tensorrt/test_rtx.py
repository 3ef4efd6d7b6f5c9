"""Real engines, built by TensorRT for RTX on a machine without a GPU."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.backends.tensorrt import (
    RTX_COMPUTE_CAPABILITIES,
    build_engine,
    load_tensorrt_rtx,
    prepare_graph,
)
from deepseek_edge.engine_build import is_rtx, is_strongly_typed
from deepseek_edge.errors import MissingToolError, ModelError, UnsupportedError
from deepseek_edge.quantization import QuantConfig, Quantizer
from tests.quantization.graphs import conv_constants, model, node, samples


def wide() -> onnx.ModelProto:
    """Two convolutions whose weights are most of the engine: 4.7 MB in float32."""
    nodes = [
        node("Conv", ["x", "a_w", "a_b"], "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "a_relu"),
        node("Conv", ["a_relu", "b_w", "b_b"], "y", pads=[1, 1, 1, 1]),
    ]
    constants = {**conv_constants("a", (256, 256, 3, 3)), **conv_constants("b", (256, 256, 3, 3))}
    return model(nodes, {"x": (1, 256, 6, 6)}, ("y",), constants)


def quantized() -> onnx.ModelProto:
    config = QuantConfig(quant_scheme="symmetric", rounding="nearest")
    data = samples(16, shape=(1, 256, 6, 6))
    return Quantizer(wide(), config).calibrate(data).quantize().model


@pytest.fixture(scope="module")
def trt() -> Any:
    return load_tensorrt_rtx()


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingToolError) as refusal:
        load_tensorrt_rtx()
    assert refusal.value.hint == "pip install 'deepseek-edge[tensorrt-rtx]'"


@pytest.mark.tensorrt_rtx
def test_the_module_is_what_the_builder_thinks_it_is(trt: Any) -> None:
    assert is_rtx(trt)
    assert is_strongly_typed(trt)
    for sm in RTX_COMPUTE_CAPABILITIES:
        assert hasattr(trt.ComputeCapability, "SM" + sm.replace(".", ""))


@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("sm", ["8.6", "8.9"])
def test_engines_shrink_with_the_precision(trt: Any, sm: str) -> None:
    float32 = build_engine(wide(), trt=trt, precision="float32", sm=sm)
    half = build_engine(wide(), trt=trt, precision="float16", sm=sm)
    int8 = build_engine(quantized(), trt=trt, precision="int8", sm=sm)
    weights = 2 * 256 * 256 * 9
    assert len(float32.data) > 4 * weights
    assert 2 * weights < len(half.data) < 0.6 * len(float32.data)
    assert weights < len(int8.data) < 0.4 * len(float32.data)
    assert weights <= (int8.weights_bytes or 0) < 1.1 * weights
    mixed = build_engine(quantized(), trt=trt, precision="int8", sm=sm, rest="float16")
    assert weights <= (mixed.weights_bytes or 0) < 1.1 * weights
    assert (int8.sm, int8.precision, int8.timing_cache) == (sm, "int8", None)
    assert int8.builder.startswith("tensorrt_rtx 1.7.1")


@pytest.mark.tensorrt_rtx
def test_the_gpus_of_jetsons_are_refused(trt: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"8\.7"):
        build_engine(wide(), trt=trt, precision="float32", sm="8.7")


@pytest.mark.tensorrt_rtx
def test_an_operator_that_it_lacks_is_named(trt: Any) -> None:
    graph = wide()
    graph.opset_import.append(helper.make_opsetid("mine", 1))
    graph.graph.node[1].domain, graph.graph.node[1].op_type = "mine", "Gate"
    with pytest.raises(UnsupportedError, match="Gate \\(node 'a_relu_node'\\)"):
        build_engine(graph, trt=trt, precision="float32", sm="8.6")


@pytest.mark.tensorrt_rtx
def test_a_zero_point_that_slips_through_is_refused_by_the_parser_too(trt: Any) -> None:
    from deepseek_edge.engine_build import EngineOptions
    from deepseek_edge.engine_build import build_engine as build_from_bytes

    graph = quantized()
    zero = next(t for t in graph.graph.initializer if t.name == "x/zero_point")
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    with pytest.raises(UnsupportedError, match="QuantizeLinear"):
        build_from_bytes(trt, graph.SerializeToString(), EngineOptions("int8", 1 << 26, "8.6"))
    with pytest.raises(UnsupportedError, match="node 'x/quantized'"):
        prepare_graph(graph, "int8")


@pytest.mark.tensorrt_rtx
def test_what_is_no_graph_is_a_fault_of_the_model(trt: Any) -> None:
    from deepseek_edge.engine_build import EngineOptions
    from deepseek_edge.engine_build import build_engine as build_from_bytes

    with pytest.raises(ModelError, match="can't read the graph"):
        build_from_bytes(trt, b"no graph at all", EngineOptions("float32", 1 << 26, "8.6"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_quantized_graph_is_for_int8_only(precision: str) -> None:
    with pytest.raises(UnsupportedError, match=precision):
        prepare_graph(quantized(), precision)


def test_a_float_graph_is_not_for_int8() -> None:
    with pytest.raises(UnsupportedError, match="without Q/DQ"):
        prepare_graph(wide(), "int8")


def test_preparing_for_float16_converts_the_graph() -> None:
    kinds = {t.data_type for t in prepare_graph(wide(), "float16").graph.initializer}
    assert kinds == {TensorProto.FLOAT16}

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_edge.compression import LayerShape
from deepseek_edge.pipeline.layer_cost import (
    interpolate,
    layer_graph,
    layer_step,
    measure_layer,
    measured_cost,
    modelled_cost,
)
from deepseek_edge.target import load_target

CONV = LayerShape("conv", 64, 48, 1, (3, 3), (2, 2), (1, 1), (1, 1), (14, 14))
DEPTHWISE = LayerShape("conv", 96, 96, 96, (3, 3), (1, 1), (1, 1), (1, 1), (7, 7))
UP = LayerShape("conv_transpose", 8, 6, 2, (2, 2), (2, 2), (0, 0), (1, 1), (5, 5))
LINEAR = LayerShape("linear", 64, 10, size=(7,), batch=2)
SHAPES = (CONV, DEPTHWISE, UP, LINEAR)


def test_the_work_of_a_layer_is_counted_by_hand() -> None:
    step = layer_step(CONV)
    assert step.macs == 7 * 7 * 48 * 9 * 64
    assert step.bytes_read == 4 * (48 * 64 * 9 + 64 * 14 * 14)
    assert step.bytes_written == 4 * 48 * 7 * 7
    assert layer_step(replace(CONV, out_channels=44), lanes=16).macs == step.macs
    assert layer_step(UP).bytes_written == 4 * 6 * 10 * 10


def test_modelled_time_is_the_roofs() -> None:
    target = load_target("raspberry-pi-5")
    cost = modelled_cost(target)
    assert target.clock_hz is not None
    per_s = target.peak_fma_per_cycle * target.clock_hz * target.cores
    large = replace(CONV, in_channels=512, out_channels=512, size=(56, 56))
    assert cost(large) == pytest.approx(1e3 * large.macs / per_s)
    assert target.memory_bandwidth_bytes_s is not None
    thin = LayerShape("linear", 4096, 4096)
    bytes_ms = 4e3 * (4096 * 4096 + 2 * 4096) / target.memory_bandwidth_bytes_s
    assert cost(thin) == pytest.approx(bytes_ms)
    # A part of a register takes as long as all of it.
    assert cost(replace(large, out_channels=509)) == pytest.approx(cost(large), rel=1e-6)


def test_wide_layers_are_interpolated_between_measured_widths() -> None:
    asked: list[tuple[int, int]] = []

    def cost(shape: LayerShape) -> float:
        asked.append((shape.in_channels, shape.out_channels))
        return shape.in_channels * shape.out_channels / 1000.0

    # Bilinear, so exact for a product.
    assert interpolate(replace(CONV, in_channels=56, out_channels=80), cost) == pytest.approx(4.48)
    assert asked == [(32, 64), (32, 128), (64, 64), (64, 128)]
    asked.clear()
    assert interpolate(replace(CONV, in_channels=3, out_channels=24), cost) == pytest.approx(0.072)
    assert interpolate(replace(CONV, in_channels=128, out_channels=256), cost) > 0
    assert asked == [(3, 24), (128, 256)]
    asked.clear()
    interpolate(replace(DEPTHWISE, in_channels=72, out_channels=72, groups=72), cost)
    assert asked == [(64, 64), (128, 128)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_of_a_layer_has_its_sizes(shape: LayerShape) -> None:
    graph = onnx.shape_inference.infer_shapes(layer_graph(shape), strict_mode=True)
    onnx.checker.check_model(graph, full_check=True)
    dims = [dim.dim_value for dim in graph.graph.output[0].type.tensor_type.shape.dim]
    if shape.op == "linear":
        assert dims == [2, 7, 10]
    else:
        assert dims[:2] == [1, shape.out_channels]
        assert np.prod(dims) * 4 == layer_step(shape).bytes_written


def test_each_shape_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[LayerShape] = []

    def measure(shape: LayerShape, *_: Any) -> float:
        compiled.append(shape)
        return 1.0

    monkeypatch.setattr("deepseek_edge.pipeline.layer_cost.measure_layer", measure)
    told: list[LayerShape] = []
    cost = measured_cost(load_target("host"), _never, told=told.append)
    narrow = replace(CONV, out_channels=24)
    assert [cost(one) for one in (narrow, narrow, LINEAR, narrow)] == [1.0] * 4
    assert compiled == told == [narrow, LINEAR]


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is compiled in this test")


@pytest.mark.tvm
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_compiled_and_timed_here(shape: LayerShape) -> None:
    from deepseek_edge.pipeline import tvm_backend

    folders: list[Path] = []
    backend = tvm_backend()

    def compile_program(*arguments: Any, work_dir: Path, **more: Any) -> Any:
        folders.append(work_dir)
        return backend(*arguments, work_dir=work_dir, **more)

    milliseconds = measure_layer(shape, load_target("host"), compile_program)
    # Between a kernel of nothing and a second.
    assert 1e-5 < milliseconds < 1e3
    assert len(folders) == 1 and not folders[0].exists()

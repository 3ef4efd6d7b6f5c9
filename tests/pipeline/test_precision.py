import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_edge.artifacts import KeptFloat, Layers, Step
from deepseek_edge.pipeline.precision import (
    LayerCost,
    all_float,
    choose_float,
    conversion_s,
    explain,
    layer_seconds,
    model_roof,
)
from deepseek_edge.profiling.roofline import least_s
from deepseek_edge.target import load_target


def test_steps_belong_to_the_layer_that_ran_before_them() -> None:
    steps = ["x/quantized", "a", "pool", "b", "softmax"]
    found = layer_seconds(["a", "b", "fused"], steps, [1.0, 2.0, 4.0, 8.0, 16.0])
    assert found == {"a": 7.0, "b": 24.0, "fused": 0.0}


def test_a_program_without_layers_has_no_times() -> None:
    assert layer_seconds([], ["pool"], [1.0]) == {}


def test_a_layer_that_is_slower_in_int8_stays_float_with_both_times() -> None:
    costs = [
        LayerCost("a", float_s=3e-3, int8_s=1e-3, boundary_s=0.0),
        LayerCost("b", float_s=0.32e-3, int8_s=0.41e-3, boundary_s=0.01e-3),
        LayerCost("c", float_s=3e-3, int8_s=1e-3, boundary_s=0.01e-3),
    ]
    assert choose_float(costs, "measured") == {"b": "int8 0.410 ms, float 0.320 ms"}
    assert choose_float(costs, "modelled") == {"b": "int8 0.410 ms, float 0.320 ms (modelled)"}


def test_a_gain_smaller_than_the_conversions_is_none() -> None:
    costs = [
        LayerCost("a", float_s=1.0, int8_s=2.0, boundary_s=0.3),
        LayerCost("b", float_s=1.0, int8_s=0.5, boundary_s=0.3),
        LayerCost("c", float_s=1.0, int8_s=2.0, boundary_s=0.3),
    ]
    assert list(choose_float(costs, "measured")) == ["a", "b", "c"]
    assert choose_float(costs, "measured")["b"].endswith("converting its input costs more")
    cheap = [replace(cost, boundary_s=0.2) for cost in costs]
    assert list(choose_float(cheap, "measured")) == ["a", "c"]


def test_a_layer_that_accuracy_or_its_form_keeps_float_has_that_reason() -> None:
    costs = [LayerCost("a", 1.0, 0.1, 0.0, reason="its input is transposed")]
    assert choose_float(costs, "measured") == {"a": "its input is transposed"}
    assert all_float(costs, "measured") == {"a": "its input is transposed"}


def test_as_fast_is_no_gain() -> None:
    assert list(choose_float([LayerCost("a", 1.0, 1.0, 0.0)], "measured")) == ["a"]


def test_a_program_that_is_faster_in_float_says_why_of_each_layer() -> None:
    found = all_float(
        [LayerCost("a", 1e-3, 2e-3, 0.0), LayerCost("b", 2e-3, 1e-3, 0.0)], "measured"
    )
    assert found == {
        "a": "int8 2.000 ms, float 1.000 ms",
        "b": "int8 1.000 ms, float 2.000 ms: the program as a whole is faster in float",
    }


times = st.integers(1, 20).map(float)


@settings(deadline=None)
@given(st.lists(st.tuples(times, times, times), min_size=1, max_size=7))
def test_no_other_choice_is_cheaper(rows: list[tuple[float, float, float]]) -> None:
    costs = [LayerCost(str(i), *row) for i, row in enumerate(rows)]

    def total(is_int8: tuple[bool, ...]) -> float:
        own = sum(c.int8_s if q else c.float_s for c, q in zip(costs, is_int8, strict=True))
        pairs = itertools.pairwise(is_int8)
        changes = [c.boundary_s for c, (a, b) in zip(costs[1:], pairs, strict=True) if a != b]
        return own + sum(changes)

    kept = choose_float(costs, "measured")
    chosen = total(tuple(cost.name not in kept for cost in costs))
    ways = itertools.product([False, True], repeat=len(costs))
    assert chosen == min(map(total, ways))


def test_reasons_replace_those_of_the_back_end() -> None:
    layers = Layers(3, 2, 0, 1, 0.5, (KeptFloat("a", "its weights are not quantized"),))
    assert explain(layers, {"a": "slower"}).kept_float == (KeptFloat("a", "slower"),)
    assert explain(layers, {}).kept_float == layers.kept_float
    pure = explain(Layers(1, 0, 0, 1, None), {"a": "slower"})
    assert (pure.kept_float, pure.int8_macs_share) == ((KeptFloat("a", "slower"),), 0.0)


def test_the_model_of_a_raspberry_pi_by_hand() -> None:
    pi = load_target("raspberry-pi-4")
    roof = model_roof(pi)
    # 4 cores x 4 multiply-adds x 1.5 GHz = 24e9 a second; 12.8 GB/s.
    step = Step("a", "Conv", 24_000_000, 100, 100, 1, 48_000_000)
    assert least_s(roof, step) == pytest.approx(1e-3)
    assert least_s(roof, replace(step, lane_macs=2)) == pytest.approx(0.5e-3)
    assert conversion_s(roof, 12_800) == pytest.approx(5e-6)  # 4 + 1 bytes an element


def test_a_target_that_hides_its_clock_can_be_modelled() -> None:
    unknown = replace(load_target("arm64"), clock_hz=None, memory_bandwidth_bytes_s=None)
    roof = model_roof(unknown)
    assert least_s(roof, Step("a", "Conv", 10**6, 8, 8, 1, 2 * 10**6)) > 0

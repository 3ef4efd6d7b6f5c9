from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.backends.tvm.fuse import fuse
from deepseek_edge.backends.tvm.layout import channels_last
from deepseek_edge.backends.tvm.schedules import winograd
from deepseek_edge.backends.tvm.schedules.fusion import Fusion
from deepseek_edge.backends.tvm.schedules.geometry import Geometry
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.schedules.minimal_filtering import F2, F4, Filtering
from deepseek_edge.device import qemu
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import Target, load_target
from tests.backends.tvm.oracle import (
    TOLERANCE,
    Array,
    Cases,
    Const,
    assert_equals_reference,
    compiled,
    difference,
    reference,
)
from tests.backends.tvm.strategies import Draw
from tests.backends.tvm.test_integer import TARGETS

pytestmark = pytest.mark.tvm
BOTH = pytest.mark.parametrize("filtering", [F2, F4], ids=["F2", "F4"])
SAME: dict[str, Any] = {"pads": [1, 1, 1, 1]}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch, filtering: Filtering) -> list[Lowering]:
    """Makes every eligible layer use ``filtering``, whatever the cost model says; lists them."""
    lowerings: list[Lowering] = []
    lower = winograd.winograd

    def noted(*args: Any, **kwargs: Any) -> Lowering:
        lowerings.append(lower(*args, **kwargs))
        return lowerings[-1]

    monkeypatch.setattr(winograd, "cycles", lambda kind, *_: 1.0 if kind is filtering else 2.0)
    monkeypatch.setattr(winograd, "winograd", noted)
    return lowerings


def convolutions(d: Draw) -> Cases:
    """Odd sizes, partial tiles, channels that fill no vector, padding of each side, batches."""
    cases = Cases()
    for bias in (True, False):
        channels, outs = d.between(1, 40), d.between(1, 70)
        pads = [d.between(0, 2) for _ in range(4)]
        x = d.floats(d.between(1, 2), channels, d.between(3, 15), d.between(3, 15))
        more = [Const(d.floats(outs))] if bias else []
        cases.add("Conv", x, Const(d.floats(outs, channels, 3, 3)), *more, pads=pads)
    return cases


@BOTH
@pytest.mark.parametrize("seed", [1, 2])
def test_any_size_padding_and_batch_equals_the_reference(
    used: list[Lowering], filtering: Filtering, seed: int
) -> None:
    assert_equals_reference(convolutions(Draw(seed)), 1e-5)
    assert len(used) == 2


@BOTH
def test_a_residual_and_its_activation_are_computed_with_the_outputs(
    used: list[Lowering], filtering: Filtering
) -> None:
    d, cases = Draw(0), Cases()
    x = d.floats(2, 36, 11, 9)
    y = cases.inner("Conv", x, Const(d.floats(36, 36, 3, 3)), Const(d.floats(36)), **SAME)
    cases.add("Relu", cases.inner("Add", y, "x0_0"))
    assert_equals_reference(cases, 1e-5)
    assert len(used) == 1


@BOTH
def test_large_inputs_and_channels_of_mixed_magnitudes_stay_accurate(
    used: list[Lowering], filtering: Filtering
) -> None:
    d, cases = Draw(3), Cases()
    weights = Const(d.floats(20, 24, 3, 3))
    cases.add("Conv", d.floats(1, 24, 10, 10) * np.float32(1e4), weights, **SAME)
    scales = np.logspace(-4, 4, 24).astype(np.float32).reshape(24, 1, 1)
    cases.add("Conv", d.floats(1, 24, 10, 10) * scales, weights, **SAME)
    offset = d.floats(1, 24, 10, 10) + np.float32(1e3)
    cases.add("Conv", offset, weights, Const(d.floats(20) * np.float32(1e4)), **SAME)
    assert_equals_reference(cases, 2e-5)
    assert len(used) == 3


@BOTH
def test_the_error_is_what_its_documentation_says(
    used: list[Lowering], filtering: Filtering, tmp_path: Path
) -> None:
    d, cases = Draw(4), Cases()
    x, weights = d.floats(1, 64, 24, 24), d.floats(32, 64, 3, 3)
    name = cases.add("Conv", x, Const(weights))
    program = compiled(cases.model(), tmp_path)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), (2, 3))
    exact = np.einsum("nchwrs,ocrs->nohw", windows, weights, optimize=True)
    with Engine(program.library, threads=1) as engine:
        error = engine.run(cases.feeds)[name] - exact
    decibels = 10 * np.log10(np.mean(exact**2) / np.mean(error**2))
    assert decibels > (120 if filtering is F4 else 130)


@BOTH
def test_results_do_not_depend_on_the_threads(
    used: list[Lowering], filtering: Filtering, tmp_path: Path
) -> None:
    d, cases = Draw(5), Cases()
    cases.add("Conv", d.floats(1, 32, 61, 59), Const(d.floats(96, 32, 3, 3)), **SAME)
    program = compiled(cases.model(), tmp_path)
    assert used[0].tasks > 3
    answers: list[Array] = []
    for threads in (1, 2, 3):
        with Engine(program.library, threads=threads) as engine:
            answers += [next(iter(engine.run(cases.feeds).values())).copy() for _ in range(3)]
    assert all(np.array_equal(answers[0], other) for other in answers)
    expected = next(iter(reference(cases.model(), cases.feeds).values()))
    assert difference(expected, answers[0], 1e-5) is None


@pytest.mark.parametrize("filtering", [F4], ids=["F4"])
def test_batch_sizes_share_their_weights(
    used: list[Lowering], filtering: Filtering, tmp_path: Path
) -> None:
    d, cases = Draw(6), Cases()
    cases.add("Conv", d.floats(1, 24, 9, 9), Const(d.floats(40, 24, 3, 3)), **SAME)
    program = compiled(cases.model(), tmp_path, None, 1, 4)
    assert len(used) == 2
    assert program.weights_bytes < 1.3 * 4 * F4.positions * 24 * 40


@pytest.mark.parametrize("filtering", [F4], ids=["F4"])
@pytest.mark.parametrize("core", ["sse", "avx2"])
def test_older_x86_cores_compute_the_same(
    used: list[Lowering], filtering: Filtering, core: str, tmp_path: Path
) -> None:
    cases = convolutions(Draw(7))
    program = compiled(cases.model(), tmp_path, TARGETS[core]())
    assert len(used) == 2
    expected = reference(cases.model(), cases.feeds)
    with Engine(program.library, threads=2) as engine:
        answers = engine.run(cases.feeds)
    assert all(difference(expected[name], answers[name], TOLERANCE) is None for name in expected)


@pytest.mark.emulated
@pytest.mark.parametrize("filtering", [F4], ids=["F4"])
def test_arm_computes_the_same(used: list[Lowering], filtering: Filtering, tmp_path: Path) -> None:
    cases, target = convolutions(Draw(8)), load_target("raspberry-pi-4")
    program = compiled(cases.model(), tmp_path, target)
    assert len(used) == 2
    answers = qemu.run(
        program.library, target, cases.feeds, specs=program.entries[0], threads=2, timeout_s=100
    )
    expected = reference(cases.model(), cases.feeds)
    assert all(difference(expected[name], answers[name], TOLERANCE) is None for name in expected)


def chosen(
    target: Target,
    channels: int,
    outs: int,
    size: int,
    *,
    kernel: int = 3,
    quantized: bool = False,
    **attrs: Any,
) -> Filtering | None:
    """What is chosen for one square layer."""
    cases = Cases()
    weights = np.zeros((outs, channels // attrs.get("group", 1), kernel, kernel), np.float32)
    x = np.zeros((1, channels, size, size), np.float32)
    cases.add("Conv", x, Const(weights), pads=[kernel // 2] * 4, **attrs)
    graph = cases.graph()
    channels_last(graph)
    (step,) = (step for step in fuse(graph) if step.anchor and step.anchor.op == "Conv")
    assert step.anchor is not None
    step.anchor.attrs["is_quantized_graph"] = quantized
    shape = Geometry.of(step.anchor, (kernel, kernel))
    return winograd.choose_filtering(step.anchor, Fusion(step, target), target, shape, weights)


def desktop() -> Target:
    """Two cores with AVX-512, at 4 bytes of memory a cycle each."""
    return replace(
        load_target("raspberry-pi-4"),
        vector_bits=512,
        cores=2,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
        peak_fma_per_cycle=32,
        memory_bandwidth_bytes_s=None,
    )


def test_large_images_are_filtered_by_four_and_many_weights_are_not_multiplied() -> None:
    layers = [(64, 56), (128, 28), (256, 14), (512, 7)]
    assert [chosen(desktop(), c, c, size) for c, size in layers] == [F4, F4, F2, None]
    # Arithmetic is slower on the boards, so that more weights pay.
    board = load_target("raspberry-pi-4")
    assert [chosen(board, c, c, size) for c, size in layers] == [F4, F4, F4, F2]


def test_few_channels_are_not_worth_the_transforms() -> None:
    assert chosen(desktop(), 3, 64, 64) is None
    assert chosen(desktop(), 64, 1, 64) is None


def test_only_dense_float_layers_of_float_graphs_with_three_taps_are_eligible() -> None:
    board = load_target("raspberry-pi-4")
    assert chosen(board, 64, 64, 56) is F4
    assert chosen(board, 64, 64, 56, quantized=True) is None
    assert chosen(board, 64, 64, 56, strides=[2, 2]) is None
    assert chosen(board, 64, 64, 56, dilations=[2, 2]) is None
    assert chosen(board, 64, 64, 56, group=2) is None
    assert chosen(board, 64, 64, 56, kernel=5) is None

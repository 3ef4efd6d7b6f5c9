import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from deepseek_edge.artifacts import Entry, Layers, Program
from deepseek_edge.compression import LayerShape
from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.pipeline.layer_cost import modelled_cost
from deepseek_edge.pipeline.pruning import ATTEMPTS, PruneInstruments, prune_module
from deepseek_edge.target import load_target
from deepseek_edge.tensors import TensorSpec

modules = pytest.importorskip("tests.compression.modules")
pytestmark = pytest.mark.torch

HOST = load_target("host")


def build(model: onnx.ModelProto, target: Any, *, work_dir: Path, **_: Any) -> Program:
    """A library that is as large as the weights have elements."""
    elements = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    library = work_dir / "model.so"
    library.write_bytes(bytes(elements))
    return Program(
        id="cpu",
        backend="tvm",
        precision="float32",
        library=library,
        entries=(Entry("batch1", (TensorSpec("x", "float32", (1, 3, 8, 8)),), (), ()),),
        features=(),
        size_bytes=0,
        code_bytes=0,
        weights_bytes=0,
        arena_bytes=0,
        layers=Layers(3, 0, 0, 3, 0.0),
    )


def by_size(libraries: Sequence[Path], _inputs: Any) -> list[float]:
    """A microsecond for each weight."""
    return [path.stat().st_size * 1e-6 for path in libraries]


def weights_cost(*_: Any, told: Any) -> Any:
    """Half of what whole programs take."""

    def cost(shape: LayerShape) -> float:
        told(shape)
        columns = shape.in_channels * math.prod(shape.kernel)
        return 0.5e-3 * shape.out_channels * columns

    return cost


INSTRUMENTS = PruneInstruments(build, weights_cost, by_size)


def test_a_ratio_alone_needs_no_target() -> None:
    pruned = prune_module(*modules.chain(), ratio=0.3)
    assert 0.3 <= pruned.model.report.parameters_share < 0.5
    assert (pruned.basis, pruned.measured_ms_after) == (None, None)
    assert pruned.model.report.predicted_ms_after is None


def test_widths_are_vectors_of_the_target_but_not_too_small() -> None:
    wide = replace(HOST, id="wide", mcpu="other", vector_bits=512)
    for target, tile in ((load_target("raspberry-pi-5"), 8), (wide, 16)):
        report = prune_module(*modules.chain(), ratio=0.2, target=target).model.report
        assert [layer.out_after % tile for layer in report.layers[:2]] == [0, 0]
        assert min(layer.out_after for layer in report.layers[:2]) == 32 - tile


def test_another_machines_times_are_modelled() -> None:
    target = load_target("raspberry-pi-5")
    module, inputs = modules.chain()
    whole = prune_module(module, inputs, ratio=0.01, target=target).model.report
    assert whole.predicted_ms_before is not None
    budget = 0.6 * whole.predicted_ms_before
    pruned = prune_module(module, inputs, latency_budget_ms=budget, target=target)
    report = pruned.model.report
    assert pruned.basis == "modelled" and pruned.measured_ms_after is None
    assert report.predicted_ms_after is not None and report.predicted_ms_after <= budget
    cost = modelled_cost(target)
    first = LayerShape("conv", 3, 32, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))
    second = replace(first, in_channels=32)
    last = LayerShape("linear", 128, 5)
    assert report.predicted_ms_before == pytest.approx(sum(map(cost, (first, second, last))))


def test_this_machines_predictions_are_scaled_to_whole_calls() -> None:
    module, inputs = modules.chain()
    told: list[str] = []
    pruned = prune_module(
        module,
        inputs,
        latency_budget_ms=6.0,
        target=HOST,
        narrate=told.append,
        instruments=INSTRUMENTS,
    )
    report = pruned.model.report
    assert pruned.basis == "measured"
    before, after = pruned.measured_ms_before, pruned.measured_ms_after
    assert before is not None and after is not None
    assert report.predicted_ms_before == pytest.approx(before)
    assert report.predicted_ms_after == pytest.approx(after, rel=0.1)
    assert after <= 6.0 < before
    assert any("its layers one by one" in line for line in told)


def test_a_budget_that_is_missed_is_tightened() -> None:
    calls: list[float] = []

    def slow_start(libraries: Sequence[Path], inputs: Any) -> list[float]:
        times = by_size(libraries, inputs)
        if len(times) == 1:
            return times
        calls.append(times[1])
        # What is left when channels go has no weights: 2 ms that nothing predicts.
        return [times[0], times[1] + 2e-3]

    told: list[str] = []
    instruments = replace(INSTRUMENTS, calls=slow_start)
    pruned = prune_module(
        *modules.chain(),
        latency_budget_ms=6.0,
        target=HOST,
        narrate=told.append,
        instruments=instruments,
    )
    assert pruned.measured_ms_after is not None and pruned.measured_ms_after <= 6.0
    assert 1 < len(calls) <= ATTEMPTS and calls == sorted(calls, reverse=True)
    assert sum("were asked for" in line for line in told) == len(calls) - 1


def test_a_budget_that_measuring_never_confirms_ends_with_what_was_found() -> None:
    instruments = replace(INSTRUMENTS, calls=lambda libraries, _: [10e-3] * len(libraries))
    told: list[str] = []
    pruned = prune_module(
        *modules.chain(),
        latency_budget_ms=2.5,
        target=HOST,
        narrate=told.append,
        instruments=instruments,
    )
    assert pruned.measured_ms_after == 10.0
    assert "least" in told[-1] or "the budget is missed" in told[-1]


def test_what_cannot_be_meant_is_refused() -> None:
    pair = modules.chain()
    with pytest.raises(UsageError, match="a ratio or a latency budget"):
        prune_module(*pair)
    with pytest.raises(UsageError, match="not both"):
        prune_module(*pair, ratio=0.3, latency_budget_ms=1.0, target=HOST)
    with pytest.raises(UsageError, match="a latency is one of a target"):
        prune_module(*pair, latency_budget_ms=1.0)
    with pytest.raises(UnsupportedError, match="is the least"):
        prune_module(*pair, latency_budget_ms=1e-9, target=load_target("raspberry-pi-4"))


@pytest.mark.tvm
@pytest.mark.slow
def test_what_is_pruned_takes_less_on_this_machine() -> None:
    module = modules.randomized(modules.Chain(64, size=32))
    pruned = prune_module(module, modules.image(32), ratio=0.7, target=HOST)
    report = pruned.model.report
    assert pruned.basis == "measured"
    assert report.predicted_ms_before is not None and report.predicted_ms_after is not None
    assert 0 < report.predicted_ms_after < 0.7 * report.predicted_ms_before
    assert pruned.measured_ms_before is not None and pruned.measured_ms_after is not None
    assert 0 < pruned.measured_ms_after < 0.8 * pruned.measured_ms_before

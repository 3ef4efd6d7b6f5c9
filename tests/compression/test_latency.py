import pytest
import torch
from torch import Tensor, nn

from deepseek_edge.compression import ChannelPruner, LayerShape
from deepseek_edge.errors import UnsupportedError, UsageError
from examples import models
from tests.compression import modules as small
from tests.compression.modules import image, randomized

pytestmark = pytest.mark.torch


def pair(width: int = 32) -> tuple[nn.Module, tuple[Tensor]]:
    return randomized(small.Chain(width)), image()


def by_macs(shape: LayerShape) -> float:
    return shape.macs * 1e-6


def widths(module: nn.Module) -> list[int]:
    return [one.out_channels for one in module.modules() if isinstance(one, nn.Conv2d)]


def test_the_predicted_time_is_the_sum_of_the_layers_and_within_the_budget() -> None:
    # 64 places of 32 x 27 and 32 x 288 products, and 128 x 5 behind: twice, since two images.
    whole = 2 * (64 * (32 * 27 + 32 * 288) + 128 * 5) * 1e-6
    pruned = ChannelPruner(pair(), cost=by_macs, latency_budget_ms=0.5 * whole).compress()
    report = pruned.report
    assert report.predicted_ms_before == pytest.approx(whole)
    assert report.predicted_ms_after is not None
    assert 0.2 * whole < report.predicted_ms_after <= 0.5 * whole
    assert report.predicted_ms_after == pytest.approx(report.macs_after * 1e-6)


def test_a_ratio_with_a_cost_says_what_it_comes_to() -> None:
    report = ChannelPruner(pair(), 0.3, cost=by_macs).compress().report
    assert report.predicted_ms_before == pytest.approx(report.macs_before * 1e-6)
    assert report.predicted_ms_after == pytest.approx(report.macs_after * 1e-6)


def test_channels_go_where_they_cost_most() -> None:
    def second_costs(shape: LayerShape) -> float:
        return shape.out_channels / 32.0 if shape.in_channels == 32 else 0.001

    module, inputs = pair()
    budget = ChannelPruner(
        (module, inputs), cost=second_costs, latency_budget_ms=0.6, excluded=["first"]
    )
    assert widths(budget.compress().module) == [32, 16]


def test_steps_of_a_kernel_are_climbed_over() -> None:
    """A tile of 8 saves nothing until 16 are gone together."""

    def stairs(shape: LayerShape) -> float:
        return -(-shape.out_channels // 16) if shape.op == "conv" else 0.0

    pruned = ChannelPruner(pair(), cost=stairs, latency_budget_ms=3.0).compress()
    assert sorted(widths(pruned.module)) == [16, 32]


def test_a_budget_that_is_met_already_removes_nothing() -> None:
    module, inputs = pair()
    pruned = ChannelPruner((module, inputs), cost=by_macs, latency_budget_ms=1e3).compress()
    assert widths(pruned.module) == [32, 32]
    assert torch.equal(pruned.module(*inputs), module(*inputs))


def test_a_budget_that_cannot_be_met_names_the_least_that_can() -> None:
    least = 2 * (64 * (8 * 27 + 8 * 72) + 32 * 5) * 1e-6
    with pytest.raises(UnsupportedError, match=rf"1e-06 ms can't be reached: {least:.3g} ms"):
        ChannelPruner(pair(), cost=by_macs, latency_budget_ms=1e-6).compress()
    exact = ChannelPruner(pair(), cost=by_macs, latency_budget_ms=1.0001 * least).compress()
    assert widths(exact.module) == [8, 8]


def test_a_large_model_is_halved_with_few_questions() -> None:
    asked: list[LayerShape] = []

    def cost(shape: LayerShape) -> float:
        asked.append(shape)
        return shape.macs * 1e-6

    module, _ = models.resnet_18()
    inputs = (torch.zeros(1, 3, 64, 64),)
    whole = ChannelPruner(module, 0.01, example_inputs=inputs, cost=by_macs).compress().report
    assert whole.predicted_ms_before is not None
    budget = 0.5 * whole.predicted_ms_before
    pruned = ChannelPruner(
        module, example_inputs=inputs, cost=cost, latency_budget_ms=budget
    ).compress()
    assert pruned.report.predicted_ms_after == pytest.approx(budget, rel=0.02)
    assert len(asked) == len(set(asked)) < 6000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency_budget_ms": 1.0}, "needs to know what layers cost"),
        ({"latency_budget_ms": 0.0, "cost": by_macs}, "no model takes 0 ms"),
        ({"latency_budget_ms": 1.0, "cost": by_macs, "iterations": 2}, "in one round"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ChannelPruner(pair(), **settings)  # type: ignore[arg-type]

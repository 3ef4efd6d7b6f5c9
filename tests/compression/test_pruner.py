import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepseek_edge.compression import ChannelPruner, LayerShape
from deepseek_edge.compression.verification import outputs
from deepseek_edge.errors import UnsupportedError, UsageError
from examples import models
from tests.compression import modules as small
from tests.compression.modules import image, randomized

pytestmark = pytest.mark.torch


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def chain() -> tuple[nn.Module, tuple[Tensor]]:
    return randomized(small.Chain(32)), image()


def mlp() -> tuple[nn.Module, tuple[Tensor]]:
    """Four hidden units whose weights are known."""
    first, last = nn.Linear(2, 4), nn.Linear(4, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [0.1, 0.1], [5.0, 0.0], [0.0, 0.2]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -0.5]]))
    return nn.Sequential(first, nn.ReLU(), last), (torch.ones(1, 2),)


def test_multiply_accumulates_are_counted_as_the_paper_does() -> None:
    # The first convolution of ResNet: 112 x 112 places, 64 filters of 7 x 7 x 3.
    stem = LayerShape("conv", 3, 64, 1, (7, 7), (2, 2), (3, 3), (1, 1), (224, 224))
    assert stem.output_size == (112, 112)
    assert stem.macs == 112 * 112 * 64 * 7 * 7 * 3
    depthwise = LayerShape("conv", 8, 8, 8, (3, 3), (1, 1), (1, 1), (1, 1), (5, 6), batch=2)
    assert depthwise.macs == 2 * 5 * 6 * 8 * 9
    assert LayerShape("linear", 10, 4, size=(7,)).macs == 280
    up = LayerShape("conv_transpose", 4, 6, 2, (2, 2), (2, 2), (0, 0), (1, 1), (3, 3))
    assert up.macs == 9 * 4 * 3 * 4


@pytest.mark.parametrize(
    ("importance", "kept"),
    # l1: 3, 1.2, 6, 0.7; l2: sqrt(3), sqrt(1.02), sqrt(26), sqrt(0.29)
    [("l1", [0, 2]), ("l2", [0, 2])],
)
def test_the_least_important_units_go(importance: Any, kept: list[int]) -> None:
    pair = mlp()
    pruner = ChannelPruner(pair, 0.4, importance=importance, round_to=1)
    pruned = pruner.compress()
    # 17 parameters; each unit has 2 weights, a bias and a column: 2 units are 8 of 17.
    assert (pruned.report.parameters_before, pruned.report.parameters_after) == (17, 9)
    assert torch.equal(pruned.module[0].weight, pair[0][0].weight[kept])  # type: ignore[index]


def test_taylor_removes_what_the_loss_does_not_feel() -> None:
    module, inputs = mlp()
    # Unit 2 is the largest, but these inputs never turn it on.
    batches = [(torch.tensor([[-1.0, 3.0]]), torch.zeros(1, 1))] * 2
    pruner = ChannelPruner(
        module,
        0.2,
        example_inputs=inputs,
        importance="taylor",
        round_to=1,
        loss=lambda model, x, y: functional.mse_loss(model(x), y),
        data=batches,
    )
    pruned = pruner.compress().module
    assert torch.equal(pruned[0].weight, module[0].weight[[0, 1, 3]])  # type: ignore[index]
    assert all(value.grad is None for value in module.parameters())


def test_batch_norm_scales_rank_channels() -> None:
    module, inputs = randomized(small.Depthwise()), image()
    assert isinstance(module, small.Depthwise)
    with torch.no_grad():
        module.norm.weight.copy_(torch.linspace(-1.0, 1.1, 16))
    pruned = ChannelPruner((module, inputs), 0.4, importance="bn_scale").compress().module
    kept = [0, 1, 2, 3, 12, 13, 14, 15]
    assert isinstance(pruned, small.Depthwise)
    assert torch.equal(pruned.norm.weight, module.norm.weight[kept])
    assert torch.equal(pruned.norm.running_var, module.norm.running_var[kept])  # type: ignore


def test_the_norm_of_a_row_counts_with_its_normalization() -> None:
    module, inputs = randomized(small.Depthwise()), image()
    assert isinstance(module, small.Depthwise)
    whole = ChannelPruner((module, inputs), 0.4).compress().module
    with torch.no_grad():  # the same function: the normalization undoes the factor
        factor = torch.linspace(0.1, 10.0, 16)
        module.each.weight.mul_(factor.view(-1, 1, 1, 1))
        module.norm.running_mean.mul_(factor)  # type: ignore[union-attr]
        module.norm.running_var.mul_(factor**2)  # type: ignore[union-attr]
        module.norm.eps = 0.0
    scaled = ChannelPruner((module, inputs), 0.4).compress().module
    assert isinstance(whole, small.Depthwise) and isinstance(scaled, small.Depthwise)
    assert torch.equal(whole.last.weight, scaled.last.weight)


@pytest.mark.parametrize("by", ["parameters", "macs"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7])
def test_the_ratio_is_met_within_one_tile(by: Any, scope: Any, ratio: float) -> None:
    report = ChannelPruner(chain(), ratio, by=by, scope=scope, round_to=4).compress().report
    share = report.parameters_share if by == "parameters" else report.macs_share
    # A tile of 4 of the 32 channels is at most an eighth of two of the layers.
    assert ratio <= share < ratio + 0.16


def test_layers_lose_the_same_share_if_asked_to() -> None:
    report = ChannelPruner(chain(), 0.5, scope="layer").compress().report
    assert [layer.out_after for layer in report.layers] == [16, 24, 5]
    assert [layer.out_before for layer in report.layers] == [32, 32, 5]


@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_pruned_widths_are_whole_tiles(round_to: int) -> None:
    pruned = ChannelPruner(models.mobilenet_v3_small(), 0.5, round_to=round_to).compress()
    changed = [one for one in pruned.report.layers if one.out_after < one.out_before]
    assert len(changed) > 20
    assert all(one.out_after % round_to == 0 and one.out_after > 0 for one in changed)


def test_the_report_counts_what_the_module_has() -> None:
    module, inputs = models.resnet_18()
    pruned = ChannelPruner(module, 0.3, example_inputs=inputs).compress()
    report = pruned.report
    assert report.parameters_before == parameters(module) == 11_689_512
    assert report.parameters_after == parameters(pruned.module)
    # ResNet-18's 1.8 billion multiply-adds: He et al. 2015, table 1.
    assert report.macs_before == pytest.approx(1.8e9, rel=0.02)
    assert report.macs_after == sum(layer.macs_after for layer in report.layers)
    again = ChannelPruner(pruned.module, 0.01, example_inputs=inputs).compress().report
    assert again.macs_before == report.macs_after
    assert [one.reason for one in report.unpruned] == ["the model returns them"]


def test_zero_channels_go_first_and_change_nothing() -> None:
    module, inputs = randomized(small.Residual(32)), image()
    assert isinstance(module, small.Residual)
    with torch.no_grad():
        for channel in (1, 5, 8, 9, 20, 21, 30, 31):
            for weight in (module.stem.weight, module.stem.bias, module.outer.weight):
                assert weight is not None
                weight[channel] = 0
            module.norm.weight[channel] = module.norm.bias[channel] = 0
            module.last.weight[:, channel] = module.inner.weight[:, channel] = 0
    pruned = ChannelPruner((module, inputs), 0.1).compress()
    assert parameters(pruned.module) < 0.9 * parameters(module)
    for whole, part in zip(outputs(module, inputs), outputs(pruned.module, inputs), strict=True):
        assert torch.allclose(whole, part, atol=1e-5)


def test_excluded_blocks_keep_their_outputs() -> None:
    pair = models.resnet_18()
    stage = "classifier.resnet.encoder.stages.3"
    report = ChannelPruner(pair, 0.1, excluded=[stage]).compress().report
    inside = [one for one in report.layers if one.name.startswith(stage)]
    assert len(inside) == 5
    assert all(one.out_after == one.out_before for one in inside)
    reasons = {one.name: one.reason for one in report.unpruned}
    assert {reasons[one.name] for one in inside} == {"excluded"}


def test_rounds_are_equal_and_trained_between() -> None:
    seen: list[int] = []
    pair = chain()
    pruner = ChannelPruner(
        pair, 0.6, iterations=3, round_to=1, fine_tune=lambda m: seen.append(parameters(m))
    )
    report = pruner.compress().report
    whole = parameters(pair[0])
    assert [math.floor(10 * count / whole) for count in seen] == [7, 5]
    assert 0.6 <= report.parameters_share < 0.63
    assert report.parameters_before == whole
    assert report.layers[0].out_before == 32


def test_code_that_says_a_size_keeps_its_channels_and_the_rest_goes() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed = small.SplitByNumber()
            self.free = small.Chain()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.fixed(x), self.free(x)

    report = ChannelPruner((randomized(Both()), image()), 0.3, round_to=4).compress().report
    reasons = {one.name: one.reason for one in report.unpruned}
    assert reasons["fixed.first"].startswith("the code fixes a size")
    assert "free.first" not in reasons


def test_a_scale_that_counts_channels_is_found_out() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 1)
            self.second = nn.Conv2d(16, 16, 1)
            self.last = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.first(x))
            return self.last(functional.relu(self.second(x / x.shape[1])))

    report = ChannelPruner((randomized(Scaled()), image()), 0.2).compress().report
    reasons = {one.name: one.reason for one in report.unpruned}
    assert reasons["first"] == "the code computes something from their number"
    assert [one.out_after for one in report.layers] == [16, 8, 4]


def test_a_pruned_module_exports_and_trains() -> None:
    pruned = ChannelPruner(models.mobilenet_v3_small(), 0.3).compress()
    module = pruned.module.train()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())
    module(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(value.grad is not None for value in module.parameters())


def run_bare() -> object:
    return ChannelPruner(small.Chain(), pruning_ratio=0.3)


def run_typo() -> object:
    return ChannelPruner(chain(), excluded=["secnd"])


def run_taylor() -> object:
    return ChannelPruner(chain(), importance="taylor")


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (run_bare, "doesn't tell the shapes", "example_inputs="),
        (run_typo, "no module secnd", "did you mean second"),
        (run_taylor, "needs the loss", "loss= and data="),
        (lambda: ChannelPruner(chain(), 0.0), "0 is not between 0 and 1", "0.3"),
        (lambda: ChannelPruner(chain(), 1.0), "1 is not between 0 and 1", "0.3"),
        (lambda: ChannelPruner(chain(), math.nan), "nan is not between", "0.3"),
        (lambda: ChannelPruner(chain(), round_to=0), "rounded to 0", "1 doesn't round"),
        (lambda: ChannelPruner(chain(), iterations=0), "0 iterations", "at least 1"),
    ],
)
def test_bad_requests_are_refused(call: Callable[[], object], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        call()
    assert hint in str(raised.value.hint)


def test_more_than_can_go_is_refused_with_what_can() -> None:
    with pytest.raises(UnsupportedError, match=r"99\.0% .* can't be removed: 9\d\.\d% is the most"):
        ChannelPruner(chain(), 0.99).compress()
    with pytest.raises(UnsupportedError, match=r"0\.0% is the most") as raised:
        ChannelPruner(chain(), 0.1, excluded=["first", "second"]).compress()
    assert "first: excluded" in str(raised.value.hint)


def test_scales_that_do_not_exist_rank_nothing() -> None:
    with pytest.raises(UnsupportedError, match=r"no batch normalization .* first"):
        ChannelPruner(chain(), importance="bn_scale").compress()


def test_a_loss_that_is_no_number_is_refused() -> None:
    module, inputs = mlp()
    pruner = ChannelPruner(
        module,
        example_inputs=inputs,
        importance="taylor",
        round_to=1,
        loss=lambda model, x, y: model(x).sum() * math.nan,
        data=[(torch.ones(1, 2), torch.zeros(1))],
    )
    with pytest.raises(UsageError, match="the loss of batch 0 is nan"):
        pruner.compress()

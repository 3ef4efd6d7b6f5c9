from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepseek_edge.compression import ChannelPruner, SparsityTrainer
from deepseek_edge.compression.groups import find_groups
from deepseek_edge.compression.sparsity import _Lasso, ramp
from deepseek_edge.compression.verification import outputs
from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.training import TrainConfig, TrainingData, predict
from examples import fashion
from tests.compression import modules as small

pytestmark = pytest.mark.torch

CONFIG = TrainConfig(epochs=6, batch_size=32, learning_rate=0.05, warmup_epochs=0.5, device="cpu")


def stripes(count: int = 320, size: int = 8) -> TrainingData:
    """Images with horizontal or vertical stripes in noise, and which of the two it is."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    rows = (torch.arange(size) % 2 * 2.0 - 1.0).view(1, 1, size, 1).expand(count, 3, size, size)
    images = torch.where((labels == 0).view(-1, 1, 1, 1), rows, rows.transpose(2, 3))
    return TrainingData(images + 0.5 * torch.randn(images.shape, generator=generator), labels)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return small.Assembled([("residual", 16), ("depthwise", 24), ("concat", 16)], 16)


def difference(one: nn.Module, other: nn.Module, inputs: Tensor) -> float:
    pairs = zip(outputs(one, (inputs,)), outputs(other, (inputs,)), strict=True)
    return max(float((left - right).abs().max()) for left, right in pairs)


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_ramp_is_the_papers() -> None:
    assert [ramp(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0.0, 0.0, 0.875, 1.0, 1.0]


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("by", ["parameters", "macs"])
def test_what_training_removed_changes_nothing(average: float | None, by: Any) -> None:
    data, module = stripes(), net()
    before = parameters(module)
    config = TrainConfig(epochs=6, batch_size=32, learning_rate=0.05, average=average, device="cpu")
    trainer = SparsityTrainer(module, data, config, target_ratio=0.6, by=by, updates=5)
    pruned, result = trainer.train()
    share = pruned.report.parameters_share if by == "parameters" else pruned.report.macs_share
    assert 0.6 <= share < 0.75
    assert parameters(module) == before == pruned.report.parameters_before
    assert parameters(pruned.module) == pruned.report.parameters_after
    assert difference(module, pruned.module, data.inputs) < 1e-4
    assert result.steps == 60
    # What is left has learnt it: chance is a half.
    right = predict(pruned.module, data.inputs, device="cpu") == data.labels
    assert float(right.float().mean()) > 0.9
    assert "channel_states" not in dict(module.named_buffers())


def test_channels_are_zero_long_before_training_ends() -> None:
    data, module = stripes(), net()
    shares: list[float] = []

    def watch(_stage: str, done: int, _total: int) -> None:
        states = module.get_buffer("channel_states")
        shares.append(float((states == 2).float().mean()))

    SparsityTrainer(module, data, CONFIG, target_ratio=0.5, updates=5).train(progress=watch)
    assert shares[5] == 0.0  # before a tenth of 60 steps
    assert shares == sorted(shares)
    assert 0.0 < shares[18] < shares[-1]
    assert shares[49] == shares[-1] > 0.2  # the last update is at 36 steps, and fades for 6


def test_an_interrupted_run_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(_stage: str, done: int, _total: int) -> None:
        if done == 45:
            raise KilledError

    data, straight, broken, resumed = stripes(), net(), net(), net()
    whole, _ = SparsityTrainer(straight, data, CONFIG, target_ratio=0.5).train()
    path = tmp_path / "run.ckpt"
    with pytest.raises(KilledError):
        SparsityTrainer(broken, data, CONFIG, target_ratio=0.5).train(
            checkpoint=path, progress=kill
        )
    assert path.exists()
    again, _ = SparsityTrainer(resumed, data, CONFIG, target_ratio=0.5).train(checkpoint=path)
    assert again.report == whole.report
    assert difference(again.module, whole.module, data.inputs) < 1e-4


def test_the_lasso_shrinks_a_unit_by_its_norm() -> None:
    first, last = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    module = nn.Sequential(first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[3.0], [0.3]]))
        last.weight.copy_(torch.tensor([[4.0, -0.4]]))
    graph = find_groups(module, (torch.ones(1, 1),))
    config = TrainConfig(epochs=2, learning_rate=0.05, warmup_epochs=1.0)
    # At the top of the warm-up the rate is 0.05, and ten steps at once make 1: times sqrt(2).
    _Lasso(module, graph, config, penalty=2.0).on_step(10, 20)
    factor = 1.0 - 2.0**0.5 / 5.0
    assert first.weight.flatten().tolist() == pytest.approx([3.0 * factor, 0.0])
    assert last.weight.flatten().tolist() == pytest.approx([4.0 * factor, 0.0])


def test_the_lasso_makes_channels_zero_that_the_task_does_not_need() -> None:
    data, module = stripes(), net()
    trainer = SparsityTrainer(
        module, data, CONFIG, target_ratio=0.3, kind="group_lasso", penalty=0.2
    )
    pruned, _ = trainer.train()
    rows = [one.weight.flatten(1) for one in module.modules() if isinstance(one, nn.Conv2d)]
    assert sum(int((row == 0).all(1).sum()) for row in rows) > 40
    assert pruned.report.parameters_share >= 0.3
    # All that was removed was zero.
    assert difference(module, pruned.module, data.inputs) < 1e-4


def test_the_pruner_finds_what_training_left() -> None:
    data, module = stripes(), net()
    pruned, _ = SparsityTrainer(module, data, CONFIG, target_ratio=0.5).train()
    # Wherever it is: training left zeros where they cost least.
    again = ChannelPruner(
        module, 0.45, scope="global", example_inputs=(data.inputs[:2],)
    ).compress()
    assert difference(module, again.module, data.inputs) < 1e-4
    assert again.report.parameters_after >= pruned.report.parameters_after


def test_what_cannot_be_is_refused_before_training() -> None:
    data = stripes()

    def make(**settings: Any) -> SparsityTrainer:
        return SparsityTrainer(net(), data, CONFIG, **settings)

    with pytest.raises(UsageError, match=r"1\.2 is not between 0 and 1"):
        make(target_ratio=1.2)
    with pytest.raises(UsageError, match=r"from 0\.7 to 0\.6"):
        make(begin=0.7)
    with pytest.raises(UsageError, match="0 updates"):
        make(updates=0)
    with pytest.raises(UsageError, match="a penalty of 0"):
        make(penalty=0.0)
    with pytest.raises(UsageError, match="no module stm"):
        make(excluded=["stm"])
    steps: list[int] = []
    with pytest.raises(UnsupportedError, match="can't be removed"):
        make(target_ratio=0.99).train(progress=lambda *_: steps.append(1))
    assert steps == []


def test_a_network_that_judges_accuracy_fades_in_a_step_or_two() -> None:
    module, image = fashion.resnet_18(), fashion.example_input()
    data = TrainingData(torch.randn(8, *image.shape[1:]), torch.arange(8) % 10)
    config = TrainConfig(epochs=4, batch_size=8, learning_rate=0.01, device="cpu")
    pruned, _ = SparsityTrainer(module, data, config, target_ratio=0.7, updates=2).train()
    assert 0.7 <= pruned.report.parameters_share < 0.72
    assert difference(module, pruned.module, data.inputs) < 1e-4

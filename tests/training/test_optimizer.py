import pytest

from deepseek_edge.training import TrainConfig

torch = pytest.importorskip("torch")
optimizer = pytest.importorskip("deepseek_edge.training.optimizer")
pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_norms_and_marked_parameters_are_not_decayed(kind: str) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    model.scale = torch.nn.Parameter(torch.ones(2, 1))
    model.scale.no_weight_decay = True
    model.frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    config = TrainConfig(epochs=1, weight_decay=0.25, optimizer=kind)  # type: ignore[arg-type]
    decayed, kept = optimizer.make_optimizer(model, config, CPU).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.25, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert {id(p) for p in kept["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model.scale)
    }


def test_sgd_takes_nesterovs_step() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    config = TrainConfig(epochs=1, learning_rate=0.1, weight_decay=0.5)
    made = optimizer.make_optimizer(model, config, CPU)
    model.weight.grad = torch.full((1, 1), 2.0)
    made.step()
    # gradient 2 + 0.5; momentum buffer 2.5; step 0.1 (2.5 + 0.9 2.5)
    assert model.weight.item() == pytest.approx(1 - 0.475)


class TestWeightAverage:
    def test_forgets_the_first_weights_fast_and_later_ones_as_told(self) -> None:
        model = torch.nn.Linear(1, 1, bias=False)
        model.weight.data.fill_(0.0)
        average = optimizer.WeightAverage(model, 0.9)
        model.weight.data.fill_(1.0)
        average.update(1)  # decay 2/11
        assert average.values[0].item() == pytest.approx(9 / 11)
        average.update(1000)  # decay 0.9
        assert average.values[0].item() == pytest.approx(1 - 2 / 11 * 0.9)
        average.apply()
        assert model.weight.item() == average.values[0].item()

    def test_leaves_buffers_to_the_model(self) -> None:
        model = torch.nn.BatchNorm1d(2)
        average = optimizer.WeightAverage(model, 0.9)
        model.running_mean.fill_(3.0)
        average.apply()
        assert len(average.values) == 2
        assert model.running_mean.tolist() == [3.0, 3.0]

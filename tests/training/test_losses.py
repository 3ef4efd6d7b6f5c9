import math
from typing import Any

import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.training import TrainConfig, cross_entropy, distill
from deepseek_edge.training.losses import with_label_smoothing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LOGITS = [[math.log(3), 0.0], [0.0, 0.0]]  # probabilities 3/4 1/4, and halves
LABELS = [0, 1]


def answering(logits: list[list[float]]) -> Any:
    """A model whose logits are its bias, whatever comes in."""
    layer = torch.nn.Linear(1, 4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(logits).flatten())
    return torch.nn.Sequential(layer, torch.nn.Unflatten(1, (2, 2)), Diagonal())


class Diagonal(torch.nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return torch.stack([x[0, 0], x[1, 1]])


def inputs() -> Any:
    return torch.zeros(2, 1)


def test_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    value = cross_entropy(answering(LOGITS), inputs(), torch.tensor(LABELS))
    assert value.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    value = cross_entropy(
        answering(LOGITS),
        inputs(),
        torch.tensor(LABELS),
        label_smoothing=0.2,
    )
    # Targets 0.9 and 0.1.
    first = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert value.item() == pytest.approx((first + math.log(2)) / 2)


def test_distillation_weighs_the_teachers_answers_against_the_labels() -> None:
    teacher = answering([[0.0, 0.0], [0.0, 0.0]])
    loss = distill(teacher, temperature=2.0, weight=0.75)
    value = loss(answering(LOGITS), inputs(), torch.tensor(LABELS))
    # At temperature 2 the student's first answer is sqrt(3) to 1, the teacher's 1 to 1.
    odds = math.sqrt(3)
    apart = 0.5 * math.log(0.5 / (odds / (1 + odds))) + 0.5 * math.log(0.5 / (1 / (1 + odds)))
    hard = (math.log(4 / 3) + math.log(2)) / 2
    assert value.item() == pytest.approx(0.75 * 4 * apart / 2 + 0.25 * hard)


def test_a_student_may_be_its_own_teacher() -> None:
    model = torch.nn.Linear(1, 2)
    loss = distill(model, weight=1.0)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[1.0], [0.0]]))
    value = loss(model, torch.ones(2, 1), torch.tensor(LABELS))
    torch.autograd.backward(value)
    assert value > 0 and model.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("temperature", "weight"), [(0.0, 0.5), (1.0, 1.1), (1.0, -0.1)])
def test_distillation_out_of_range_is_refused(temperature: float, weight: float) -> None:
    with pytest.raises(UsageError, match="distillation"):
        distill(torch.nn.Linear(1, 2), temperature=temperature, weight=weight)


def test_the_settings_smoothing_goes_to_cross_entropy_and_to_no_other_loss() -> None:
    config = TrainConfig(epochs=1, label_smoothing=0.2)
    loss = with_label_smoothing(cross_entropy, config)
    value = loss(answering(LOGITS), inputs(), torch.tensor(LABELS))
    assert value > cross_entropy(answering(LOGITS), inputs(), torch.tensor(LABELS))
    with pytest.raises(UsageError, match=r"label_smoothing is 0\.2"):
        with_label_smoothing(distill(torch.nn.Linear(1, 2)), config)

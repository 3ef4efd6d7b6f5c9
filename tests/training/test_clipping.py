from typing import Any

import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.training import AdaptiveGradientClipper

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def layer(weight: Any, gradient: Any) -> Any:
    made = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
    made.weight.grad = torch.tensor(gradient)
    return made


def clipped(weight: Any, gradient: Any, factor: float = 0.1, **settings: Any) -> Any:
    made = layer(weight, gradient)
    AdaptiveGradientClipper(
        made,
        factor,
        **{"exclude": lambda _: False, **settings},
    ).clip()
    return made.weight.grad


def test_each_row_is_scaled_by_its_own_norm() -> None:
    # |W| 5, |G| 10: down to 0.5. |W| 10, |G| 0.5: below the limit of 1.
    found = clipped([[3.0, 4.0], [6.0, 8.0]], [[6.0, 8.0], [0.3, 0.4]])
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.4], [0.3, 0.4]]))


def test_weights_of_0_may_still_move() -> None:
    found = clipped([[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]], eps=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.03, 0.04], [0.0, 0.0]]))


def test_a_channel_of_a_convolution_is_a_unit_and_a_bias_is_one() -> None:
    made = torch.nn.Conv2d(2, 3, 3)
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter) * 100
    AdaptiveGradientClipper(made, 0.01).clip()
    weight = made.weight.detach()
    norms, limits = made.weight.grad.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 0.01 * limits)
    torch.testing.assert_close(made.bias.grad.norm(), 0.01 * made.bias.detach().norm())


def test_the_last_linear_layer_is_left_alone_unless_told_otherwise() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.ReLU())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    AdaptiveGradientClipper(model).clip()
    assert float(model[0].weight.grad.max()) < 1
    assert bool((model[1].weight.grad == 100).all()) and bool((model[1].bias.grad == 100).all())
    AdaptiveGradientClipper(model, exclude=lambda name: name.startswith("0.")).clip()
    assert float(model[1].weight.grad.max()) < 1


def test_parameters_without_gradients_are_passed_over() -> None:
    AdaptiveGradientClipper(torch.nn.Linear(2, 2), exclude=lambda _: False).clip()


def test_a_gradient_that_is_no_number_stays_so() -> None:
    found = clipped([[3.0, 4.0], [6.0, 8.0]], [[float("nan"), 1.0], [0.3, 0.4]])
    assert bool(found[0].isnan().all())


@pytest.mark.parametrize(("factor", "eps"), [(0.0, 1e-3), (0.1, 0.0)])
def test_factors_of_0_are_refused(factor: float, eps: float) -> None:
    with pytest.raises(UsageError, match="clip_factor"):
        AdaptiveGradientClipper(torch.nn.Linear(1, 1), factor, eps=eps)

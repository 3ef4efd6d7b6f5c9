import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

torch = pytest.importorskip("torch")

from deepseek_edge.quantization.affine import (  # noqa: E402
    Affine,
    dequantize,
    quantize,
    quantize_weights,
)
from deepseek_edge.quantization.qat.fake_quant import (  # noqa: E402
    ActivationQuantizer,
    WeightQuantizer,
    fake_quantize,
    gradient_share,
    step_size,
)

pytestmark = pytest.mark.torch


def gradients(x: list[float], scale: float, low: int, high: int) -> tuple[list[float], float]:
    values = torch.tensor(x, requires_grad=True)
    step = torch.tensor(scale, requires_grad=True)
    torch.autograd.backward(fake_quantize(values, step, low, high).sum())
    assert values.grad is not None and step.grad is not None
    return values.grad.tolist(), step.grad.item()


def test_numbers_become_multiples_of_the_step_with_ties_to_even() -> None:
    x = torch.tensor([0.0, 0.24, 0.25, 0.75, 1.25, -0.75, 9.0, -9.0])
    found = fake_quantize(x, torch.tensor(0.5), -4, 3)
    assert found.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, -1.0, 1.5, -2.0]


def test_the_gradient_passes_inside_the_range_and_the_steps_is_lsqs() -> None:
    # x / s: 0.4, 2.3, -1.8, 6, -5.2 -> 0, 2, -2, the bounds 3 and -4
    by_x, by_scale = gradients([0.2, 1.15, -0.9, 3.0, -2.6], 0.5, -4, 3)
    assert by_x == [1.0, 1.0, 1.0, 0.0, 0.0]
    # round(v) - v inside, the bound outside: -0.4 - 0.3 - 0.2 + 3 - 4
    assert by_scale == pytest.approx(-1.9, abs=1e-6)


def test_what_rounds_to_a_bound_is_inside() -> None:
    by_x, by_scale = gradients([1.7, 1.8], 0.5, -4, 3)  # 3.4 and 3.6 steps
    assert by_x == [1.0, 0.0]
    assert by_scale == pytest.approx((3 - 3.4) + 3, abs=1e-6)


def test_a_channels_step_gathers_its_own_weights_gradients() -> None:
    weights = torch.tensor([[0.2, 1.15], [3.0, -0.9]])
    scales = torch.full((2, 1), 0.5, requires_grad=True)
    torch.autograd.backward(fake_quantize(weights, scales, -4, 3).sum())
    assert scales.grad is not None
    assert scales.grad.flatten().tolist() == pytest.approx([-0.7, 2.8], abs=1e-6)


@given(
    x=st.floats(-8, 8),
    scale=st.floats(0.05, 2.0),
    low=st.integers(-20, 0),
    high=st.integers(1, 20),
)
def test_gradients_are_the_slopes_of_rounding_with_a_frozen_remainder(
    x: float, scale: float, low: int, high: int
) -> None:
    remainder = round(x / scale) - x / scale

    def surrogate(x: float, scale: float) -> float:
        return scale * min(max(x / scale + remainder, low), high)

    middle = x / scale + remainder  # a whole number: bounds lie between them
    if middle in (low, high):
        return  # the surrogate has a corner there
    (by_x,), by_scale = gradients([x], scale, low, high)
    h = 1e-4 * scale * min(1.0, 1.0 / max(abs(x / scale), 1e-3))
    slope_x = (surrogate(x + h, scale) - surrogate(x - h, scale)) / (2 * h)
    slope_scale = (surrogate(x, scale + h) - surrogate(x, scale - h)) / (2 * h)
    if abs(abs(remainder) - 0.5) < 1e-4:
        return  # float32 may round to the other side
    assert by_x == pytest.approx(slope_x, abs=1e-3)
    assert by_scale == pytest.approx(slope_scale, abs=2e-3)


def test_descending_on_the_logarithm_moves_the_step_as_lsq_does() -> None:
    share, rate = gradient_share(100, 127), 1e-3
    assert share == pytest.approx(1 / math.sqrt(12700))
    logarithm = torch.tensor(math.log(0.02), requires_grad=True)
    step = step_size(logarithm, share)
    torch.autograd.backward(0.5 * step)  # the step's own gradient is 0.5
    assert logarithm.grad is not None
    moved = math.exp(logarithm.item() - rate * logarithm.grad.item())
    assert moved == pytest.approx(0.02 - rate * share * 0.5, rel=1e-6)


def test_a_tiny_steps_gradient_is_bounded() -> None:
    logarithm = torch.tensor(math.log(1e-12), requires_grad=True)
    torch.autograd.backward(127.0 * step_size(logarithm, 0.1))
    assert logarithm.grad is not None and logarithm.grad.item() == 1.0


@given(
    values=arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-40, 40, width=32)),
    zero_point=st.integers(-128, 127),
    scale=st.floats(0.01, 1.0),
)
def test_activations_become_what_quantize_linear_makes(
    values: np.ndarray, zero_point: int, scale: float
) -> None:
    quantizer = ActivationQuantizer(Affine(scale, zero_point), values.size)
    affine = quantizer.affine
    assert affine.scale == pytest.approx(scale, rel=1e-6)
    found = quantizer(torch.from_numpy(values)).detach().numpy()
    assert np.array_equal(found, dequantize(quantize(values, affine), affine))


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_become_what_dequantize_linear_reads(axis: int) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 3, 2)).astype(np.float32)
    scales = np.array([0.01, 0.02, 0.002], np.float32)  # the last one saturates
    quantizer = WeightQuantizer(torch.from_numpy(scales), weights.shape, axis)
    found = np.moveaxis(quantizer(torch.from_numpy(weights)).detach().numpy(), axis, 0)
    kept = quantizer.scales.numpy()
    integers = quantize_weights(np.moveaxis(weights, axis, 0), kept)
    assert np.array_equal(found, integers.astype(np.float32) * kept[:, None, None])
    assert np.abs(integers[2]).max() == 127


def test_quantizing_twice_changes_nothing_and_counts_once() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    quantizer = ActivationQuantizer(Affine(0.013, 5), 1000)
    once = quantizer(x)
    assert torch.equal(quantizer(once.detach()), once)
    again = once.detach().requires_grad_()
    quantizer.zero_grad()
    quantizer(again).sum().backward()
    assert again.grad is not None and bool((again.grad == 1).all())
    assert quantizer.log_scale.grad is not None
    assert abs(quantizer.log_scale.grad.item()) < 1e-3


def test_an_observer_starts_from_calibration_and_follows_the_ranges() -> None:
    quantizer = ActivationQuantizer(Affine(0.1, -128), 4)
    quantizer.is_observing = True
    quantizer(torch.tensor([0.0, 51.0]))
    quantizer(torch.tensor([1.0, 30.0]))  # another part of the same batch
    quantizer.eval()
    quantizer(torch.tensor([0.0, 1e6]))
    quantizer.follow()
    # 0.99 of 25.5 and 0.01 of 51, in 255 steps
    assert quantizer.affine.scale == pytest.approx((0.99 * 25.5 + 0.51) / 255, rel=1e-5)


def test_an_observed_step_has_no_gradient() -> None:
    quantizer = ActivationQuantizer(Affine(0.1, 0), 4)
    quantizer.is_observing = True
    quantizer(torch.tensor([0.03, 99.0])).sum().backward()
    assert quantizer.log_scale.grad is not None and quantizer.log_scale.grad.item() == 0.0
    quantizer.is_observing = False
    quantizer(torch.tensor([0.03, 99.0])).sum().backward()
    assert quantizer.log_scale.grad.item() != 0.0

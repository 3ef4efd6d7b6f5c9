from typing import Any

import pytest

from deepseek_edge.errors import UsageError

torch = pytest.importorskip("torch")
recompute = pytest.importorskip("deepseek_edge.training.recompute")
small = pytest.importorskip("tests.training.small_models")
pytestmark = pytest.mark.torch


def step(model: Any, modules: Any) -> list[Any]:
    """Gradients and buffers after one forward and backward pass."""
    images = small.images(8)
    torch.manual_seed(0)
    with recompute.checkpointed_activations(model.train(), modules):
        torch.nn.functional.cross_entropy(model(images.inputs), images.labels).backward()
    return [p.grad for p in model.parameters()] + [b.clone() for b in model.buffers()]


@pytest.mark.parametrize("modules", [True, ("1",), ("1.0", "4")])
def test_gradients_and_batch_statistics_are_those_of_one_pass(modules: Any) -> None:
    plain, saving = small.blocks(), small.blocks()
    expected, found = step(plain, False), step(saving, modules)
    assert all(map(torch.equal, expected, found))
    assert any(int(b) == 1 for b in saving.buffers() if b.dim() == 0)  # passes that were counted
    assert plain[1][0].passes == 1
    assert saving[1][0].passes == 2  # it was computed again


def test_the_model_is_as_before_afterwards() -> None:
    model = small.blocks()
    step(model, True)
    assert not any("forward" in vars(module) for module in model.modules())


def test_without_gradients_nothing_is_computed_again() -> None:
    model = small.blocks()
    with recompute.checkpointed_activations(model.train(), True), torch.no_grad():
        model(small.images(4).inputs)
    assert model[1][0].passes == 1


def test_blocks_of_a_sequence_are_chosen_but_not_what_lies_in_them() -> None:
    assert recompute.recomputable(small.blocks()) == ("1.0", "1.1")


def test_sequences_of_layers_count_as_blocks() -> None:
    nn = torch.nn
    stage = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    model = nn.Sequential(stage, nn.ModuleList([small.Block(4)]), nn.Flatten())
    assert recompute.recomputable(model) == ("0", "1.0")


def test_a_model_without_blocks_and_unknown_names_are_refused() -> None:
    with (
        pytest.raises(UsageError, match="no blocks"),
        recompute.checkpointed_activations(small.perceptron()),
    ):
        pass
    with (
        pytest.raises(UsageError, match="'encoder'"),
        recompute.checkpointed_activations(small.perceptron(), ("encoder",)),
    ):
        pass

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepseek_edge.compression.channels import FIXED
from deepseek_edge.compression.groups import ChannelGraph, find_groups
from deepseek_edge.compression.removal import remove_channels
from deepseek_edge.compression.verification import outputs
from deepseek_edge.errors import UnsupportedError
from examples import models
from examples.efficientnet_lite import EfficientNetLite0
from tests.compression import modules as small
from tests.compression.modules import image, randomized

pytestmark = pytest.mark.torch

Pair = tuple[nn.Module, tuple[Tensor, ...]]


def groups_of(module: nn.Module, *inputs: Tensor) -> dict[tuple[str, ...], int]:
    """Layers of each group, and how many units it has."""
    graph = find_groups(module, inputs or image())
    return {group.layers: group.size for group in graph.groups}


def zero_producers(module: nn.Module, graph: ChannelGraph, doomed: dict[int, np.ndarray]) -> None:
    """Zero the rows that make a channel, its bias and normalization, but no column."""
    parameters = dict(module.named_parameters())
    rows = {layer.out for layer in graph.layers}
    with torch.no_grad():
        for index, chosen in doomed.items():
            for (name, axis), units in graph.groups[index].members.items():
                if name not in parameters:
                    continue
                if (name, axis) in rows or parameters[name].dim() == 1:
                    goes = np.flatnonzero((units >= 0) & chosen[units])
                    parameters[name].index_fill_(axis, torch.from_numpy(goes), 0.0)


def largest_change(pair: Pair, seed: int, share: float = 0.4) -> float:
    """Remove random channels that are zero; the change of outputs, over their range."""
    module, inputs = pair
    graph = find_groups(module, inputs)
    assert graph.groups
    random = np.random.default_rng(seed)
    doomed = {}
    for index, group in enumerate(graph.groups):
        chosen = np.zeros(group.size, np.bool_)
        count = min(max(1, int(share * group.size)), group.size - 1)
        chosen[random.permutation(group.size)[:count]] = True
        for axis in group.axes:  # parts of a concatenation: each layer keeps a channel
            units = group.members[axis]
            if chosen[units[units != FIXED]].all():
                chosen[units[units != FIXED][0]] = False
        doomed[index] = chosen
    zero_producers(module, graph, doomed)
    pruned = remove_channels(module, graph, doomed)
    before = sum(value.numel() for value in module.parameters())
    assert sum(value.numel() for value in pruned.parameters()) < before
    wholes, parts = outputs(module, inputs), outputs(pruned, inputs)
    assert len(wholes) == len(parts) > 0
    changes = []
    for whole, part in zip(wholes, parts, strict=True):
        span = float(whole.max() - whole.min())
        assert span > 1e-3  # the outputs are no constant, which any module would give
        changes.append(float((whole - part).abs().max()) / span)
    return max(changes)


def test_layers_of_a_chain_are_groups_of_their_own() -> None:
    assert groups_of(small.Chain()) == {("first",): 16, ("second",): 16}


def test_a_flattened_map_ties_all_places_of_a_channel() -> None:
    graph = find_groups(small.Chain(8), image())
    columns = graph.groups[1].members["last.weight", 1]
    assert columns.tolist() == np.repeat(np.arange(8), 4).tolist()


def test_what_is_added_goes_together() -> None:
    assert groups_of(small.Residual()) == {("stem", "outer"): 16, ("inner",): 24}


def test_parts_of_a_concatenation_are_apart_and_the_image_stays() -> None:
    graph = find_groups(small.Concat(), image())
    assert {group.layers: group.size for group in graph.groups} == {("left",): 8, ("right",): 16}
    left = graph.groups[0].members["norm.running_var", 0]
    assert left.tolist() == [*range(8), *[-1] * 19]
    right = graph.groups[1].members["last.weight", 1]
    assert right.tolist() == [*[-1] * 11, *range(16)]


def test_a_depthwise_channel_goes_with_the_one_before() -> None:
    assert groups_of(small.Depthwise()) == {("first", "each"): 16}


def test_whole_groups_of_a_grouped_convolution_go() -> None:
    assert groups_of(small.Grouped()) == {("first", "grouped"): 4, ("last",): 8}
    graph = find_groups(small.Grouped(), image())
    assert graph.groups[0].members["grouped.weight", 0].tolist() == np.repeat(range(4), 8).tolist()
    assert graph.groups[0].members["first.weight", 0].tolist() == np.repeat(range(4), 4).tolist()
    assert groups_of(small.Transposed()) == {("first", "up"): 4}


def test_halves_stay_equal() -> None:
    assert groups_of(small.Halves()) == {("first", "inner"): 8}


def test_what_is_broadcast_ties_nothing() -> None:
    graph = find_groups(small.Gated(), image())
    assert {group.layers: group.size for group in graph.groups} == {("first",): 16, ("gate",): 1}
    assert ("scale", 0) in graph.groups[0].members


def test_heads_or_their_width_go_whichever_the_code_leaves_open() -> None:
    x = torch.randn(2, 7, 32)
    by_head = groups_of(small.Attention(by_head=True), x)
    assert by_head == {("query", "key", "value"): 4}
    # The width of a query's head scales the scores, so that has to stay.
    assert groups_of(small.Attention(by_head=False), x) == {("value",): 8}


def test_fixed_layers_have_a_reason_with_the_line() -> None:
    graph = find_groups(small.Attention(by_head=False), (torch.randn(2, 7, 32),))
    assert graph.fixed["last"] == "the model returns them"
    assert graph.fixed["out"].startswith("add at modules.py:")
    assert "their number scales the scores" in graph.fixed["query"]


def test_an_operation_that_is_not_known_keeps_its_channels() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 1)
            self.last = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).sort(dim=1).values)

    graph = find_groups(Sorting(), image())
    assert graph.groups == ()
    assert "(sort at test_groups.py:" in graph.fixed["first"]


def test_a_module_that_cannot_be_traced_is_refused_with_the_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError, match=r"test_groups\.py:\d+ \(return x if x\.sum"):
        find_groups(Branching(), image())


def test_the_module_stays_as_it_was() -> None:
    module = small.Residual().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph = find_groups(module, image())
    doomed = {0: np.arange(16) < 8, 1: np.arange(24) < 8}
    pruned = remove_channels(module, graph, doomed)
    assert module.training and pruned.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.outer.out_channels == 16


def test_layers_say_their_new_sizes() -> None:
    graph = find_groups(module := small.Grouped(), image())
    pruned = remove_channels(module, graph, {0: np.array([True, False, False, True])})
    assert isinstance(pruned, small.Grouped)
    assert (pruned.first.in_channels, pruned.first.out_channels) == (3, 8)
    assert pruned.grouped.groups == 2
    assert (pruned.grouped.in_channels, pruned.grouped.out_channels) == (8, 16)
    assert (pruned.norm.num_groups, pruned.norm.num_channels) == (4, 16)
    assert (pruned.last.in_channels, pruned.last.out_channels) == (16, 8)
    kept = module.grouped.weight[8:24]
    assert torch.equal(pruned.grouped.weight, kept)


def test_shared_parameters_stay_shared_and_marks_stay() -> None:
    module = small.Tied()
    vars(module.one.weight)["no_weight_decay"] = True
    graph = find_groups(module, (torch.ones(2, 3),))
    assert {group.layers: group.size for group in graph.groups} == {("first", "one"): 16}
    pruned = remove_channels(module, graph, {0: np.arange(16) < 12})
    assert isinstance(pruned, small.Tied)
    assert pruned.one.weight.shape == (4, 4)
    assert pruned.two.weight is pruned.one.weight
    assert vars(pruned.one.weight)["no_weight_decay"] is True


SMALL: dict[str, Callable[[], Pair]] = {
    "chain": lambda: (small.Chain(), image()),
    "residual": lambda: (small.Residual(), image()),
    "concat": lambda: (small.Concat(), image()),
    "depthwise": lambda: (small.Depthwise(), image()),
    "grouped": lambda: (small.Grouped(), image()),
    "transposed": lambda: (small.Transposed(), image()),
    "halves": lambda: (small.Halves(), image()),
    "strongest": lambda: (small.Strongest(), image()),
    "shuffle": lambda: (small.Shuffle(), image()),
    "gated": lambda: (small.Gated(), image()),
    "shared": lambda: (small.Shared(), image()),
    "tied": lambda: (small.Tied(), (torch.randn(2, 3),)),
    "heads": lambda: (small.Attention(by_head=True), (torch.randn(2, 7, 32),)),
    "head width": lambda: (small.Attention(by_head=False), (torch.randn(2, 7, 32),)),
}


@pytest.mark.parametrize("name", SMALL)
def test_removing_zero_channels_changes_nothing(name: str) -> None:
    module, inputs = SMALL[name]()
    assert largest_change((randomized(module), inputs), seed=1) < 1e-5


def _reduced(pair: models.ImageModel, size: int) -> Pair:
    module, _ = pair
    return module, (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3)),)


LARGE: dict[str, Callable[[], Pair]] = {
    "resnet_18": lambda: _reduced(models.resnet_18(), 64),
    "resnet_50": lambda: _reduced(models.resnet_50(), 64),
    "mobilenet_v2": lambda: _reduced(models.mobilenet_v2(), 64),
    "mobilenet_v3_large": lambda: _reduced(models.mobilenet_v3_large(), 64),
    "detector": lambda: _reduced(models.detector(), 64),
    "efficientnet_lite0": lambda: _reduced(
        (models.settle(EfficientNetLite0(), torch.zeros(1, 3, 64, 64)), (torch.zeros(1),)), 64
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_removing_zero_channels_of_an_example_changes_nothing(name: str) -> None:
    assert largest_change(LARGE[name](), seed=2, share=0.3) < 1e-4


KINDS = ("residual", "concat", "depthwise", "grouped")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from([4, 6, 8])), min_size=1, max_size=4
    ),
    width=st.integers(3, 9),
    seed=st.integers(0, 1000),
)
@example(blocks=[("concat", 4), ("concat", 6), ("residual", 4)], width=7, seed=239)
def test_removing_zero_channels_of_any_net_changes_nothing(
    blocks: list[tuple[str, int]], width: int, seed: int
) -> None:
    module = randomized(small.Assembled(blocks, width), seed)
    assert largest_change((module, image(6)), seed) < 1e-4

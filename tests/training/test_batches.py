from typing import Any

import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.training import TrainConfig, TrainingData

torch = pytest.importorskip("torch")
batches = pytest.importorskip("deepseek_edge.training.batches")
Place = pytest.importorskip("deepseek_edge.training.processes").Place
pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def data(count: int = 20, augment: Any = None) -> TrainingData:
    return TrainingData(torch.arange(float(count))[:, None], torch.arange(count), augment)


def epoch(config: TrainConfig, place: Any, number: int = 0, augment: Any = None) -> list[Any]:
    return list(batches.epoch_batches(data(augment=augment), config, place, number))


def test_an_epoch_has_every_sample_once_in_whole_batches() -> None:
    config = TrainConfig(epochs=1, batch_size=6)
    found = epoch(config, Place(CPU))
    assert batches.steps_per_epoch(20, config, Place(CPU)) == len(found) == 3
    labels = torch.cat([labels for ((_, labels),) in found])
    assert len(set(labels.tolist())) == 18
    assert all(torch.equal(inputs[:, 0].long(), labels) for ((inputs, labels),) in found)


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    config = TrainConfig(epochs=1, batch_size=20)
    orders = [
        tuple(epoch(TrainConfig(epochs=1, batch_size=20, seed=seed), Place(CPU), n)[0][0][1])
        for seed, n in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(map(int, order)) for order in orders}) == 4
    assert torch.equal(epoch(config, Place(CPU))[0][0][1], torch.stack(orders[0]))


def test_processes_share_what_one_alone_would_see_augmentation_included() -> None:
    def noise(inputs: Any, generator: Any) -> Any:
        return inputs + torch.rand(inputs.shape, generator=generator)

    config = TrainConfig(epochs=1, batch_size=12, accumulate=2)
    alone = epoch(config, Place(CPU), augment=noise)
    ranks = [epoch(config, Place(CPU, rank, 3), augment=noise) for rank in range(3)]
    for step, parts in enumerate(alone):
        for part, (inputs, labels) in enumerate(parts):
            shares = [rank[step][part] for rank in ranks]
            assert [len(share[1]) for share in shares] == [2, 2, 2]
            whole = torch.cat([share[0] for rank in ranks for share in rank[step]])
            assert len(inputs) == len(labels) == 6
            assert set(inputs[:, 0].tolist()) <= set(whole[:, 0].tolist())


def test_images_come_with_channels_last() -> None:
    pictures = TrainingData(torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64))
    config = TrainConfig(epochs=1, batch_size=4)
    (((inputs, _),),) = batches.epoch_batches(pictures, config, Place(CPU), 0)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_too_few_samples_and_uneven_shares_are_refused() -> None:
    with pytest.raises(UsageError, match="5 samples are fewer than a batch of 6"):
        batches.steps_per_epoch(5, TrainConfig(epochs=1, batch_size=6), Place(CPU))
    with pytest.raises(UsageError, match="shared by 2 processes in 3 equal parts"):
        batches.steps_per_epoch(
            99, TrainConfig(epochs=1, batch_size=9, accumulate=3), Place(CPU, 0, 2)
        )

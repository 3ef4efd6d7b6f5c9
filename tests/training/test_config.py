import dataclasses
from typing import Any

import pytest

from deepseek_edge.errors import InputError, UsageError
from deepseek_edge.training import TrainConfig, TrainingData
from deepseek_edge.training.config import differences, settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", True),
        ("batch_size", 1.5),
        ("accumulate", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1e-4),
        ("warmup_epochs", float("inf")),
        ("label_smoothing", 1.0),
        ("clip_factor", 0.0),
        ("average", 1.0),
        ("average", 0.0),
        ("seed", -1),
        ("optimizer", "lion"),
        ("precision", "float16"),
        ("device", "cuda:first"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        TrainConfig(**{"epochs": 1, name: value})


def test_a_batch_has_to_fall_into_equal_parts() -> None:
    assert TrainConfig(epochs=1, batch_size=12, accumulate=4).accumulate == 4
    with pytest.raises(UsageError, match="12 can't be computed in 5"):
        TrainConfig(epochs=1, batch_size=12, accumulate=5)


def test_two_runs_differ_in_what_decides_their_result() -> None:
    config = TrainConfig(epochs=3, checkpoint_activations=("a",))
    other = dataclasses.replace(config, learning_rate=0.2, device="cuda:1", average=0.5)
    assert differences(other, settings(config)) == [
        "average was None, is 0.5",
        "learning_rate was 0.1, is 0.2",
    ]
    assert differences(dataclasses.replace(config, device="cpu"), settings(config)) == []


def test_a_setting_of_another_version_is_a_difference() -> None:
    config = TrainConfig(epochs=3)
    assert differences(config, settings(config) | {"momentum": 0.5}) == [
        "momentum was 0.5, is None"
    ]


@pytest.mark.torch
class TestTrainingData:
    def test_knows_its_length(self) -> None:
        torch = pytest.importorskip("torch")
        assert len(TrainingData(torch.zeros(3, 2), torch.tensor([0, 1, 0]))) == 3

    def test_refuses_labels_that_are_no_class_indices(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(InputError, match="float32"):
            TrainingData(torch.zeros(3, 2), torch.zeros(3))
        with pytest.raises(InputError, match=r"\(3, 1\)"):
            TrainingData(torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64))

    @pytest.mark.parametrize(("samples", "labels"), [(3, 2), (0, 0)])
    def test_refuses_samples_without_labels_and_no_samples(self, samples: int, labels: int) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(InputError, match="inputs have shape"):
            TrainingData(torch.zeros(samples, 2), torch.zeros(labels, dtype=torch.int64))

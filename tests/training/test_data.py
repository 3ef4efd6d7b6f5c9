from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.datasets import Dataset, load_dataset
from deepseek_edge.errors import InputError, UsageError
from deepseek_edge.packages import cache_directory
from deepseek_edge.training import TrainingData, check_classes, load_training_data, split

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

GRAY = {
    "color": "gray",
    "interpolation": "bilinear",
    "mean": [72.94],
    "std": [90.02],
    "layout": "nchw",
}


def dataset(content: Any, preprocess: dict[str, Any] | None = GRAY, targets: Any = None) -> Dataset:
    count = len(next(iter(content.values())) if isinstance(content, dict) else content)
    labels = np.arange(count) if targets is None else targets
    return Dataset("d", None, "", "", "", preprocess, None, "top1", content, labels)


def pixels(count: int = 3, height: int = 5, width: int = 4) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, height, width), np.uint8)


class TestLoad:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"layout": "nhwc"},
            {"mean": [0.1], "std": [255.0]},
            {"resize": [3, 3]},
            {"crop": 2},
            {"color": "rgb"},
        ],
    )
    def test_gives_the_tensors_of_single_samples_bit_for_bit(self, changes: Any) -> None:
        data = dataset(pixels(), GRAY | changes)
        loaded = load_training_data(data)
        expected = np.concatenate([data.sample(index)["input"] for index in range(3)])
        assert loaded.inputs.numpy().tobytes() == expected.tobytes()
        assert loaded.inputs.shape == expected.shape
        assert loaded.labels.tolist() == [0, 1, 2]

    @given(st.floats(-300, 300), st.floats(0.01, 300))
    def test_scales_every_grey_value_as_for_one_image(self, mean: float, std: float) -> None:
        data = dataset(
            np.arange(256, dtype=np.uint8).reshape(1, 16, 16), GRAY | {"mean": [mean], "std": [std]}
        )
        assert (
            load_training_data(data).inputs.numpy().tobytes() == data.sample(0)["input"].tobytes()
        )

    def test_takes_the_one_array_of_an_npz(self, tmp_path: Path) -> None:
        x = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.savez(tmp_path / "d.npz", x=x, labels=[1, 0, 1, 0])
        loaded = load_training_data(load_dataset(str(tmp_path / "d.npz")), limit=3)
        assert loaded.inputs.tolist() == x[:3].tolist()
        assert loaded.labels.tolist() == [1, 0, 1]

    def test_refuses_several_inputs_and_no_labels(self) -> None:
        arrays = {"x": np.zeros((2, 1)), "y": np.zeros((2, 1))}
        with pytest.raises(UsageError, match="inputs x, y"):
            load_training_data(dataset(arrays, None))
        unlabelled = Dataset("d", None, "", "", "", GRAY, None, "top1", pixels(), None)
        with pytest.raises(InputError, match="no labels"):
            load_training_data(unlabelled)

    @pytest.mark.skipif(
        not list((cache_directory() / "packages").glob("dataset-fashion-mnist-*")),
        reason="the data set has not been fetched",
    )
    def test_reads_fashion_mnist_as_single_samples(self) -> None:
        data = load_dataset("fashion-mnist-test")
        loaded = load_training_data(data)
        assert loaded.inputs.shape == (10000, 1, 28, 28)
        for index in (0, 1, 4999, 9999):
            assert loaded.inputs[index].numpy().tobytes() == data.sample(index)["input"].tobytes()
        check_classes(loaded.labels, 10)


class TestSplit:
    def test_holds_samples_out_by_seed_and_loses_none(self) -> None:
        data = TrainingData(torch.arange(10.0)[:, None], torch.arange(10), lambda x, _: x)
        kept, held = split(data, validation=3)
        assert (len(kept), len(held)) == (7, 3)
        assert sorted(kept.labels.tolist() + held.labels.tolist()) == list(range(10))
        assert kept.inputs[:, 0].long().tolist() == kept.labels.tolist()
        assert kept.augment is data.augment and held.augment is None
        assert torch.equal(split(data, validation=3)[1].labels, held.labels)
        assert not torch.equal(split(data, validation=3, seed=1)[1].labels, held.labels)

    @pytest.mark.parametrize("validation", [0, 10, -1])
    def test_refuses_to_leave_nothing(self, validation: int) -> None:
        data = TrainingData(torch.zeros(10, 1), torch.arange(10))
        with pytest.raises(UsageError, match="to validate with"):
            split(data, validation=validation)


class TestCheckClasses:
    def test_names_those_that_no_sample_shows(self) -> None:
        check_classes(torch.tensor([2, 0, 1, 1]), 3)
        with pytest.raises(InputError, match="2 of the 4 classes: 1, 3"):
            check_classes(torch.tensor([0, 2]), 4)

    def test_refuses_labels_that_are_no_class(self) -> None:
        with pytest.raises(InputError, match="a label is 2, but there are 2 classes"):
            check_classes(torch.tensor([0, 1, 2]), 2)
        with pytest.raises(InputError, match="a label is -1"):
            check_classes(torch.tensor([0, 1, -1]), 2)

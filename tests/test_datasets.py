import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepseek_edge.datasets import check_disjoint, list_datasets, load_dataset, load_preprocess
from deepseek_edge.errors import DeepSeekEdgeError, InputError, UsageError
from deepseek_edge.labels import read_idx, read_labels
from deepseek_edge.packages import cache_directory

PHOTOS = "imagenet-foolbox-20"


def is_cached(package: str) -> bool:
    return (cache_directory() / "packages" / package).is_dir()


def npz(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def folder_of_images(path: Path, count: int = 3, *, labels: str | None = None) -> str:
    path.mkdir()
    for index in range(count):
        pixels = np.full((300, 260, 3), 40 * index, np.uint8)
        Image.fromarray(pixels).save(path / f"{index} a.png")
    if labels is not None:
        (path / "labels.txt").write_text(labels, "utf-8")
    return str(path)


class TestNpz:
    def test_holds_inputs_by_name_and_labels(self, tmp_path: Path) -> None:
        x = np.arange(12, dtype=np.float32).reshape(4, 3)
        data = load_dataset(npz(tmp_path / "d.npz", x=x, labels=[3, 2, 1, 0]))
        inputs, labels = data.arrays(2)
        assert len(data) == 4
        assert list(inputs) == ["x"]
        assert np.array_equal(inputs["x"], x[:2])
        assert labels.tolist() == [3, 2]
        assert data.for_inputs(["x"]) == data

    def test_without_labels_gives_none_of_them(self, tmp_path: Path) -> None:
        data = load_dataset(npz(tmp_path / "d.npz", x=np.zeros((4, 3))))
        assert data.targets is None
        assert data.arrays(None)[1].shape == (0,)

    def test_of_other_names_than_the_models_is_refused(self, tmp_path: Path) -> None:
        data = load_dataset(npz(tmp_path / "d.npz", x=np.zeros((4, 3))))
        with pytest.raises(UsageError, match="arrays for x"):
            data.for_inputs(["input"])

    def test_of_different_lengths_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="same number of samples"):
            load_dataset(npz(tmp_path / "d.npz", x=np.zeros((4, 3)), labels=[1]))

    def test_with_python_objects_is_refused_without_unpickling_them(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"d\.npz"):
            load_dataset(npz(tmp_path / "d.npz", x=np.array([{}, None], dtype=object)))

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip"])
    def test_that_is_damaged_is_refused(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "d.npz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"d\.npz"):
            load_dataset(str(path))

    def test_labels_may_be_boxes(self, tmp_path: Path) -> None:
        boxes = np.zeros((4, 2, 5), np.float32)
        boxes[:, 1, 0], boxes[0, 0] = -1, [1, 0.5, 0, 9, 9]
        data = load_dataset(npz(tmp_path / "d.npz", x=np.zeros((4, 3)), labels=boxes))
        assert data.targets is not None
        assert data.targets.shape == (4, 2, 5)
        assert data.targets[0, 0].tolist() == [1, 0.5, 0, 9, 9]

    def test_that_does_not_exist_is_a_usage_error(self) -> None:
        with pytest.raises(UsageError, match="no file absent"):
            load_dataset("absent.npz")


class TestFolder:
    def test_is_read_in_the_order_of_names(self, tmp_path: Path) -> None:
        data = load_dataset(folder_of_images(tmp_path / "f"), preprocess=PHOTOS)
        sample = data.for_inputs(["pixels"]).sample(1)
        assert sample["pixels"].shape == (1, 3, 224, 224)
        assert np.all(sample["pixels"] == np.float32((40 - 127) / 128))
        assert data.arrays(None)[0]["input"].shape == (3, 3, 224, 224)

    def test_takes_labels_from_its_list(self, tmp_path: Path) -> None:
        folder = folder_of_images(tmp_path / "f", labels="1 a.png 7\n0 a.png 5\n2 a.png 6\n")
        assert load_dataset(folder, preprocess=PHOTOS).arrays(None)[1].tolist() == [5, 7, 6]

    @pytest.mark.parametrize("labels", ["0 a.png 5\n", "nonsense\n", "0 a.png x\n"])
    def test_with_an_incomplete_or_wrong_list_is_refused(self, tmp_path: Path, labels: str) -> None:
        with pytest.raises(InputError, match=r"labels\.txt"):
            load_dataset(folder_of_images(tmp_path / "f", labels=labels), preprocess=PHOTOS)

    def test_without_preprocessing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="prepared") as caught:
            load_dataset(folder_of_images(tmp_path / "f"))
        assert caught.value.hint is not None
        assert "--preprocess" in caught.value.hint

    def test_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no images"):
            load_dataset(folder_of_images(tmp_path / "f", 0), preprocess=PHOTOS)

    def test_can_not_feed_a_model_of_two_inputs(self, tmp_path: Path) -> None:
        data = load_dataset(folder_of_images(tmp_path / "f"), preprocess=PHOTOS)
        with pytest.raises(UsageError, match="2 inputs"):
            data.for_inputs(["a", "b"])

    def test_has_a_digest_of_its_images_bytes(self, tmp_path: Path) -> None:
        folder = folder_of_images(tmp_path / "f")
        before = load_dataset(folder, preprocess=PHOTOS).sha256
        assert load_dataset(folder, preprocess=PHOTOS).sha256 == before
        Image.fromarray(np.ones((300, 260, 3), np.uint8)).save(tmp_path / "f/1 a.png")
        assert load_dataset(folder, preprocess=PHOTOS).sha256 != before


class TestDisjoint:
    def test_other_samples_pass(self, tmp_path: Path) -> None:
        one = load_dataset(npz(tmp_path / "1.npz", x=np.zeros((4, 3))))
        two = load_dataset(npz(tmp_path / "2.npz", x=np.ones((4, 3))))
        check_disjoint(one, two)

    def test_one_shared_sample_is_refused(self, tmp_path: Path) -> None:
        one = load_dataset(npz(tmp_path / "1.npz", x=np.arange(4.0)[:, None]))
        two = load_dataset(npz(tmp_path / "2.npz", x=np.arange(3.0, 9.0)[:, None]))
        with pytest.raises(UsageError, match="share 1 sample"):
            check_disjoint(one, two)

    def test_an_image_under_another_name_is_refused(self, tmp_path: Path) -> None:
        one = load_dataset(folder_of_images(tmp_path / "f"), preprocess=PHOTOS)
        (tmp_path / "f").rename(tmp_path / "g")
        (tmp_path / "g/0 a.png").rename(tmp_path / "g/renamed.png")
        two = load_dataset(str(tmp_path / "g"), preprocess=PHOTOS)
        folder_of_images(tmp_path / "f")
        with pytest.raises(UsageError, match="share 3 samples"):
            check_disjoint(one, two)


class TestDescriptions:
    def test_all_have_sound_preprocessing(self) -> None:
        assert PHOTOS in list_datasets()
        for dataset_id in list_datasets():
            assert load_preprocess(dataset_id).layout == "nchw"

    def test_an_unknown_id_names_the_nearest(self) -> None:
        with pytest.raises(UsageError) as caught:
            load_dataset("imagenet-foolbox")
        assert caught.value.hint is not None
        assert PHOTOS in caught.value.hint

    @pytest.mark.skipif(not is_cached("foolbox-3.3.4"), reason="foolbox is not in the cache")
    def test_photos_have_the_classes_of_their_names(self) -> None:
        inputs, labels = load_dataset(PHOTOS).arrays(3)
        assert inputs["input"].shape == (3, 3, 224, 224)
        assert labels.tolist() == [243, 559, 438]

    @pytest.mark.slow
    def test_calibration_photos_are_none_of_the_evaluated_ones(self) -> None:
        check_disjoint(load_dataset("skimage-photos"), load_dataset(PHOTOS))

    @pytest.mark.skipif(
        not is_cached("dataset-fashion-mnist-0.0~git20200523.55506a9-1"),
        reason="dataset-fashion-mnist is not in the cache",
    )
    def test_fashion_mnist_has_a_thousand_images_a_class(self) -> None:
        data = load_dataset("fashion-mnist-test")
        assert data.targets is not None
        assert np.bincount(data.targets).tolist() == [1000] * 10
        assert data.sample(0)["input"].shape == (1, 1, 28, 28)


class TestIdx:
    HEADER = bytes([0, 0, 8, 2]) + (2).to_bytes(4, "big") + (3).to_bytes(4, "big")

    def test_bytes_fill_the_shape_row_by_row(self, tmp_path: Path) -> None:
        (tmp_path / "a.gz").write_bytes(gzip.compress(self.HEADER + bytes(range(6))))
        assert read_idx(tmp_path / "a.gz").tolist() == [[0, 1, 2], [3, 4, 5]]

    @pytest.mark.parametrize("data", [b"", HEADER, HEADER + bytes(5), bytes([0, 0, 13, 1]) * 9])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(InputError):
            read_idx(tmp_path / "a")

    def test_a_cut_off_gzip_file_is_refused(self, tmp_path: Path) -> None:
        whole = gzip.compress(self.HEADER + bytes(6))
        (tmp_path / "a.gz").write_bytes(whole[:-9])
        with pytest.raises(InputError):
            read_idx(tmp_path / "a.gz")


def test_a_name_without_its_class_is_refused() -> None:
    table = {"kind": "filename-regex", "pattern": r"_(\d+)\.jpg$"}
    assert read_labels(table, [Path("a_7.jpg")]).tolist() == [7]
    with pytest.raises(DeepSeekEdgeError, match=r"a\.jpg"):
        read_labels(table, [Path("a.jpg")])

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepseek_edge.errors import InputError, UsageError
from deepseek_edge.preprocess import image_tensor, parse_preprocess

PLAIN: dict[str, Any] = {
    "color": "rgb",
    "interpolation": "nearest",
    "mean": [0.0],
    "std": [1.0],
    "layout": "nchw",
}
# 2 rows of 4 pixels; red counts columns, green rows, blue is 9.
PIXELS = np.array(
    [
        [[0, 0, 9], [1, 0, 9], [2, 0, 9], [3, 0, 9]],
        [[0, 1, 9], [1, 1, 9], [2, 1, 9], [3, 1, 9]],
    ],
    np.uint8,
)


def tensor(pixels: np.ndarray | Path = PIXELS, **changes: object) -> np.ndarray:
    return image_tensor(pixels, parse_preprocess({**PLAIN, **changes}))


def test_channels_come_first_in_nchw_and_last_in_nhwc() -> None:
    assert tensor().shape == (1, 3, 2, 4)
    assert tensor(layout="nhwc").shape == (1, 2, 4, 3)
    assert tensor()[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert tensor(layout="nhwc")[0, 1, 2].tolist() == [2, 1, 9]


def test_bgr_swaps_red_and_blue_and_means_follow_the_swapped_order() -> None:
    assert tensor(color="bgr")[0, :, 1, 2].tolist() == [9, 1, 2]
    assert tensor(color="bgr", mean=[9.0, 1.0, 0.0])[0, :, 1, 2].tolist() == [0, 0, 2]


def test_mean_is_subtracted_before_dividing_by_std() -> None:
    value = tensor(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0])[0, :, 0, 3]
    assert value.tolist() == [-124 / 128, -127 / 128, -118 / 128]
    assert value.dtype == np.float32


def test_gray_has_one_channel() -> None:
    gray = tensor(np.array([[0, 100], [200, 255]], np.uint8), color="gray")
    assert gray.tolist() == [[[[0, 100], [200, 255]]]]


def test_the_crop_is_from_the_centre() -> None:
    assert tensor(crop=2)[0, 0].tolist() == [[1, 2], [1, 2]]
    assert tensor(crop=[1, 2])[0, 0].tolist() == [[1, 2]]


def test_resize_makes_the_shorter_side_that_long_and_keeps_the_proportions() -> None:
    assert tensor(resize=4).shape == (1, 3, 4, 8)
    assert tensor(resize=4)[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert tensor(resize=[4, 4]).shape == (1, 3, 4, 4)


def test_bilinear_doubling_of_two_pixels_gives_the_quarter_points() -> None:
    line = np.array([[0, 100]], np.uint8)
    doubled = tensor(line, color="gray", resize=[1, 4], interpolation="bilinear")
    assert doubled[0, 0, 0].tolist() == [0, 25, 75, 100]


def test_a_file_gives_the_same_as_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    assert np.array_equal(tensor(path), tensor())


def test_transparency_and_palettes_become_rgb(tmp_path: Path) -> None:
    for mode in ("RGBA", "P", "L", "1"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(PIXELS).convert(mode).save(path)
        assert tensor(path).shape == (1, 3, 2, 4)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(InputError, match=r"image\.png"):
        tensor(path)


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(InputError, match="4 x 2 pixels"):
        tensor(crop=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"color": "cmyk"},
        {"interpolation": "sinc"},
        {"layout": "chwn"},
        {"mean": [0.0, 0.0]},
        {"std": [0.0]},
        {"crop": 0},
        {"resize": [1, 2, 3]},
        {"scale": 2},
    ],
)
def test_a_wrong_table_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="preprocess"):
        parse_preprocess({**PLAIN, **changes})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UsageError, match="layout"):
        parse_preprocess({key: value for key, value in PLAIN.items() if key != "layout"})

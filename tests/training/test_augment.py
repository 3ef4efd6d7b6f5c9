from typing import Any

import pytest

from deepseek_edge.errors import UsageError
from deepseek_edge.training import Augment, compose, random_crop, random_erase, random_flip

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def drawn(augment: Augment, images: Any, seed: int = 0) -> Any:
    return augment(images, torch.Generator().manual_seed(seed))


def numbered(count: int, height: int = 5, width: int = 4, channels: int = 2) -> Any:
    """Images whose pixels are all different and above 0."""
    values = torch.arange(1.0, 1 + count * channels * height * width)
    return values.view(count, channels, height, width)


@pytest.mark.parametrize(
    "augment", [random_crop(2), random_flip(), random_erase(0.3), compose(random_flip())]
)
def test_a_batch_keeps_its_shape_and_the_seed_decides(augment: Augment) -> None:
    images = numbered(16)
    assert drawn(augment, images).shape == (16, 2, 5, 4)
    assert torch.equal(drawn(augment, images), drawn(augment, images))
    assert not torch.equal(drawn(augment, images), drawn(augment, images, 1))
    assert torch.equal(images, numbered(16))  # the data are not changed in place


def test_a_crop_is_one_of_the_shifted_images_and_each_one_occurs() -> None:
    image = numbered(1)
    moved = drawn(random_crop(1, fill=-1.0), image.expand(200, -1, -1, -1))
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=-1.0)
    shifts = [padded[0, :, y : y + 5, x : x + 4] for y in range(3) for x in range(3)]
    found = [[i for i, s in enumerate(shifts) if torch.equal(s, m)] for m in moved]
    assert all(len(indices) == 1 for indices in found)
    assert {indices[0] for indices in found} == set(range(9))


def test_about_half_of_the_images_are_mirrored() -> None:
    images = numbered(400)
    turned = drawn(random_flip(), images)
    mirrored = (turned == images.flip(3)).flatten(1).all(1)
    kept = (turned == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 160 < int(mirrored.sum()) < 240


def test_what_is_erased_is_a_rectangle_of_all_channels_within_the_share() -> None:
    images = numbered(300, 20, 20)
    erased = drawn(random_erase(0.25, probability=1.0, fill=-7.0), images) == -7.0
    assert torch.equal(erased[:, 0], erased[:, 1])
    for mask in erased[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        # Sides are rounded to whole pixels, so the area may be a little larger.
        assert 1 <= int(mask.sum()) <= 0.25 * 400 + 20
    areas = erased[:, 0].flatten(1).sum(1)
    assert areas.min() < 20 and areas.max() > 80


@pytest.mark.parametrize("augment", [random_crop(1), random_flip(), random_erase(0.3)])
def test_pixels_of_bytes_stay_bytes(augment: Augment) -> None:
    assert drawn(augment, numbered(9).to(torch.uint8)).dtype == torch.uint8


def test_no_image_is_erased_with_probability_0() -> None:
    assert torch.equal(drawn(random_erase(0.3, probability=0.0), numbered(9)), numbered(9))


def test_composed_changes_follow_each_other() -> None:
    def double(images: Any, _generator: Any) -> Any:
        return images * 2

    def increase(images: Any, _generator: Any) -> Any:
        return images + 1

    both = compose(double, increase)
    assert torch.equal(drawn(both, torch.ones(1)), torch.tensor([3.0]))


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="padding of 0"):
        random_crop(0)
    with pytest.raises(UsageError, match=r"probability of 1\.5"):
        random_flip(1.5)
    with pytest.raises(UsageError, match=r"share of 0\.01"):
        random_erase(0.01)

import numpy as np
import pytest

from deepseek_edge.export import fix_shapes, load_model
from deepseek_edge.parity import graph_inputs
from deepseek_edge.pipeline.plan import CompileRequest
from deepseek_edge.pipeline.stages import apply_recipe
from deepseek_edge.recipe import load_recipe
from examples.inspection.textures import CLASSES, DIVIDED_AT, SIZE, render, scratch, spot


def halves() -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """A texture that is dark where is trained, and light where is judged."""
    texture = np.full((128, 256), 0.35, np.float32)
    texture[:, int(DIVIDED_AT * 256) :] = 0.65
    return [texture]


def test_defects_are_small_and_a_third_of_the_images_has_none() -> None:
    images, labels = render(halves(), 300, 0, judges=False)
    assert images.shape == (300, 1, SIZE, SIZE)
    assert np.bincount(labels).tolist() == [100] * len(CLASSES)
    changed = [float(np.mean(np.abs(image - np.median(image)) > 0.1)) for image in images[:, 0]]
    assert max(np.array(changed)[labels == 0]) == 0.0
    assert 0.0 < np.mean(np.array(changed)[labels > 0]) < 0.03


def test_a_scratch_is_long_and_a_spot_is_round() -> None:
    random = np.random.default_rng(0)
    for draw, low, high in ((scratch, 15, 60), (spot, 3, 12)):
        for _ in range(20):
            rows, columns = np.nonzero(draw(random) > 0.5)
            extent = np.hypot(np.ptp(rows), np.ptp(columns))
            # What is cut off at the image's edge is shorter.
            assert extent <= high
            inside = rows.min() > 0 and rows.max() < SIZE - 1
            inside &= columns.min() > 0 and columns.max() < SIZE - 1
            assert not inside or extent >= low


def test_what_judges_was_never_trained_on() -> None:
    """The two come from other parts of a photo, and every seed gives other images."""
    trained, labels = render(halves(), 30, 0, judges=False)
    judging, _ = render(halves(), 30, 0, judges=True)
    assert np.median(trained[labels == 0]) < -0.2 < 0.2 < np.median(judging[labels == 0])
    again, _ = render(halves(), 30, 0, judges=False)
    other, _ = render(halves(), 30, 1, judges=False)
    assert np.array_equal(trained, again) and not np.array_equal(trained, other)


@pytest.mark.torch
def test_the_recipe_is_for_the_networks_input_and_promises_f1() -> None:
    recipe = load_recipe("examples/inspection/recipe.toml")
    asked = apply_recipe(CompileRequest("examples.inspection.network:inspector", recipe=recipe))
    assert (asked.metric, asked.max_drop_pp, asked.precision) == ("f1", 1.0, "int8")
    (spec,) = graph_inputs(fix_shapes(load_model(str(asked.model)), {}))
    # The name that __main__ gives the images.
    assert (spec.name, spec.shape) == ("x", (1, 1, SIZE, SIZE))

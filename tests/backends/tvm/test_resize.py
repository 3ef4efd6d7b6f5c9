from itertools import product
from typing import Any

import numpy as np
import pytest

from deepseek_edge.errors import UnsupportedError
from tests.backends.tvm.oracle import Array, Cases, Const, assert_equals_reference, computed

pytestmark = pytest.mark.tvm

TRANSFORMS = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def image(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def sizes(*values: int) -> Const:
    return Const(np.array(values, np.int64))


def scales(*values: float) -> Const:
    return Const(np.array(values, np.float32))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("opset", [11, 13, 19])
def test_every_mode_and_coordinate(mode: str, opset: int) -> None:
    cases = Cases(opset=opset)
    transforms = TRANSFORMS + (["half_pixel_symmetric"] if opset >= 19 else [])
    roi = scales() if opset == 11 else None
    none = scales() if opset == 11 else None
    for transform, rounding in product(transforms, ROUNDINGS if mode == "nearest" else [None]):
        attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
        if rounding:
            attrs["nearest_mode"] = rounding
        cases.add("Resize", image(1, 2, 5, 7), roi, none, sizes(1, 2, 8, 10), **attrs)
        if transform != "half_pixel_symmetric":  # there, onnxruntime's own modes disagree on ties
            cases.add("Resize", image(2, 19, 5, 7), roi, scales(1, 1, 1.7, 0.6), **attrs)
    assert_equals_reference(cases)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_versions(mode: str) -> None:
    for opset, op, inputs, attrs in (
        (10, "Resize", [scales(1, 1, 2, 2)], {}),
        (10, "Resize", [scales(1, 1, 0.6, 1.5)], {}),
        (9, "Upsample", [scales(1, 1, 2, 3)], {}),
        (7, "Upsample", [], {"scales": [1.0, 1.0, 2.0, 2.0]}),
    ):
        cases = Cases(opset=opset)
        cases.add(op, image(1, 2, 5, 7), *inputs, mode=mode, **attrs)  # type: ignore[arg-type]
        assert_equals_reference(cases)


def test_any_one_or_two_dimensions() -> None:
    cases = Cases(opset=18)
    cases.add("Resize", image(1, 3, 5), None, scales(1, 1, 2))
    cases.add("Resize", image(1, 3, 5), None, None, sizes(1, 3, 9), mode="linear")
    cases.add("Resize", image(5, 7), None, None, sizes(9, 3), mode="linear")
    cases.add("Resize", image(1, 5, 7, 3), None, scales(1, 2, 2, 1), mode="linear")
    cases.add("Resize", image(1, 2, 5, 7), None, None, sizes(8, 9), axes=[2, 3])
    cases.add("Resize", image(1, 2, 5, 7), None, scales(2, 3), axes=[3, 2])
    cases.add("Resize", image(1, 2, 3, 5, 7), None, None, sizes(1, 2, 3, 9, 9))
    cases.add("Resize", image(1, 2, 5, 7), None, scales(1, 1, 1, 1))
    assert_equals_reference(cases)


def test_bytes_are_picked_but_not_interpolated() -> None:
    x = (np.abs(image(1, 2, 5, 7)) * 50).astype(np.uint8)
    cases = Cases()
    cases.add("Resize", x, None, None, sizes(1, 2, 8, 9))
    assert_equals_reference(cases)
    cases.add("Resize", x, None, None, sizes(1, 2, 8, 9), mode="linear")
    with pytest.raises(UnsupportedError, match=r"Resize \(node 'Resize 1'\) interpolates uint8"):
        computed(cases.model(), cases.feeds)


@pytest.mark.parametrize(
    "attrs",
    [
        {"mode": "linear", "antialias": 1},
        {"mode": "cubic", "exclude_outside": 1},
    ],
)
def test_what_is_not_computed_is_refused(attrs: dict[str, Any]) -> None:
    cases = Cases(opset=18)
    cases.add("Resize", image(1, 2, 5, 7), None, None, sizes(1, 2, 3, 3), **attrs)
    with pytest.raises(UnsupportedError, match=r"Resize \(node 'Resize 0'\) has"):
        computed(cases.model(), cases.feeds)

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.backends.tvm.oracle import Cases, Const, assert_equals_reference
from tests.backends.tvm.strategies import FEW, Draw, dilated, drawers, image, window

pytestmark = pytest.mark.tvm

KINDS = ("dense", "pointwise", "grouped", "depthwise", "multiplier")


def add_convolution(cases: Cases, d: Draw, kind: str, spatial: int) -> None:
    groups = {"dense": 1, "pointwise": 1}.get(kind, d.between(2, 6))
    each = 1 if kind in ("depthwise", "multiplier") else d.between(1, 70 // groups)
    outs = {"depthwise": 1, "multiplier": d.between(2, 3)}.get(kind, d.between(1, 40 // groups))
    attrs: dict[str, Any] = dilated(d, window(d, spatial))
    if kind == "pointwise":
        attrs = {"kernel_shape": [1] * spatial, "strides": [d.between(1, 2)] * spatial}
    weights = Const(d.floats(groups * outs, each, *attrs["kernel_shape"]))
    bias = [Const(d.floats(groups * outs))] if d.between(0, 1) else []
    cases.add("Conv", image(d, attrs, groups * each), weights, *bias, group=groups, **attrs)


@pytest.mark.parametrize("spatial", [1, 2])
@FEW
@given(d=drawers())
def test_convolutions_of_every_kind(spatial: int, d: Draw) -> None:
    cases = Cases()
    for kind in KINDS:
        add_convolution(cases, d, kind, spatial)
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_transposed_convolutions(d: Draw) -> None:
    cases = Cases()
    for spatial in (1, 2, 2):
        groups = d.one(1, 1, 2)
        stride = [d.between(1, 3) for _ in range(spatial)]
        attrs: dict[str, Any] = {"strides": stride, "group": groups}
        kernel = [d.between(max(stride), 5) for _ in range(spatial)]
        kind = d.one("pads", "pads", "SAME_UPPER", "SAME_LOWER")
        if kind == "pads":
            attrs["dilations"] = [d.between(1, 2) for _ in range(spatial)]
            attrs["pads"] = [d.between(0, kernel[i % spatial] - 1) for i in range(2 * spatial)]
            attrs["output_padding"] = [d.between(0, s - 1) for s in stride]
        else:
            attrs["auto_pad"] = kind
        x = d.floats(
            d.between(1, 2), groups * d.between(1, 9), *(d.between(5, 8) for _ in range(spatial))
        )
        weights = Const(d.floats(x.shape[1], d.between(1, 20), *kernel))
        bias = [Const(d.floats(weights.data.shape[1] * groups))] if d.between(0, 1) else []
        cases.add("ConvTranspose", x, weights, *bias, **attrs)
    assert_equals_reference(cases)


def test_a_kernel_that_is_larger_than_the_image() -> None:
    random = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    cases = Cases()
    cases.add("Conv", floats(1, 2, 2, 3), Const(floats(4, 2, 7, 7)), pads=[3, 3, 3, 3])
    cases.add("Conv", floats(1, 8, 2, 2), Const(floats(8, 1, 7, 7)), pads=[3, 4, 3, 4], group=8)
    cases.add("Conv", floats(1, 3, 1, 1), Const(floats(5, 3, 3, 3)), pads=[5, 5, 5, 5])
    assert_equals_reference(cases)


@pytest.mark.parametrize("groups", [1, 2])
def test_images_wide_enough_for_tiles_inside_with_one_channel_a_group(groups: int) -> None:
    random = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    cases = Cases()
    for width, stride in ((40, 1), (64, 2)):
        weights = Const(floats(16 * groups, 1, 3, 3))
        attrs: dict[str, Any] = {"pads": [1] * 4, "strides": [stride] * 2}
        cases.add("Conv", floats(1, groups, 12, width), weights, group=groups, **attrs)
    assert_equals_reference(cases)


def test_a_transposed_convolution_without_overlap_but_with_padding_is_shifted() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 3, 4, 4)).astype(np.float32)
    weights = Const(random.standard_normal((3, 5, 2, 2)).astype(np.float32))
    cases = Cases()
    cases.add("ConvTranspose", x, weights, strides=[2, 2])
    cases.add("ConvTranspose", x, weights, strides=[2, 2], pads=[1, 1, 0, 0], output_padding=[1, 1])
    cases.add("ConvTranspose", x, weights, strides=[2, 2], output_shape=[8, 8])
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_what_follows_a_convolution_is_computed_with_it(d: Draw) -> None:
    cases = Cases()
    channels = d.between(3, 37)
    x = d.floats(1, d.between(5, 20), 9, 7)
    y = cases.inner("Conv", x, Const(d.floats(channels, x.shape[1], 3, 3)), pads=[1, 1, 1, 1])
    scale = [Const(d.floats(channels)) for _ in range(3)]
    variance = Const(np.abs(d.floats(channels)) + np.float32(0.1))
    y = cases.inner("BatchNormalization", y, *scale, variance)
    z = cases.inner("Mul", y, cases.inner("Sigmoid", y))
    squeezed = cases.inner("GlobalAveragePool", z)
    gate = cases.inner("Conv", squeezed, Const(d.floats(channels, channels, 1, 1)))
    z = cases.inner("Mul", z, cases.inner("HardSigmoid", gate))
    z = cases.inner("Conv", z, Const(d.floats(x.shape[1], channels, 1, 1)))
    cases.add("Relu", cases.inner("Add", z, "x0_0"))
    assert_equals_reference(cases)

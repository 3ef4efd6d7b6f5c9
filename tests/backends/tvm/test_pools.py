from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.backends.tvm.oracle import Cases, Const, assert_equals_reference
from tests.backends.tvm.strategies import FEW, Draw, dilated, drawers, image, window

pytestmark = pytest.mark.tvm


@FEW
@given(d=drawers())
def test_pools_of_every_kind(d: Draw) -> None:
    cases = Cases(opset=19)
    for op in ("MaxPool", "AveragePool"):
        for spatial in (1, 2, 2):
            attrs: dict[str, Any] = dilated(d, window(d, spatial, kernels=(1, 4)))
            if "auto_pad" not in attrs:
                attrs["ceil_mode"] = d.between(0, 1)
            if op == "AveragePool":
                attrs["count_include_pad"] = d.between(0, 1)
            cases.add(op, image(d, attrs, d.between(1, 70)), **attrs)
        cases.add(
            f"Global{op}",
            d.floats(d.between(1, 3), d.between(1, 40), d.between(1, 9), d.between(1, 9)),
        )
    assert_equals_reference(cases)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_max_pools_of_bytes(dtype: str) -> None:
    low = -128 if dtype == "int8" else 0
    x = np.random.default_rng(0).integers(low, low + 256, (1, 19, 9, 9)).astype(dtype)
    cases = Cases()
    cases.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    assert_equals_reference(cases)


def test_an_average_over_a_window_that_hangs_over_the_end() -> None:
    x = np.random.default_rng(0).standard_normal((1, 5, 10, 10)).astype(np.float32)
    cases = Cases()
    for include in (0, 1):
        for pads in ([0, 0, 0, 0], [1, 1, 1, 1]):
            cases.add(
                "AveragePool",
                x,
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=pads,
                ceil_mode=1,
                count_include_pad=include,
            )
    assert_equals_reference(cases)


def test_normalizations_over_channels() -> None:
    random = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    cases = Cases()
    cases.add("LRN", floats(2, 9, 4, 4), size=5, alpha=0.1, beta=0.5, bias=2.0)
    for shape in ((2, 9), (2, 9, 5), (2, 9, 4, 3)):
        weights = [Const(floats(9)) for _ in range(3)]
        cases.add("BatchNormalization", floats(*shape), *weights, Const(np.abs(floats(9))))
    for shape in ((2, 9, 5), (2, 9, 4, 3)):
        cases.add("InstanceNormalization", floats(*shape), Const(floats(9)), Const(floats(9)))
        cases.add("InstanceNormalization", floats(*shape), floats(9), floats(9))
    assert_equals_reference(cases)

"""What operator tests draw: arrays, and the geometry of sliding windows."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.backends.tvm.oracle import Array


class Draw:
    """Numbers and arrays, all from one seed: an example is a model of several cases."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = np.random.default_rng(seed)

    def __repr__(self) -> str:
        return f"Draw({self.seed})"

    def between(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return int(self.random.integers(low, high + 1))

    def one(self, *values: Any) -> Any:
        return values[self.between(0, len(values) - 1)]

    def floats(self, *shape: int) -> Array:
        return self.random.standard_normal(shape, np.float32)

    def integers(self, *shape: int, dtype: str = "int64") -> Array:
        return self.random.integers(-50, 50, shape).astype(dtype)


def drawers() -> st.SearchStrategy[Draw]:
    return st.integers(0, 2**32 - 1).map(Draw)


# An example costs a second or two to compile, and a smaller seed is no smaller model.
FEW = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def window(d: Draw, spatial: int, *, kernels: tuple[int, int] = (1, 7)) -> dict[str, Any]:
    """Attributes of a sliding window: size, stride and padding of every kind."""
    kernel = [d.between(*kernels) for _ in range(spatial)]
    stride = [d.between(1, 3) for _ in range(spatial)]
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    padding = d.one("none", "explicit", "SAME_UPPER", "SAME_LOWER", "VALID")
    if padding == "explicit":
        # Less than the kernel, so that every window holds an element.
        most = [min((k + 1) // 2, k - 1) for k in kernel]
        attrs["pads"] = [d.between(0, p) for p in most + most]
    elif padding in ("SAME_UPPER", "SAME_LOWER"):
        # With gaps between the windows onnxruntime's own padding would be negative.
        attrs["strides"] = [min(s, k) for s, k in zip(stride, kernel, strict=True)]
        attrs["auto_pad"] = padding
    elif padding == "VALID":
        attrs["auto_pad"] = padding
    return attrs


def dilated(d: Draw, attrs: dict[str, Any]) -> dict[str, Any]:
    """The same with dilations, where onnxruntime allows them."""
    if "auto_pad" in attrs:
        return attrs
    return {**attrs, "dilations": [d.between(1, 3) for _ in attrs["kernel_shape"]]}


def image(d: Draw, attrs: dict[str, Any], channels: int) -> Array:
    """An image that is at least as large as one window without its padding."""
    spatial = len(attrs["kernel_shape"])
    pads = attrs.get("pads", [0] * 2 * spatial)
    sizes = []
    for axis, kernel in enumerate(attrs["kernel_shape"]):
        reach = (kernel - 1) * attrs.get("dilations", [1] * spatial)[axis] + 1
        least = max(1, reach - pads[axis] - pads[axis + spatial])
        sizes.append(d.between(least, least + 9))
    return d.floats(d.between(1, 4), channels, *sizes)

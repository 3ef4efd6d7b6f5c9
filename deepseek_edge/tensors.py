"""What a tensor is called, what it holds and how large it is."""

import math
from dataclasses import dataclass

# Codes shared with deepseek_edge.h (DSE_FLOAT32 ...); bytes per element follow.
DTYPE_CODES = {
    "float32": 1,
    "int8": 2,
    "uint8": 3,
    "int32": 4,
    "int64": 5,
    "bool": 6,
    "float16": 7,
}
DTYPE_BYTES = {
    "float32": 4,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
    "bool": 1,
    "float16": 2,
    "int16": 2,  # only inside programs: how some kernels store int8 activations
}


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and static shape of one tensor.

    Attributes:
        name: as in the source graph.
        dtype: a key of ``DTYPE_CODES``.
        shape: all dimensions known; () is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes without padding."""
        return self.elements * DTYPE_BYTES[self.dtype]

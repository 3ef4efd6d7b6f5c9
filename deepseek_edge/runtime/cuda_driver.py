"""NVIDIA's driver API by ctypes: the GPU's name, its memory and streams. No CUDA toolkit needed.

Runs on Python 3.8 too, as a part of dse_build.py. Function names with ``_v2`` are those that
cuda.h maps its names to.
"""

from __future__ import annotations

import ctypes
from typing import Any

from deepseek_edge.errors import DeepSeekEdgeError, DeviceError

LIBRARY = "libcuda.so.1"
# cuda.h, CUresult and CUdevice_attribute.
_OUT_OF_MEMORY = 2
_NO_DEVICE = (100, 101)
_MAJOR, _MINOR = 75, 76

_POINTER, _SIZE = ctypes.c_uint64, ctypes.c_size_t
_HANDLE, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (ctypes.POINTER(_INT),),
    "cuDeviceGet": (ctypes.POINTER(_INT), _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceGetAttribute": (ctypes.POINTER(_INT), _INT, _INT),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_HANDLE), _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemGetInfo_v2": (ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)),
    "cuMemAlloc_v2": (ctypes.POINTER(_POINTER), _SIZE),
    "cuMemFree_v2": (_POINTER,),
    "cuMemcpyHtoDAsync_v2": (_POINTER, ctypes.c_char_p, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _POINTER, _SIZE, _HANDLE),
    "cuStreamCreate": (ctypes.POINTER(_HANDLE), ctypes.c_uint),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuGetErrorName": (_INT, ctypes.POINTER(ctypes.c_char_p)),
}


class CudaDriver:
    """One GPU: its primary context, which TensorRT uses too, and a stream.

    For the thread that made it; another one calls :meth:`use` first.

    Args:
        device: which GPU; Jetsons have one.
        library: file name of the driver.

    Attributes:
        name: NVIDIA's, e.g. "Orin".
        compute_capability: e.g. "8.7".
        version: of CUDA that the driver supports, e.g. "12.6".
        stream: handle for work in order.

    Raises:
        DeviceError: no driver or no GPU.
    """

    def __init__(self, device: int = 0, library: str = LIBRARY) -> None:
        self._allocated: set[int] = set()
        self._context, self._stream = _HANDLE(), _HANDLE()
        self._library = _load(library)
        self._call("cuInit", 0)
        self._device = _INT()
        self._call("cuDeviceGet", ctypes.byref(self._device), device)
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        self.name = text.value.decode("ascii", "replace")
        self.compute_capability = f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"
        version = _INT()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        try:
            self.use()
            self._call("cuStreamCreate", ctypes.byref(self._stream), 0)
        except DeepSeekEdgeError:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """Handle of the stream that everything here runs on."""
        return self._stream.value or 0

    def use(self) -> None:
        """Make the GPU that of the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        free, total = _SIZE(), _SIZE()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size_bytes: int) -> int:
        """Device memory; its address.

        Raises:
            DeepSeekEdgeError: there is not so much.
        """
        pointer = _POINTER()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), max(size_bytes, 1))
        self._allocated.add(pointer.value)
        return pointer.value

    def upload(self, address: int, data: bytes) -> None:
        """Copy to the device; done when this returns."""
        self._call("cuMemcpyHtoDAsync_v2", address, data, len(data), self._stream)
        # The bytes may be gone after this, so the copy must not be under way.
        self.synchronize()

    def download(self, address: int, size_bytes: int) -> bytes:
        """Copy from the device, after what the stream has to do before."""
        target = ctypes.create_string_buffer(max(size_bytes, 1))
        self._call("cuMemcpyDtoHAsync_v2", target, address, size_bytes, self._stream)
        self.synchronize()
        return target.raw[:size_bytes]

    def synchronize(self) -> None:
        """Wait for the stream.

        Raises:
            DeviceError: the GPU failed since the last call, or is gone.
        """
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back; twice is fine, and so is a GPU that failed."""
        if self._context.value is None:
            return
        for address in self._allocated:
            self._library.cuMemFree_v2(address)
        self._allocated.clear()
        if self._stream.value is not None:
            self._library.cuStreamDestroy_v2(self._stream)
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)
        self._context, self._stream = _HANDLE(), _HANDLE()

    def release(self, address: int) -> None:
        """Give device memory back."""
        self._allocated.discard(address)
        self._library.cuMemFree_v2(address)

    def _attribute(self, number: int) -> int:
        value = _INT()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise _error(self._library, name, status)


def _load(name: str) -> Any:
    try:
        library = ctypes.CDLL(name)
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = _INT
    except (OSError, AttributeError) as error:
        raise DeviceError(
            f"no NVIDIA driver can be used here: {error}", hint="the CPU program takes over"
        ) from error
    return library


def _error(library: Any, function: str, status: int) -> DeepSeekEdgeError:
    text = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(text))
    name = text.value.decode("ascii", "replace") if text.value else f"error {status}"
    if status == _OUT_OF_MEMORY:
        return DeepSeekEdgeError(
            f"the GPU has no memory left ({function}: {name})", hint="end other programs"
        )
    if status in _NO_DEVICE:
        return DeviceError(f"there is no GPU ({name})", hint="the CPU program takes over")
    return DeviceError(
        f"the GPU failed ({function}: {name})",
        hint="the CPU program takes over; this process can't use the GPU again, a new one may",
    )

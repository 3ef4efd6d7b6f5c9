"""deepseek_edge.h for ctypes: the same structures and functions, nothing more."""

import ctypes

ABI_VERSION = 1
MAX_RANK = 8

OK = 0
ERROR_FEATURE = 2
ERROR_NO_DEVICE = 6
ERROR_DRIVER = 7
ERROR_DEVICE_LOST = 8

INPUT = 0
OUTPUT = 1


class Options(ctypes.Structure):
    """dse_options."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("affinity", ctypes.POINTER(ctypes.c_int32)),
        ("affinity_count", ctypes.c_int32),
        ("spin_us", ctypes.c_int32),
    )


class TensorInfo(ctypes.Structure):
    """dse_tensor_info."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("data", ctypes.c_void_p),
        ("size_bytes", ctypes.c_uint64),
    )


class EntryInfo(ctypes.Structure):
    """dse_entry_info."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("steps", ctypes.c_int32),
    )


class StepInfo(ctypes.Structure):
    """dse_step_info."""

    _fields_ = (("name", ctypes.c_char_p), ("op", ctypes.c_char_p))


def declare(library: ctypes.CDLL) -> None:
    """Give the functions of a loaded library their types.

    Raises:
        AttributeError: the library lacks one of them.
    """
    model, index = ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "dse_abi_version": (ctypes.c_uint32, ()),
        "dse_open": (index, (ctypes.POINTER(Options), ctypes.POINTER(model))),
        "dse_entries": (index, (model,)),
        "dse_entry": (index, (model, index, ctypes.POINTER(EntryInfo))),
        "dse_tensor": (index, (model, index, index, index, ctypes.POINTER(TensorInfo))),
        "dse_step": (index, (model, index, index, ctypes.POINTER(StepInfo))),
        "dse_run": (index, (model, index)),
        "dse_run_timed": (
            index,
            (model, index, ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
        ),
        "dse_last_error": (ctypes.c_char_p, (model,)),
        "dse_close": (None, (model,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments

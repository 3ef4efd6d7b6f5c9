"""What is in a cubin: an ELF file with machine code for one GPU.

Machine, flags and sections as CUDA's cuobjdump and readelf show them; NVIDIA documents no more
than that a cubin is an ELF file (CUDA Binary Utilities,
https://docs.nvidia.com/cuda/cuda-binary-utilities/, read 2026-11-27). That the lowest byte of the
flags is the GPU's number was seen in NVRTC 11.8's and 12.9's output.
"""

import struct
from dataclasses import dataclass

from deepseek_edge.errors import DeepSeekEdgeError

_MACHINE = 190  # EM_CUDA
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True)
class Cubin:
    """The headers of a cubin.

    Attributes:
        sm: of the GPU: 87 is sm_87.
        sections: names, in order.
    """

    sm: int
    sections: tuple[str, ...]

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of its entry points."""
        return tuple(s.removeprefix(".text.") for s in self.sections if s.startswith(".text."))

    @property
    def has_ptx(self) -> bool:
        """True if it carries PTX, which a driver might be too old to translate."""
        return any("ptx" in section for section in self.sections)


def read_cubin(data: bytes) -> Cubin:
    """Read the headers.

    Raises:
        DeepSeekEdgeError: it is cut off, or no ELF file for a CUDA machine.
    """
    try:
        ident, _, machine, _, _, _, table, flags, _, _, _, each, count, names = _HEADER.unpack_from(
            data
        )
        if ident[:6] != b"\x7fELF\x02\x01" or machine != _MACHINE:
            raise DeepSeekEdgeError("the GPU's code is no ELF file for CUDA")
        rows = [_SECTION.unpack_from(data, table + each * number) for number in range(count)]
        strings = data[rows[names][4] : rows[names][4] + rows[names][5]]
        sections = tuple(strings[row[0] : strings.index(b"\0", row[0])].decode() for row in rows)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise DeepSeekEdgeError(f"the GPU's code is cut off or damaged: {error}") from error
    return Cubin(flags & 0xFF, sections)


def check_cubin(data: bytes, arch: str, kernels: tuple[str, ...]) -> None:
    """Check that a cubin is for a GPU, has all kernels, and nothing that a driver translates.

    Raises:
        DeepSeekEdgeError: it isn't so.
    """
    found = read_cubin(data)
    if f"sm_{found.sm}" != arch:
        raise DeepSeekEdgeError(f"the GPU's code is for sm_{found.sm}, not {arch}")
    if found.has_ptx:
        raise DeepSeekEdgeError("the GPU's code carries PTX")
    missing = sorted(set(kernels) - set(found.kernels))
    if missing:
        raise DeepSeekEdgeError(f"the GPU's code lacks {', '.join(missing)}")

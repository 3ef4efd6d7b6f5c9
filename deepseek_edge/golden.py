"""Golden tensors: inputs and outputs of one run, with which a bundle is judged anywhere."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from deepseek_edge.artifacts import Entry, Program
from deepseek_edge.errors import InputError
from deepseek_edge.stored_zip import refuse
from deepseek_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOLDEN_INDEX = "golden/index.txt"
_GOLDEN_FILE = re.compile(r"golden/[a-z0-9][a-z0-9._-]{0,150}\.bin")


class GoldenTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input of a program, or the output for it: the program's own, where it could run.

    Attributes:
        entry: index into the program's entries.
        index: of the tensor among the entry's inputs or outputs.
        tolerance: largest absolute difference allowed elsewhere; 0 for inputs and for int8.
        file: member with the raw little-endian elements in C order.
    """

    program: str
    entry: int
    direction: Literal["input", "output"]
    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    tolerance: float
    file: str


def golden_tensors(
    program: Program,
    inputs: Mapping[str, "NDArray[Any]"],
    outputs: Mapping[str, "NDArray[Any]"],
    *,
    tolerances: Mapping[str, float],
    entry: int = 0,
) -> tuple[tuple[GoldenTensor, ...], dict[str, bytes]]:
    """Describe one run of a program, and give the bundle members that hold its tensors.

    Args:
        program: which one ran.
        inputs: by tensor name, all of the entry's, in its dtypes and shapes.
        outputs: likewise; the program's own, or a reference's if it could run nowhere.
        tolerances: by output name, absolute; 0 for integers.
        entry: index into the program's entries.

    Raises:
        InputError: a tensor is missing or is not as the entry says.
    """
    records: list[GoldenTensor] = []
    files: dict[str, bytes] = {}
    specs = program.entries[entry]
    for direction, tensors, arrays in (
        ("input", specs.inputs, inputs),
        ("output", specs.outputs, outputs),
    ):
        for index, spec in enumerate(tensors):
            file = f"golden/{program.id}.{entry}.{direction}.{index}.bin"
            files[file] = _raw_bytes(spec, arrays)
            record = GoldenTensor(
                program=program.id,
                entry=entry,
                direction=direction,  # type: ignore[arg-type]
                index=index,
                name=spec.name,
                dtype=spec.dtype,
                shape=spec.shape,
                tolerance=float(tolerances[spec.name]) if direction == "output" else 0.0,
                file=file,
            )
            records.append(record)
    return tuple(records), files


def _raw_bytes(spec: TensorSpec, arrays: Mapping[str, "NDArray[Any]"]) -> bytes:
    array = arrays.get(spec.name)
    if array is None:
        raise InputError(f"golden tensor {spec.name} is missing")
    if str(array.dtype) != spec.dtype or array.shape != spec.shape:
        raise InputError(
            f"golden tensor {spec.name} is {array.dtype}{list(array.shape)}, "
            f"its entry says {spec.dtype}{list(spec.shape)}"
        )
    return encode(array)


def encode(array: "NDArray[Any]") -> bytes:
    """The raw little-endian elements in C order, as a golden file holds them."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def decode(data: bytes, dtype: str, shape: Sequence[int]) -> "NDArray[Any]":
    """The array of ``dtype`` that :func:`encode` wrote, in this machine's byte order.

    Raises:
        ValueError: ``data`` isn't of that size.
    """
    import numpy as np

    elements = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return elements.reshape(shape).astype(dtype)


def golden_index(golden: Sequence[GoldenTensor]) -> bytes:
    """golden/index.txt: what dse-run needs of the golden tensors, so that it parses no JSON.

    Lines ``program entry input|output index tolerance file``, in the manifest's order.
    """
    lines = (
        f"{tensor.program} {tensor.entry} {tensor.direction} {tensor.index} "
        f"{tensor.tolerance!r} {tensor.file}\n"
        for tensor in golden
    )
    return "".join(lines).encode("ascii")


def check_golden(
    program_id: str,
    entries: Sequence[Entry],
    golden: Sequence[GoldenTensor],
    sizes: Mapping[str, int],
) -> None:
    """Check the golden tensors of one program against its entries and the members' sizes.

    Raises:
        BundleError: they are not all inputs and outputs of some entries, each once and as there,
            or a file has another size.
    """
    where = f"manifest.json: golden tensors of program {program_id}"
    tensors = [tensor for tensor in golden if tensor.program == program_id]
    described = {
        (index, direction, position): spec
        for index, entry in enumerate(entries)
        for direction, specs in (("input", entry.inputs), ("output", entry.outputs))
        for position, spec in enumerate(specs)
    }
    keys = [(tensor.entry, tensor.direction, tensor.index) for tensor in tensors]
    used = {entry for entry, _, _ in keys}
    if sorted(keys) != sorted(key for key in described if key[0] in used):
        raise refuse(f"{where} are not the inputs and outputs of its entries, each once")
    for tensor, key in zip(tensors, keys, strict=True):
        spec = described[key]
        if (tensor.name, tensor.dtype, tensor.shape) != (spec.name, spec.dtype, spec.shape):
            raise refuse(f"{where}: {tensor.name!a} is not as the program says")
        if not _GOLDEN_FILE.fullmatch(tensor.file) or sizes.get(tensor.file) != spec.size_bytes:
            raise refuse(f"{where}: {tensor.file!a} is not {spec.size_bytes} bytes long")
        if tensor.tolerance < 0:
            raise refuse(f"{where}: a tolerance is below 0")

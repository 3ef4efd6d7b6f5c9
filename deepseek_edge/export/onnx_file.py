"""Reading .onnx files that may be damaged or hostile: bounded time, bounded memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from deepseek_edge.errors import ModelError, UnsupportedError, UsageError

if TYPE_CHECKING:
    import onnx

# Protocol buffers can't be longer; so a longer file is no ONNX model, whatever it holds.
_MAX_BYTES = 2**31 - 1
_GRAPH_FIELD = 7
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, _GRAPH_FIELD, 8, 14, 20, 25, 26}
_EXPORT_AGAIN = "export it again, or copy it again if the copy was cut off"


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file and the external data in its folder.

    The file's outer structure is walked before anything is parsed, so that a file cut off or of
    another kind is refused at once, however long it is.

    Args:
        path: of the file.

    Returns:
        The model with all weights inside, local functions inlined, and no initializer among the
        graph's inputs.

    Raises:
        ModelError: not ONNX, cut off, invalid, or its external data is missing or too short.
        UnsupportedError: external data outside the model's folder, more than 2 GiB of weights,
            or a version of ONNX newer than the installed package reads.
        UsageError: the file can't be opened.
    """
    try:
        with path.open("rb") as file:
            _check_outer_structure(file, path)
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    return check_model(_parse(data, path), path)


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{path} is damaged: {error}", hint=_EXPORT_AGAIN) from error


def check_model(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Load external data, validate and normalize a parsed model; see :func:`load_onnx`."""
    import onnx
    from onnx import checker, inliner

    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in {"", "ai.onnx"} and opset.version > newest:
            raise UnsupportedError(
                f"{path} uses ONNX opset {opset.version}; the installed onnx knows {newest}",
                hint="pip install --upgrade onnx, or export with an opset up to 20",
            )
    try:
        _load_external_data(model, path)
        for tensor in _tensors(model.graph):
            _check_size(tensor, path)
        checker.check_model(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except (checker.ValidationError, ValueError, KeyError, RuntimeError) as error:
        # The package raises the last three for enumerations and texts that don't exist.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path} is not a valid ONNX model: {reason}", hint=_EXPORT_AGAIN
        ) from error
    _drop_initializers_from_inputs(model)
    return model


def _drop_initializers_from_inputs(model: onnx.ModelProto) -> None:
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        # Version 3 demanded that every initializer be an input.
        model.ir_version = max(model.ir_version, 4)


def _check_outer_structure(file: BinaryIO, path: Path) -> None:
    """Walk the fields of ModelProto, skipping their contents."""
    size = os.fstat(file.fileno()).st_size
    not_onnx = ModelError(f"{path} is not an ONNX file", hint="was it renamed? " + _EXPORT_AGAIN)
    if size == 0 or size > _MAX_BYTES:
        raise not_onnx
    fields = set()
    while file.tell() < size:
        start = file.tell()
        field, end = _field(file)
        if field not in _MODEL_FIELDS:
            # Before the graph was seen this is another format, after it a damaged file.
            raise _cut_off(path, size) if _GRAPH_FIELD in fields else not_onnx
        if end is None or end > size:
            raise not_onnx if start == 0 and field != 1 else _cut_off(path, size)
        fields.add(field)
        file.seek(end)
    if _GRAPH_FIELD not in fields:
        raise _cut_off(path, size) if 1 in fields else not_onnx


def _cut_off(path: Path, size: int) -> ModelError:
    return ModelError(f"{path} is damaged or cut off after {size} bytes", hint=_EXPORT_AGAIN)


def _field(file: BinaryIO) -> tuple[int, int | None]:
    """Number of the field at the file's position, and where it ends (None: malformed)."""
    tag = _varint(file)
    if tag is None:
        return 0, None
    field, wire = tag >> 3, tag & 7
    if wire == 0:
        return field, file.tell() if _varint(file) is not None else None
    if wire == 2:
        length = _varint(file)
        return field, None if length is None else file.tell() + length
    return field, None


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants of a graph and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _tensors(subgraph)


def _check_size(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose bytes don't fill its shape, before anyone allocates that shape."""
    from onnx import helper

    if tensor.HasField("raw_data"):
        elements = math.prod(tensor.dims)
        item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        # Types under a byte are packed; their numpy types are a byte wide.
        if item_bytes > 1 and elements * item_bytes != len(tensor.raw_data):
            raise ModelError(
                f"{path}: weight {tensor.name} of shape {tuple(tensor.dims)} has "
                f"{len(tensor.raw_data)} bytes instead of {elements * item_bytes}",
                hint=_EXPORT_AGAIN,
            )


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    tensors = [
        tensor
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    places = [_external_place(tensor, path) for tensor in tensors]
    if model.ByteSize() + sum(length for _, _, length in places) > _MAX_BYTES:
        raise UnsupportedError(
            f"{path} has more than 2 GiB of weights",
            hint="quantize or split the model first; one ONNX graph in memory can't be longer",
        )
    for tensor, (file_path, offset, length) in zip(tensors, places, strict=True):
        with file_path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _external_place(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's data, all checked against the disk."""
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    folder = path.resolve().parent
    file_path = (folder / location).resolve()
    if location.is_absolute() or not file_path.is_relative_to(folder):
        raise UnsupportedError(
            f"weight {tensor.name} lies outside the model's folder: {location}",
            hint="put the data file beside the model and save it with a relative location",
        )
    if not file_path.is_file():
        raise ModelError(
            f"the weights of {path} are missing: {file_path.name} is not beside it",
            hint="copy the data file into the model's folder",
        )
    item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", math.prod(tensor.dims) * item_bytes))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > file_path.stat().st_size:
        raise ModelError(
            f"{file_path.name} is too short for weight {tensor.name}", hint=_EXPORT_AGAIN
        )
    return file_path, offset, length

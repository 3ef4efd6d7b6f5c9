"""Static shapes: everything downstream is planned ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepseek_edge.errors import UsageError

if TYPE_CHECKING:
    import onnx


def fix_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], *, batch: int | None = None
) -> onnx.ModelProto:
    """Give every input a static shape and compute at once what follows from it.

    A leading dimension that the model leaves open is a batch. A symbol that one input fixes
    holds for all inputs. What shapes decide (Shape, the arithmetic on it, constants) is folded
    into initializers.

    Args:
        model: not changed.
        shapes: full shapes by input name, for inputs that need one.
        batch: size of every open leading dimension, also where ``shapes`` says another one; by
            default what ``shapes`` says, else 1.

    Returns:
        A copy whose inputs and outputs have static shapes.

    Raises:
        UsageError: a shape is missing or contradicts the model, or an input has no such name.
    """
    import onnx

    from deepseek_edge.export.folding import fold_constants

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = {value.name: value for value in fixed.graph.input}
    for name in shapes:
        if name not in inputs:
            known = ", ".join(f"{other} {_describe(value)}" for other, value in inputs.items())
            raise UsageError(f"the model has no input {name}", hint=f"its inputs: {known}")
    if batch is not None:
        shapes = _with_batch(inputs, shapes, batch)
    symbols = _bind_symbols(inputs, shapes, batch or 1)
    for name, value in inputs.items():
        _set_shape(value, _resolve(value, shapes.get(name), symbols, batch or 1))
    return fold_constants(fixed)


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    """Known sizes as numbers, symbols as names, unnamed ones as ""."""
    # Some exporters write -1 or the symbol "?" for each size they don't know.
    return [
        dim.dim_value if dim.dim_value > 0 else dim.dim_param.replace("?", "")
        for dim in value.type.tensor_type.shape.dim
    ]


def _describe(value: onnx.ValueInfoProto) -> str:
    return "(" + ", ".join(str(dim or "?") for dim in _dims(value)) + ")"


def _with_batch(
    inputs: Mapping[str, onnx.ValueInfoProto], shapes: Mapping[str, tuple[int, ...]], batch: int
) -> dict[str, tuple[int, ...]]:
    is_open = {
        name: not dims or isinstance(dims[0], str)
        for name, dims in ((name, _dims(value)) for name, value in inputs.items())
        if dims or not inputs[name].type.tensor_type.HasField("shape")
    }
    if batch != 1 and not any(is_open.values()):
        raise UsageError(
            f"the model's batch is fixed, so it can't be {batch}",
            hint="export the model with a dynamic batch, or leave --batch out",
        )
    return {
        name: (batch, *shape[1:]) if shape and is_open.get(name) else shape
        for name, shape in shapes.items()
    }


def _bind_symbols(
    inputs: Mapping[str, onnx.ValueInfoProto], shapes: Mapping[str, tuple[int, ...]], batch: int
) -> dict[str, int]:
    """What the given shapes say about symbols; the rest of the leading ones are ``batch``."""
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        dims = _dims(inputs[name])
        has_shape = inputs[name].type.tensor_type.HasField("shape")
        if has_shape and len(dims) != len(shape):
            raise UsageError(
                f"--shape {name} has {len(shape)} dimensions, the model's input {len(dims)}",
                hint=f"it is {_describe(inputs[name])}",
            )
        if any(size < 1 for size in shape):
            raise UsageError(f"--shape {name}={_spell(shape)}: every size must be at least 1")
        # An input that doesn't say its rank takes the given one.
        for index, (dim, size) in enumerate(zip(dims, shape, strict=False)):
            known = symbols.setdefault(dim, size) if isinstance(dim, str) and dim else dim
            if known and known != size:
                raise UsageError(
                    f"--shape {name}={_spell(shape)}: dimension {index} is {known} in the model",
                    hint="export the model with a dynamic batch to choose it here"
                    if index == 0
                    else f"the input is {_describe(inputs[name])}",
                )
    for value in inputs.values():
        for dim in _dims(value)[:1]:
            if isinstance(dim, str) and dim:
                symbols.setdefault(dim, batch)
    return symbols


def _resolve(
    value: onnx.ValueInfoProto,
    given: tuple[int, ...] | None,
    symbols: Mapping[str, int],
    batch: int,
) -> tuple[int, ...]:
    if given is not None:
        return given
    dims = _dims(value)
    if not value.type.tensor_type.HasField("shape"):
        raise UsageError(
            f"the shape of input {value.name} is not known", hint=f"give it: --shape {value.name}=…"
        )
    known = [symbols.get(dim) if isinstance(dim, str) else dim for dim in dims]
    if known and known[0] is None:
        known[0] = batch
    if any(size is None for size in known):
        pattern = ",".join("?" if size is None else str(size) for size in known)
        raise UsageError(
            f"the shape of input {value.name} is not fully known: {_describe(value)}",
            hint=f"give it: --shape {value.name}={pattern}, a number for each ?",
        )
    return tuple(size for size in known if size is not None)


def _spell(shape: tuple[int, ...]) -> str:
    return ",".join(str(size) for size in shape)


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dims.add().dim_value = size
    # A scalar has a shape without dimensions, which is not the same as no shape.
    value.type.tensor_type.shape.SetInParent()

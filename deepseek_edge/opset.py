"""The version of ONNX's operators that a graph is written in."""

from typing import TYPE_CHECKING

from deepseek_edge.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx


def opset_of(model: "onnx.ModelProto") -> int:
    """The version of ONNX's own operators; 1 if the graph states none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def convert_opset(model: "onnx.ModelProto", version: int, *, hint: str) -> "onnx.ModelProto":
    """A copy in another opset, with the same results.

    Args:
        model: not changed.
        version: of the copy.
        hint: what to do instead where that can't be.

    Raises:
        UnsupportedError: an operator has no such version, or ONNX can't convert it.
    """
    import onnx
    from onnx import version_converter

    given = opset_of(model)
    if given == version:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        return version_converter.convert_version(model, version)
    except Exception as error:  # the converter raises bare RuntimeErrors of C++
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UnsupportedError(
            f"the graph's opset {given} can't be converted to {version}: {reason}", hint=hint
        ) from error

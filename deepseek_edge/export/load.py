"""One way in for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import ModelError, UsageError
from deepseek_edge.importing import import_function, is_function_reference

if TYPE_CHECKING:
    import onnx
    from torch import nn

_FORMS = "a model is x.onnx, x.pt2, a Hugging Face folder, or package.module:factory"


def load_model(reference: str) -> onnx.ModelProto:
    """Read or export a model as a checked ONNX graph, its weights inside.

    Args:
        reference: path of an .onnx or .pt2 file, a Hugging Face folder (config.json and
            safetensors), or "package.module:factory", a function without arguments that returns
            a torch module and a tuple of example inputs; modules are also looked up in the
            current directory.

    Returns:
        The graph; leading batch dimensions may be symbolic, see :func:`fix_shapes`.

    Raises:
        ModelError: the file is damaged or is not what its name says.
        UnsupportedError: understood, but it can't be exported; also MissingToolError without
            the extra ``torch``.
        UsageError: nothing of this name exists.
    """
    path = Path(reference)
    if path.is_dir():
        from deepseek_edge.export.hugging_face import load_hugging_face

        return load_hugging_face(path)
    if path.is_file() and path.suffix == ".onnx":
        from deepseek_edge.export.onnx_file import load_onnx

        return load_onnx(path)
    if path.is_file() and path.suffix == ".pt2":
        from deepseek_edge.export.pt2_file import load_pt2

        return load_pt2(path)
    if path.exists():
        raise ModelError(f"{reference} is of no kind that can be read", hint=_FORMS)
    if is_function_reference(reference):
        from deepseek_edge.export.torch_module import export_module

        return export_module(*load_module(reference))
    raise UsageError(f"there is no model {reference}", hint=_FORMS)


def load_module(reference: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Call a factory.

    Args:
        reference: "package.module:factory", as :func:`load_model` takes it.

    Returns:
        The torch module and its example inputs.

    Raises:
        UsageError: there is no such function, or it returns something else.
    """
    result = import_function(reference)()
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple)):
        raise UsageError(
            f"{reference} returned {type(result).__name__}, not (module, example inputs)",
            hint="return the torch module and a tuple of its example inputs",
        )
    return result

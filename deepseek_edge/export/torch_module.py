"""torch modules to ONNX, through torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import MissingToolError, UnsupportedError

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
_log = logging.getLogger(__name__)


def export_module(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    dynamic: tuple[dict[int, torch.export.Dim], ...] | None = None,
    output_names: tuple[str, ...] | None = None,
) -> onnx.ModelProto:
    """Export a module in evaluation mode as an ONNX graph of opset 18.

    Args:
        module: stays in the mode it was in.
        example_inputs: its positional arguments, tensors.
        dynamic: for each input the dimensions to leave symbolic; by default the first of every
            input, as "batch". A module that can't be traced like
            that, since its code fixes the batch, is exported with the example's sizes; the graph
            then says so, and ``--batch`` beyond it is refused.
        output_names: by default "output", or "output_0", "output_1", ...

    Returns:
        The graph, constants folded, nodes named after the modules they come from.

    Raises:
        MissingToolError: the extra ``torch`` is not installed.
        UnsupportedError: torch can't trace the module, or an operator has no ONNX form.
    """
    program = trace_module(module, example_inputs, dynamic=dynamic)
    return program_to_onnx(program, output_names=output_names)


def trace_module(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    dynamic: tuple[dict[int, torch.export.Dim], ...] | None = None,
) -> torch.export.ExportedProgram:
    """Trace a module in evaluation mode; arguments and errors are those of :func:`export_module`.

    Raises:
        MissingToolError: the extra ``torch`` is not installed.
        UnsupportedError: torch can't trace the module.
    """
    require_torch()
    import torch

    if dynamic is None:
        batch = torch.export.Dim("batch", min=1)
        dynamic = tuple({0: batch} if value.dim() else {} for value in example_inputs)
    was_training = module.training
    module.eval()
    try:
        return _trace(module, example_inputs, dynamic)
    finally:
        module.train(was_training)


def _trace(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    dynamic: tuple[dict[int, torch.export.Dim], ...],
) -> torch.export.ExportedProgram:
    import torch

    with quiet_export(), torch.no_grad():
        try:
            return torch.export.export(
                module,
                _enlarged(example_inputs, dynamic),
                dynamic_shapes=dynamic,
                strict=False,
            )
        except Exception as error:
            # torch raises many types here; whether the static trace works decides.
            _log.info("not traced with a dynamic batch: %s", first_line(error))
        try:
            return torch.export.export(module, example_inputs, strict=False)
        except Exception as error:
            raise UnsupportedError(
                f"torch can't trace {type(module).__name__}: {first_line(error)}",
                hint="torch.export must accept the module; its message says which line does not",
            ) from error


def _enlarged(
    example_inputs: tuple[Any, ...], dynamic: tuple[dict[int, torch.export.Dim], ...]
) -> tuple[Any, ...]:
    """Examples whose dynamic dimensions are at least 2, since torch takes a 1 as meant so."""
    enlarged = []
    for value, dims in zip(example_inputs, dynamic, strict=True):
        repeats = [
            2 if axis in dims and value.shape[axis] == 1 else 1 for axis in range(value.dim())
        ]
        enlarged.append(value.repeat(repeats))
    return tuple(enlarged)


def program_to_onnx(
    program: torch.export.ExportedProgram, *, output_names: tuple[str, ...] | None = None
) -> onnx.ModelProto:
    """Translate a traced program; see :func:`export_module`."""
    import torch

    from deepseek_edge.export.names import name_nodes_by_module

    count = len(program.graph_signature.user_outputs)
    names = output_names or (
        ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))
    )
    try:
        with quiet_export():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                output_names=list(names),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise UnsupportedError(
            f"the program has no ONNX form: {first_line(error)}",
            hint="export it to .onnx yourself, or replace the operator that is named",
        ) from error
    assert exported is not None
    return name_nodes_by_module(exported.model_proto)


def require_torch() -> None:
    """Raise MissingToolError unless the packages of the extra ``torch`` are installed."""
    import importlib.util

    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingToolError(
                f"{package} is needed to export torch models",
                hint="pip install 'deepseek-edge[torch]', or give the model as an .onnx file",
            )


def first_line(error: BaseException) -> str:
    """The first line of the innermost cause, which is the one about the user's model."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keep torch's exporter from printing, logging and warning about itself."""
    loggers = [
        # "torchvision is not installed": operators of it that no graph here has.
        logging.getLogger("torch.onnx._internal.exporter._registration"),
        # "Evaluation failed": a constant that is left for our own folding.
        logging.getLogger("onnxscript.optimizer._constant_folding"),
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for message, category in (
            (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
            (r"# The axis name: \w+ will not be used", UserWarning),
        ):
            warnings.filterwarnings("ignore", message, category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

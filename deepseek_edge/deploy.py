"""One call from a model in Python to a library for a device."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from deepseek_edge.capabilities import check_compiler, emulation_hint
from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.export import fix_shapes, load_model
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import Reference
from deepseek_edge.pipeline import tvm_backend
from deepseek_edge.pipeline.checking import check_program
from deepseek_edge.pipeline.choosing import Builder, CompileProgram
from deepseek_edge.pipeline.placement import choose_place
from deepseek_edge.pipeline.plan import PlannedTarget, check_writable
from deepseek_edge.pipeline.workspace import work_directory
from deepseek_edge.report import ProgramReport
from deepseek_edge.target import load_target

if TYPE_CHECKING:
    import torch


class EdgeDeployer:
    """Compiles a model to a shared library that needs nothing but libc.

    Args:
        model: an nn.Module; (an nn.Module, its example inputs); an ONNX graph; or what
            ``compile`` takes: a path or "package.module:factory".
        target_device: a target's id.
        optimize_level: "O3", the only one there is: kernels are always optimized fully.
        example_inputs: of an nn.Module that comes alone, e.g. ``(torch.zeros(1, 3, 224, 224),)``.
        shapes: of inputs whose shape the model leaves open, by name.

    Raises:
        UnsupportedError: another ``optimize_level``.
        UnknownTargetError: no such target.
    """

    def __init__(
        self,
        model: "str | Path | onnx.ModelProto | torch.nn.Module | tuple[torch.nn.Module, Any]",
        target_device: str = "arm64",
        optimize_level: str = "O3",
        *,
        example_inputs: tuple[Any, ...] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        if optimize_level != "O3":
            raise UnsupportedError(
                f"optimize_level {optimize_level!r} is not supported", hint='it is always "O3"'
            )
        self._model = model
        self._target = load_target(target_device)
        self._example_inputs = example_inputs
        self._shapes = dict(shapes or {})

    def export(
        self, path: str | Path, *, compile_program: CompileProgram | None = None
    ) -> ProgramReport:
        """Compile, run the library and compare it with the model's graph, and write it.

        Warns if the library can't be run here (``verified`` of the report is None then).

        Args:
            path: of the library to write, e.g. "mobilenet_edge.so".
            compile_program: the back end; TVM's if None.

        Returns:
            What is known of the program; its ``library`` is gone, the file at ``path`` stays.

        Raises:
            ParityError: it computes something else; nothing is written.
            UsageError, ModelError, UnsupportedError, OutputError: as ``compile``.
        """
        path = Path(path)
        check_compiler()
        check_writable(path)
        model = fix_shapes(self._graph(), self._shapes)
        one = PlannedTarget(self._target, choose_place(self._target), path)
        with work_directory(None, self._target.id) as work_dir:
            backend = compile_program or tvm_backend()
            build = Builder(backend, self._target, (1,), work_dir, _ignore)
            program, reference = build.build(model), Reference(model)
            checked = check_program(program, one, model, reference, _ignore, rebuild=build.rebuild)
            write_atomic(path, program.library.read_bytes())
        if one.place is None:
            hint = emulation_hint(self._target.arch)
            warnings.warn(f"{path} was NOT RUN on this machine; {hint}", stacklevel=2)
        return checked.report

    def _graph(self) -> onnx.ModelProto:
        model = self._model
        if isinstance(model, onnx.ModelProto):
            return model
        if isinstance(model, str | Path):
            return load_model(str(model))
        module, inputs = model if isinstance(model, tuple) else (model, self._example_inputs)
        if inputs is None:
            raise UsageError(
                "a module alone doesn't tell the shapes of its inputs",
                hint="EdgeDeployer(model, example_inputs=(torch.zeros(1, 3, 224, 224),))",
            )
        from deepseek_edge.export.torch_module import export_module

        return export_module(module, tuple(inputs))


def _ignore(*_: object) -> None:
    pass

"""Prune a module, by a share or for a target's latency, and say what it takes there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepseek_edge.compression.shapes import LayerShape
from deepseek_edge.errors import UnsupportedError, UsageError
from deepseek_edge.files import write_atomic
from deepseek_edge.parity import Tensors, sample_inputs
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.choosing import CompileProgram
from deepseek_edge.pipeline.layer_cost import Cost, measured_cost, modelled_cost
from deepseek_edge.pipeline.placement import is_this_machine
from deepseek_edge.pipeline.precision import Basis
from deepseek_edge.pipeline.workspace import work_directory
from deepseek_edge.profiling.comparison import compare_calls
from deepseek_edge.target import Target

if TYPE_CHECKING:
    import torch

    from deepseek_edge.compression import ChannelPruner, PrunedModel

By = Literal["parameters", "macs"]
Ranking = Literal["l1", "l2", "bn_scale"]
Scope = Literal["layer", "global"]
Progress = Callable[[str, int, int], None]

SMALLEST_TILE = 8
# Where a budget decides in its place.
_UNUSED_RATIO = 0.5
# A model under a budget by prediction may be a little above it when it is measured.
ATTEMPTS = 3


@dataclass(frozen=True)
class Pruned:
    """A pruned module, and what it takes on the target.

    Attributes:
        basis: where the predicted times in ``model.report`` are from; None: there are none.
        measured_ms_before, measured_ms_after: of whole calls, compiled; None elsewhere than on
            the machine that the model is for.
    """

    model: "PrunedModel"
    basis: Basis | None = None
    measured_ms_before: float | None = None
    measured_ms_after: float | None = None


@dataclass(frozen=True)
class PruneInstruments:
    """What latencies are found with; replaced in tests.

    Attributes:
        compile_program: the back end; TVM's if None.
        layer_cost: (target, back end, told of each shape) -> the cost of layers on this machine.
        calls: (libraries, inputs) -> seconds of a call of each.
    """

    compile_program: CompileProgram | None = None
    layer_cost: Callable[..., Cost] = measured_cost
    calls: Callable[[Sequence[Path], Tensors], Sequence[float]] = compare_calls


def prune_module(
    module: "torch.nn.Module",
    example_inputs: tuple[Any, ...],
    *,
    ratio: float | None = None,
    latency_budget_ms: float | None = None,
    target: Target | None = None,
    by: By = "parameters",
    scope: Scope = "layer",
    importance: Ranking = "l1",
    round_to: int | None = None,
    excluded: Sequence[str] = (),
    narrate: Narrate = lambda _line: None,
    progress: Progress = lambda *_: None,
    instruments: PruneInstruments | None = None,
) -> Pruned:
    """Remove channels of a module: a share of them, or as many as a latency budget asks for.

    Args:
        module: stays as it is.
        example_inputs: its positional arguments; their sizes are those of the budget.
        ratio: share of ``by`` to remove.
        latency_budget_ms: of a call on ``target`` instead: predicted, on this machine measured too.
        target: that the model is for; without a budget it says what times to predict, if any.
        by: what ``ratio`` is a share of.
        scope: the same share of each layer, or what matters least wherever it is.
        importance: how channels are ranked.
        round_to: outputs are a multiple of this; None: of a vector of the target, at least 8.
        excluded: names of modules whose outputs stay.
        narrate: told lines for a person.
        progress: told (stage, done, total).
        instruments: real ones if None.

    Raises:
        UsageError, UnsupportedError: as ``ChannelPruner``; or a budget without a target.
    """
    from deepseek_edge.compression import ChannelPruner

    _check_aims(ratio, latency_budget_ms, target)
    options: dict[str, Any] = {"by": by, "scope": scope, "importance": importance}
    options |= {"round_to": _tile(round_to, target), "excluded": excluded, "progress": progress}
    share = _UNUSED_RATIO if ratio is None else ratio
    pruner = partial(ChannelPruner, (module, example_inputs), share, **options)
    if target is None:
        return Pruned(pruner().compress())
    if not is_this_machine(target):
        scaled = pruner(cost=modelled_cost(target), latency_budget_ms=latency_budget_ms)
        return Pruned(scaled.compress(), "modelled")
    watch = _Stopwatch(module, example_inputs, target, narrate, instruments or PruneInstruments())
    return _prune_here(pruner, watch, latency_budget_ms)


def _check_aims(
    ratio: float | None, latency_budget_ms: float | None, target: Target | None
) -> None:
    if (ratio is None) == (latency_budget_ms is None):
        raise UsageError(
            "pruning needs a ratio or a latency budget, and not both",
            hint="--ratio 0.3, or --latency-budget 20 --target ID",
        )
    if latency_budget_ms is not None and target is None:
        raise UsageError("a latency is one of a target", hint="add --target ID")


def _tile(round_to: int | None, target: Target | None) -> int:
    """What is asked for, or the outputs of a layer that a vector register of the target holds."""
    if round_to is not None:
        return round_to
    return SMALLEST_TILE if target is None else max(SMALLEST_TILE, target.vector_bits // 32)


def write_module(model: "PrunedModel", path: Path) -> None:
    """Export a pruned module to a .pt2 or an .onnx file, by the path's ending.

    Raises:
        UnsupportedError: it can't be exported. OutputError: the file can't be written.
    """
    from deepseek_edge.export.pt2_file import save_pt2
    from deepseek_edge.export.torch_module import program_to_onnx, trace_module

    program = trace_module(model.module, model.example_inputs)
    if path.suffix == ".pt2":
        save_pt2(program, path)
    else:
        write_atomic(path, program_to_onnx(program).SerializeToString(deterministic=True))


def _prune_here(
    pruner: "Callable[..., ChannelPruner]", stopwatch: "_Stopwatch", budget_ms: float | None
) -> Pruned:
    """Prune for this machine, and measure; a budget that is missed is tightened."""
    cost, target, narrate = stopwatch.layer_cost(), stopwatch.target, stopwatch.narrate
    # A budget that is met already removes nothing: this is what the layers come to now.
    whole = pruner(cost=cost, latency_budget_ms=math.inf).compress().report.predicted_ms_before
    (whole_ms,) = stopwatch.calls(stopwatch.module)
    # The rest of a call goes to what has no weights (additions, pooling), and shrinks with it.
    factor = whole_ms / whole if whole else 1.0
    narrate(f"{target.id}: {whole_ms:.3f} ms as it is, its layers one by one {whole or 0.0:.3f} ms")

    def prune(goal_ms: float | None) -> Pruned:
        scaled = pruner(cost=lambda shape: factor * cost(shape), latency_budget_ms=goal_ms)
        model = scaled.compress()
        return Pruned(model, "measured", *stopwatch.calls(stopwatch.module, model.module))

    found, goal_ms = prune(budget_ms), budget_ms
    for attempt in range(1, ATTEMPTS + 1):
        after_ms = found.measured_ms_after
        if goal_ms is None or budget_ms is None or after_ms is None or after_ms <= budget_ms:
            break
        narrate(f"{target.id}: {after_ms:.3f} ms measured, {budget_ms:g} ms were asked for")
        if attempt == ATTEMPTS:
            narrate(f"{target.id}: the budget is missed; nothing smaller is tried")
            break
        goal_ms *= 0.99 * budget_ms / after_ms
        try:
            found = prune(goal_ms)
        except UnsupportedError as error:
            narrate(f"{target.id}: {error}")
            break
    return found


@dataclass(frozen=True)
class _Stopwatch:
    """Measures layers and whole modules on this machine."""

    module: "torch.nn.Module"
    inputs: tuple[Any, ...]
    target: Target
    narrate: Narrate
    used: PruneInstruments

    def layer_cost(self) -> Cost:
        """What a layer takes; tells how far measuring is."""
        shapes: list[LayerShape] = []

        def told(shape: LayerShape) -> None:
            shapes.append(shape)
            if len(shapes) % 10 == 0:
                self.narrate(f"{self.target.id}: {len(shapes)} shapes of layers measured")

        self.narrate(f"{self.target.id}: measuring what layers cost")
        return self.used.layer_cost(self.target, self._backend(), told=told)

    def calls(self, *modules: "torch.nn.Module") -> list[float]:
        """Milliseconds of a call of each module, compiled, in turns."""
        from deepseek_edge.export import fix_shapes
        from deepseek_edge.export.torch_module import export_module

        backend, programs = self._backend(), []
        with work_directory(None, self.target.id) as folder:
            for index, module in enumerate(modules):
                graph = export_module(module, self.inputs)
                names = [value.name for value in graph.graph.input]
                sizes = [tuple(tensor.shape) for tensor in self.inputs]
                graph = fix_shapes(graph, dict(zip(names, sizes, strict=True)))
                place = folder / str(index)
                place.mkdir()
                programs.append(
                    backend(
                        graph, self.target, batches=(1,), work_dir=place, progress=lambda *_: None
                    )
                )
            inputs = sample_inputs(graph, programs[0].entries[0].inputs, 0)
            seconds = self.used.calls([program.library for program in programs], inputs)
        return [1e3 * one for one in seconds]

    def _backend(self) -> CompileProgram:
        from deepseek_edge.pipeline import tvm_backend

        return self.used.compile_program or tvm_backend()

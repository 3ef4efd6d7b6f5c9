"""The task's metric of an artifact, and where running it is slow, what stands in for it.

Emulation is slow. So samples drawn at random are run through the program and through its graph in
onnxruntime. If both come to the same for each of them, the graph's figure over all samples is the
program's. If not, the samples that the program ran are all that is known of it.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from deepseek_edge.artifacts import Accuracy, Agreement
from deepseek_edge.evaluation import Evaluated
from deepseek_edge.parity import SEED, Reference, Tensors
from deepseek_edge.pipeline.checking import CheckedProgram, Narrate, where
from deepseek_edge.pipeline.evaluating import Evaluation
from deepseek_edge.pipeline.placement import estimate_s, open_program
from deepseek_edge.pipeline.plan import CompileRequest, PlannedTarget

# How long samples are run under emulation,
EMULATED_EVALUATION_S = 120.0
# and how many at least. If these take longer, accuracy must be asked for: by a gate.
LEAST_EMULATED = 16

RunSample = Callable[[dict[str, Any]], Tensors]


def measure_accuracy(
    request: CompileRequest,
    evaluation: Evaluation | None,
    checked: CheckedProgram,
    one: PlannedTarget,
    *,
    graph: onnx.ModelProto,
    narrate: Narrate,
) -> tuple[Accuracy | None, tuple[str, ...]]:
    """Measure the task's metric on the artifact; under emulation as :func:`judge_by_part` does.

    Args:
        request: as given.
        evaluation: the data; None if nobody asked.
        checked: the artifact.
        one: its target, and where to run it.
        graph: that it was compiled from.
        narrate: told lines for a person.

    Returns:
        The accuracy, and notes on how it was measured or why it wasn't.
    """
    if evaluation is None:
        return None, ()
    if one.place is None:
        return None, ("accuracy was not measured: the program was run nowhere",)
    number, program, dataset = request.batches.index(1), checked.report.program, evaluation.dataset
    # The first emulated call may have built the emulator's loader, so the estimate may be nearer.
    call_s = min(checked.call_s[number], estimate_s(program.entries[number], one.place))
    least_s = call_s * min(LEAST_EMULATED, len(dataset))
    if least_s > EMULATED_EVALUATION_S and request.max_drop_pp is None:
        note = f"accuracy was not measured: that takes about {least_s:.0f} s under QEMU; "
        note += "--max-drop PP measures it nevertheless"
        narrate(f"{one.target.id}: {note}")
        return None, (note,)
    all_s, most_s = call_s * len(dataset), max(EMULATED_EVALUATION_S, least_s)
    count = f"a part of {len(dataset)}" if all_s > most_s else len(dataset)
    place = where(one.place, min(all_s, most_s))
    narrate(f"{one.target.id}: {count} samples of {dataset.id} on {place}")
    with open_program(program, one.target, one.place) as run:
        if one.place == "host":
            return evaluation.judge(lambda inputs: run(inputs, number)), ()
        reference = Reference(graph)
        accuracy = judge_by_part(evaluation, lambda inputs: run(inputs, number), reference.run)
    if accuracy.agreement is None:
        return accuracy, ()
    note = describe_agreement(accuracy.metric, accuracy.samples, accuracy.agreement)
    narrate(f"{one.target.id}: {note}")
    return accuracy, (note,)


def judge_by_part(evaluation: Evaluation, run: RunSample, run_graph: RunSample) -> Accuracy:
    """Run as many samples as time allows, drawn at random, and the graph in place of the others.

    Args:
        evaluation: the data.
        run: the program: inputs with a batch of 1 to outputs.
        run_graph: its graph in onnxruntime.

    Returns:
        Of the graph, over all samples, if it and the program came to the same for each sample
        that the program ran; else of the program, over those.
    """
    dataset, metric = evaluation.dataset, evaluation.of_float.metric
    assert dataset.targets is not None
    kept: dict[int, Any] = {}
    equal = same = 0
    deadline = time.monotonic() + EMULATED_EVALUATION_S
    for index in np.random.default_rng(SEED).permutation(len(dataset)).tolist():
        if len(kept) >= LEAST_EMULATED and time.monotonic() > deadline:
            break
        sample, label = dataset.sample(index), dataset.targets[index : index + 1]
        own, expected = run(sample), run_graph(sample)
        kept[index] = metric.keep(own, label)
        equal += _is_equal(own, expected)
        same += metric.is_same(kept[index], metric.keep(expected, label))
    by_program = evaluation.compare(Evaluated(metric, tuple(kept.values())), tuple(kept))
    if len(kept) == len(dataset):
        return by_program
    agreement = Agreement(len(kept), equal, same)
    judged = by_program if same < len(kept) else evaluation.judge(run_graph)
    return replace(judged, agreement=agreement)


def _is_equal(outputs: Tensors, others: Tensors) -> bool:
    return all(
        np.array_equal(value, others[name], equal_nan=value.dtype.kind == "f")
        for name, value in outputs.items()
    )


def describe_agreement(metric: str, samples: int, found: Agreement) -> str:
    """One line about how a program and its graph were judged together.

    Args:
        metric: its name.
        samples: that its figure is of.
        found: on the samples that were run through both.
    """
    differ = found.samples - found.same
    if differ:
        return (
            f"under QEMU the program and its graph in onnxruntime come to different results for "
            f"{differ} of {found.samples} samples: {metric} is of what the program made of these"
        )
    how = "all outputs equal"
    if found.equal < found.samples:
        how = f"{found.equal} with equal outputs, all with the same result"
    return (
        f"{metric} of {samples} samples is that of the graph in onnxruntime; {found.samples} of "
        f"them were run under QEMU too: {how}"
    )

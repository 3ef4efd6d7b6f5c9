"""The task's metric of an artifact, and where running it is slow, what stands in for it.

Emulation is slow. So samples drawn at random are run through the program and through its graph in
onnxruntime. If both come to the same for each of them, the graph's figure over all samples is the
program's. If not, the samples that the program ran are all that is known of it: where a promise
depends on them, it runs all.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
    of_graph: Accuracy | None = None,
    narrate: Narrate,
) -> tuple[Accuracy | None, tuple[str, ...]]:
    """Measure the task's metric on the artifact; under emulation as :func:`judge_by_part` does.

    Args:
        request: as given.
        evaluation: the data; None if nobody asked.
        checked: the artifact.
        one: its target, and where to run it.
        graph: that it was compiled from.
        of_graph: its accuracy on these data, if it is known.
        narrate: told lines for a person.

    Returns:
        The accuracy, and notes on how it was measured or why it wasn't.
    """
    if evaluation is None:
        return None, ()
    if one.place is None:
        return None, ("accuracy was not measured: the program was run nowhere",)
    number, program, dataset = request.batches.index(1), checked.report.program, evaluation.dataset
    is_promise, tell = request.max_drop_pp is not None, partial(_tell, narrate, one)
    # The first emulated call may have built the emulator's loader, so the estimate may be nearer.
    call_s = min(checked.call_s[number], estimate_s(program.entries[number], one.place))
    least_s = call_s * min(LEAST_EMULATED, len(dataset))
    if least_s > EMULATED_EVALUATION_S and not is_promise:
        note = f"accuracy was not measured: that takes about {least_s:.0f} s under QEMU"
        return None, (tell(f"{note}; --max-drop PP measures it nevertheless"),)
    all_s, most_s = call_s * len(dataset), max(EMULATED_EVALUATION_S, least_s)
    count = f"{'a part of ' if all_s > most_s else ''}{len(dataset)} samples of {dataset.id}"
    tell(f"{count} on {where(one.place, min(all_s, most_s))}")
    with open_program(program, one.target, one.place) as opened:

        def run(inputs: dict[str, Any]) -> Tensors:
            return opened(inputs, number)

        if one.place == "host":
            return evaluation.judge(run), ()
        by_graph = Reference(graph).run
        found = judge_by_part(evaluation, run, by_graph, of_graph, is_promise=is_promise, tell=tell)
    return found, (tell(describe_agreement(found)),) if found.agreement else ()


def _tell(narrate: Narrate, one: PlannedTarget, line: str) -> str:
    narrate(f"{one.target.id}: {line}")
    return line


def judge_by_part(
    evaluation: Evaluation,
    run: RunSample,
    run_graph: RunSample,
    of_graph: Accuracy | None,
    *,
    is_promise: bool,
    tell: Callable[[str], object],
) -> Accuracy:
    """Run as many samples as time allows, drawn at random, and the graph in place of the others.

    Args:
        evaluation: the data.
        run: the program: inputs with a batch of 1 to outputs.
        run_graph: its graph in onnxruntime.
        of_graph: what the graph comes to over all samples, if it is known.
        is_promise: something is refused by the result: no few samples may stand for all.
        tell: takes a line, if all are run.

    Returns:
        Of the graph, over all samples, if it and the program came to the same for each sample
        that the program ran; else of the program, over those: all of them if ``is_promise``.
    """
    count, began, is_told = len(evaluation.dataset), time.monotonic(), False

    def is_enough(found: Agreement) -> bool:
        nonlocal is_told
        took_s, differ = time.monotonic() - began, found.samples - found.same
        if found.samples < LEAST_EMULATED or took_s < EMULATED_EVALUATION_S:
            return False
        if differ and is_promise and not is_told:
            is_told = True
            tell(
                f"the program and its graph differ in {differ} of {found.samples} samples: all "
                f"{count} are run under QEMU, about {took_s * count / found.samples:.0f} s"
            )
        return not (differ and is_promise)

    kept, agreement = _run_both(evaluation, run, run_graph, is_enough)
    metric = evaluation.of_float.metric
    by_program = evaluation.compare(Evaluated(metric, tuple(kept.values())), tuple(kept))
    if agreement.samples == count:
        return by_program
    is_graphs = agreement.same == agreement.samples
    judged = of_graph or evaluation.judge(run_graph) if is_graphs else by_program
    return replace(judged, agreement=agreement)


def _run_both(
    evaluation: Evaluation,
    run: RunSample,
    run_graph: RunSample,
    is_enough: Callable[[Agreement], bool],
) -> tuple[dict[int, Any], Agreement]:
    """Run samples drawn at random; what the metric keeps of the program, by index."""
    dataset, metric = evaluation.dataset, evaluation.of_float.metric
    assert dataset.targets is not None
    kept: dict[int, Any] = {}
    found = Agreement(0, 0, 0)
    for index in np.random.default_rng(SEED).permutation(len(dataset)).tolist():
        if is_enough(found):
            break
        sample, label = dataset.sample(index), dataset.targets[index : index + 1]
        own, expected = run(sample), run_graph(sample)
        kept[index] = metric.keep(own, label)
        is_same = metric.is_same(kept[index], metric.keep(expected, label))
        equal = found.equal + _is_equal(own, expected)
        found = Agreement(len(kept), equal, found.same + is_same)
    return kept, found


def _is_equal(outputs: Tensors, others: Tensors) -> bool:
    return all(
        np.array_equal(value, others[name], equal_nan=value.dtype.kind == "f")
        for name, value in outputs.items()
    )


def describe_agreement(accuracy: Accuracy) -> str:
    """One line about how a program and its graph, which agreed or not, were judged together."""
    metric, samples, found = accuracy.metric, accuracy.samples, accuracy.agreement
    assert found is not None
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

"""``--tune MINUTES``: schedules are tried on this machine, and those that are faster are kept.

One trial is the whole program with another choice in every step that has one left, so that each
step is timed between its neighbours, with its weights as cold as they are in use. A choice must
win twice. At the end the program with all winners must win twice against the untuned one, or
that one is kept: tuning never makes a program slower.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from deepseek_edge.backends.tvm.choice import BY_MODEL, Choices
from deepseek_edge.backends.tvm.tuning import (
    TunableStep,
    features_digest,
    schedules_digest,
    tunable_steps,
)
from deepseek_edge.parity import Tensors, sample_inputs
from deepseek_edge.pipeline.checking import Narrate
from deepseek_edge.pipeline.choosing import Builder
from deepseek_edge.pipeline.quantizing import Compiled
from deepseek_edge.pipeline.tuning_database import (
    Database,
    Finding,
    read_database,
    write_database,
)
from deepseek_edge.profiling.comparison import compare_calls, compare_steps
from deepseek_edge.target import Target
from deepseek_edge.toolchain import cache_directory

# A choice must be this much faster than the best one before, in each of two measurements.
MARGIN = 0.03
ROUNDS = 2
# Of a call's time; what takes less can't be told from noise, and doesn't matter.
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Instruments:
    """What tuning measures with; replaced in tests.

    Attributes:
        find_steps: (graph, target, batch) -> the steps that can be tuned.
        calls: (libraries, inputs) -> seconds of a call of each.
        steps: (libraries, inputs) -> seconds of each step of each.
        now: seconds.
    """

    find_steps: Callable[[onnx.ModelProto, Target, int], Sequence[TunableStep]] = tunable_steps
    calls: Callable[[Sequence[Path], Tensors], Sequence[float]] = compare_calls
    steps: Callable[[Sequence[Path], Tensors], Sequence[Sequence[float]]] = compare_steps
    now: Callable[[], float] = time.monotonic


def tune(
    compiled: Compiled,
    builder: Builder,
    *,
    minutes: float,
    database: Path | None,
    narrate: Narrate,
    instruments: Instruments | None = None,
) -> Compiled:
    """Search for faster schedules, and compile the program with what is known by then.

    Args:
        compiled: untuned, for this machine, with one batch size.
        builder: that made it.
        minutes: how long to search; 0 only uses what the database has.
        database: None for the one in the user's cache.
        narrate: told lines for a person.
        instruments: real ones if None.

    Returns:
        The faster of the tuned and the untuned program, with a note.

    Raises:
        OutputError: the database can't be written.
        KeyboardInterrupt: the database has what was found until then.
    """
    tuner = _Tuner(compiled, builder, instruments or Instruments(), narrate)
    path = database or default_database(builder.target)
    known = tuner.search(path, 60 * minutes)
    choices = {
        step.key: known.entries[step.key].choice
        for step in tuner.steps
        if step.key in known.entries and known.entries[step.key].choice != BY_MODEL
    }
    if not choices:
        tried = sum(step.key in known.entries for step in tuner.steps)
        note = f"tuning: nothing faster found; tried {tried} of {len(tuner.steps)} kinds of steps"
        return replace(compiled, notes=(*compiled.notes, note))
    return tuner.faster(choices)


def default_database(target: Target) -> Path:
    """The file in the user's cache for a kind of CPU."""
    return cache_directory("deepseek-edge") / f"tuning-{features_digest(target)[:16]}.json"


class _Tuner:
    def __init__(
        self, compiled: Compiled, builder: Builder, instruments: Instruments, narrate: Narrate
    ) -> None:
        self.compiled, self.builder = compiled, builder
        self.instruments, self.narrate = instruments, narrate
        (batch,) = builder.batches
        self.steps = instruments.find_steps(compiled.graph, builder.target, batch)
        specs = compiled.program.entries[0].inputs
        self.inputs = sample_inputs(compiled.graph, specs, 0)

    def search(self, path: Path, budget_s: float) -> Database:
        """Try what hasn't been tried while there is time; the file is written after each trial."""
        target, now = self.builder.target, self.instruments.now
        empty = Database(target.id, features_digest(target), schedules_digest())
        known = read_database(path, empty, self.narrate)
        started = now()
        steps, last_s = self._worthwhile() if budget_s else [], 0.0
        while True:
            pending = [step for step in steps if _finding(known, step).measured < len(step.moves)]
            spent_s = now() - started
            if not pending or (last_s and spent_s + last_s > budget_s):
                break
            self.builder.progress("tune (seconds)", int(spent_s), int(budget_s) + 1)
            known = self._trial(pending, known)
            write_database(path, known)
            last_s = now() - started - spent_s
        total = int(budget_s) + 1
        self.builder.progress("tune (seconds)", total, total)
        left = sum(len(step.moves) - _finding(known, step).measured for step in pending)
        if left and budget_s:
            self.narrate(f"{target.id}: {left} choices are left to try: --tune goes on with them")
        return known

    def _worthwhile(self) -> list[TunableStep]:
        """Steps that take a noticeable part of a call, those that take most first."""
        (seconds,) = self.instruments.steps([self.compiled.program.library], self.inputs)
        spent = {step.key: _sum(seconds, step) for step in self.steps}
        total = sum(seconds)
        found = [step for step in self.steps if spent[step.key] >= LEAST_SHARE * total]
        share = sum(spent[step.key] for step in found) / max(total, 1e-12)
        self.narrate(
            f"{self.builder.target.id}: tuning {len(found)} kinds of steps, {share:.0%} of a call"
        )
        return sorted(found, key=lambda step: -spent[step.key])

    def _trial(self, pending: Sequence[TunableStep], known: Database) -> Database:
        """Build a program with the next choice of each step, and keep those that win."""
        choices = {
            step.key: step.moves[_finding(known, step).measured].over(_finding(known, step).choice)
            for step in pending
        }
        builder = replace(self.builder, progress=lambda *_: None)
        library = builder.build(self.compiled.graph, "trial", choices).library
        both = [self.compiled.program.library, library]
        rounds = [self.instruments.steps(both, self.inputs) for _ in range(ROUNDS)]
        for step in pending:
            old = _finding(known, step)
            times = [(_sum(default, step), _sum(new, step)) for default, new in rounds]
            ratios = [new / max(default, 1e-12) for default, new in times]
            default_s, new_s = max(times, key=lambda pair: pair[1] / max(pair[0], 1e-12))
            each = 1e3 / len(step.places)
            finding = replace(old, measured=old.measured + 1)
            if not old.measured:
                finding = replace(finding, ms=default_s * each, default_ms=default_s * each)
            if max(ratios) < (1 - MARGIN) * old.ratio:
                finding = replace(
                    finding, choice=choices[step.key], ms=new_s * each, default_ms=default_s * each
                )
            known = known.with_finding(step.key, finding)
        return known

    def faster(self, choices: Choices) -> Compiled:
        """The tuned program if it wins in every round, else the untuned one."""
        untuned = self.compiled
        self.narrate(f"{self.builder.target.id}: compiling with {len(choices)} tuned choices")
        program = self.builder.build(untuned.graph, "tuned", choices)
        both = [untuned.program.library, program.library]
        rounds = [self.instruments.calls(both, self.inputs) for _ in range(ROUNDS)]
        before, after = max(rounds, key=lambda pair: pair[1] / pair[0])
        times = f"{after * 1e3:.3f} ms tuned, {before * 1e3:.3f} ms untuned"
        if after >= before:
            note = f"tuning: the untuned program is kept: {times}"
            return replace(untuned, notes=(*untuned.notes, note))
        return replace(
            untuned,
            program=replace(program, layers=untuned.program.layers),
            notes=(*untuned.notes, f"tuning: {times}, {len(choices)} kinds of steps changed"),
            otherwise=untuned,
            is_tuned=True,
            rebuild=lambda graph: self.builder.build(graph, "observed", choices),
        )


def _finding(known: Database, step: TunableStep) -> Finding:
    return known.entries.get(step.key) or Finding(step.description)


def _sum(seconds: Sequence[float], step: TunableStep) -> float:
    return sum(seconds[place] for place in step.places)

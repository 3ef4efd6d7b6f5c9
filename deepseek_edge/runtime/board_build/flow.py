"""The whole deferred build: reuse the engine, or build one, or say which program takes over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Callable, Mapping

from deepseek_edge.engine_build import (
    BuiltEngine,
    EngineOptions,
    pack_timing_cache,
    unpack_timing_cache,
)
from deepseek_edge.errors import (
    DeepSeekEdgeError,
    DeviceError,
    MissingToolError,
    ModelError,
    UnsupportedError,
)
from deepseek_edge.runtime.board_build.build_recipe import BuildRecipe, GraphFile
from deepseek_edge.runtime.board_build.decisions import (
    BuildKey,
    Choice,
    Trial,
    choose,
    count_deaths,
    judge_record,
    may_try,
    median_ms,
    next_program,
    plan_memory,
)
from deepseek_edge.runtime.board_build.store import EngineStore
from deepseek_edge.runtime.board_build.trial import check_engine, time_in_turns

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class Outcome:
    """What serves now.

    Attributes:
        action: "reused", "built", "serving-old" (build anew in the background) or "fallback".
        program: that serves: "tensorrt-int8", or one of the recipe's fallback; None if none can.
        engine: the engine's path, None on fallback.
        reason: why it is so, for people.
        notes: what else a person should know.
    """

    action: str
    program: str | None
    engine: str | None
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def has_engine(self) -> bool:
        """An engine serves."""
        return self.engine is not None


class DeferredBuild:
    """One recipe on one board.

    Args:
        recipe: what to build.
        store: where engines lie.
        open_board: makes the board (``board.Board``); may raise what that raises.
        notify: told the name of each step as it is done; tests stop there.
    """

    def __init__(
        self,
        recipe: BuildRecipe,
        store: EngineStore,
        open_board: Callable[[], Any],
        notify: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._recipe, self._store, self._notify = recipe, store, notify
        self._open_board = open_board
        self._board: Any = None
        self._rejected: dict[str, Any] | None = None
        self._layers: dict[str, str] = {}
        self._notes: list[str] = []

    def ensure(self, *, wait_s: float = 0.0, rebuild: bool = False, retry: bool = False) -> Outcome:
        """Find or build the engine.

        Args:
            wait_s: for another process that is building.
            rebuild: don't stop at an old engine that could serve meanwhile.
            retry: build even if that failed before.

        Returns:
            What serves; without an engine the program that takes over. What the board or TensorRT
            can't do, a damaged file and a full disk are not raised: they are the reason.
        """
        try:
            self._board = self._open_board()
            identity = self._board.identity()
        except (DeviceError, MissingToolError, UnsupportedError) as error:
            return self._fallback(f"{error}")
        graphs, recipe = self._recipe.graphs_sha256, self._recipe.sha256
        key = BuildKey(**asdict(identity), graphs=graphs, recipe=recipe)
        found = self._use(key, rebuild)
        if found is not None:
            return found
        with self._store.lock(wait_s) as is_mine:
            if not is_mine:
                return self._fallback("another process is building the engine")
            self._notify("locked")
            # It may have been built while this process waited.
            found = self._use(key, rebuild)
            return found or self._build(key, retry)

    def _use(self, key: BuildKey, rebuild: bool) -> Outcome | None:
        """What the engine that is there is good for; None to build."""
        record = self._store.read_record()
        verdict = judge_record(record, key)
        if record is None or verdict.use == "refuse" or (verdict.use == "serve" and rebuild):
            return None
        if record == self._rejected:
            return None
        try:
            engine = self._store.read_engine(record)
            if verdict.use == "serve":
                self._check_old(record, engine)
        except DeepSeekEdgeError as error:
            self._notes.append(f"not used: {error}")
            self._rejected = record
            return None
        action = "reused" if verdict.use == "reuse" else "serving-old"
        return self._serving(action, record, verdict.reason or str(record.get("reason", "")))

    def _check_old(self, record: Mapping[str, Any], engine: bytes) -> None:
        """An engine of another system version serves only if it still loads and is right."""
        graph = next((g for g in self._recipe.graphs if g.precision == record["precision"]), None)
        if graph is None:
            raise ModelError("its precision isn't in the recipe")
        runner = self._board.open(engine)
        try:
            check_engine(runner, self._recipe, graph)
        finally:
            runner.close()

    def _build(self, key: BuildKey, retry: bool) -> Outcome:
        attempt = self._store.read_attempt()
        objection = None if retry else may_try(attempt, key)
        if objection is not None:
            return self._fallback(f"{objection} (--retry tries again)")
        deaths = 0 if retry else count_deaths(attempt, key)
        try:
            # Counted beforehand: a build that is killed can't count itself.
            self._store.note_attempt(key.digest, deaths + 1, None)
            self._notify("noted")
            return self._build_and_commit(key)
        except DeepSeekEdgeError as error:  # e.g. the disk is full, or the GPU was lost meanwhile
            self._store.forget_attempt()
            return self._fallback(f"{error}")
        except BaseException:
            # It ended, if not well: only what ends without a word is counted.
            self._store.forget_attempt()
            raise

    def _build_and_commit(self, key: BuildKey) -> Outcome:
        self._store.clean()
        engines: dict[str, bytes] = {}
        failures: dict[str, DeepSeekEdgeError] = {}
        for graph in self._recipe.graphs:
            try:
                engines[graph.precision] = self._build_one(graph, key)
            except DeepSeekEdgeError as error:
                failures[graph.precision] = error
            self._notify(f"built {graph.precision}")
        trials = self._try(engines, failures)
        choice = choose(trials)
        self._notify("measured")
        if choice.precision is None:
            self._note_failure(key, choice.reason, failures)
            return self._fallback(choice.reason)
        stored = self._store.write_engine(engines[choice.precision])
        self._notify("engine written")
        if choice.precision in self._layers:
            self._store.write_layers(self._layers[choice.precision])
        record = self._record(key, choice, trials, stored)
        self._store.commit(record)
        self._notify("committed")
        self._store.forget_attempt()
        self._store.clean()
        return self._serving("built", record, choice.reason)

    def _build_one(self, graph: GraphFile, key: BuildKey) -> bytes:
        data = graph.file.read()
        available, swap = self._board.memory()
        plan = plan_memory(available, swap, len(data), self._recipe.workspace_bytes)
        if not plan.fits:
            raise _NoMemoryError(plan.reason)
        if plan.reason:
            self._notes.append(plan.reason)
        origin = f"{key.gpu}, {key.sm}, {key.tensorrt}, {key.system}"
        options = EngineOptions(
            graph.precision,
            self._recipe.workspace_bytes,
            timing_cache=self._timing_cache(origin),
            is_detailed=True,
        )
        built: BuiltEngine = self._board.build(data, options)
        if built.timing_cache is not None:
            self._store.write_cache(pack_timing_cache(built.timing_cache, origin))
        return built.engine

    def _timing_cache(self, origin: str) -> bytes:
        packed = self._store.read_cache()
        if packed is None:
            return b""
        try:
            return unpack_timing_cache(packed, origin)
        except ModelError as error:
            self._notes.append(f"{error}; measured anew")
            return b""

    def _try(
        self, engines: Mapping[str, bytes], failures: Mapping[str, DeepSeekEdgeError]
    ) -> list[Trial]:
        """Check all engines, then time those that are right in turns."""
        runners: dict[str, Any] = {}
        trials: dict[str, Trial] = {}
        try:
            for graph in self._recipe.graphs:
                name = graph.precision
                if name in failures:
                    trials[name] = Trial(name, str(failures[name]))
                    continue
                try:
                    runners[name] = self._board.open(engines[name])
                    worst = check_engine(runners[name], self._recipe, graph)
                    trials[name] = Trial(name, None, len(engines[name]), None, worst)
                    self._read_layers(name, runners[name])
                except DeepSeekEdgeError as error:
                    self._drop(runners, name)
                    trials[name] = Trial(name, str(error), len(engines[name]))
                self._notify(f"checked {name}")
            return self._timed(trials, runners)
        finally:
            for name in list(runners):
                self._drop(runners, name)

    def _read_layers(self, name: str, runner: Any) -> None:
        try:
            self._layers[name] = runner.layer_information()
        except DeepSeekEdgeError as error:  # a report, which no engine depends on
            self._notes.append(f"{name}: no layer information: {error}")

    def _timed(self, trials: dict[str, Trial], runners: Mapping[str, Any]) -> list[Trial]:
        if len(runners) > 1:
            durations = time_in_turns(runners, self._recipe.repetitions)
            for name, times in durations.items():
                old = trials[name]
                trials[name] = Trial(name, None, old.size_bytes, median_ms(times), old.max_abs)
        return list(trials.values())

    def _drop(self, runners: dict[str, Any], name: str) -> None:
        runner = runners.pop(name, None)
        if runner is not None:
            runner.close()

    def _note_failure(
        self, key: BuildKey, reason: str, failures: Mapping[str, DeepSeekEdgeError]
    ) -> None:
        """What TensorRT can't do it can't do next time either; memory may be free then."""
        is_final = len(failures) == len(self._recipe.graphs) and all(
            isinstance(error, (UnsupportedError, ModelError)) for error in failures.values()
        )
        if is_final:
            self._store.note_attempt(key.digest, 0, reason)
        else:
            self._store.forget_attempt()

    def _record(
        self, key: BuildKey, choice: Choice, trials: list[Trial], stored: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "schema": RECORD_SCHEMA,
            "model": self._recipe.model,
            "key": asdict(key),
            "precision": choice.precision,
            "reason": choice.reason,
            "engine": dict(stored),
            "trials": [asdict(trial) for trial in trials],
            "repetitions": self._recipe.repetitions,
            "notes": list(self._notes),
            "built": self._board.now(),
        }

    def _serving(self, action: str, record: Mapping[str, Any], reason: str) -> Outcome:
        path = self._store.folder / record["engine"]["file"]
        program = f"tensorrt-{record['precision']}"
        return Outcome(action, program, str(path), reason, tuple(self._notes))

    def _fallback(self, reason: str) -> Outcome:
        program = next_program(self._recipe.fallback)
        return Outcome("fallback", program, None, reason, tuple(self._notes))


class _NoMemoryError(DeepSeekEdgeError):
    """The build was not tried: it may be next time."""

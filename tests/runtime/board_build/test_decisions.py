import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.runtime.board_build.decisions import (
    MOST_DEATHS,
    BuildKey,
    Trial,
    choose,
    combine_digests,
    count_deaths,
    judge_record,
    may_try,
    median_ms,
    memory_need,
    next_program,
    plan_memory,
)

KEY = BuildKey("Orin (Nano)", "8.7", "TensorRT 10.3.0", "L4T 36.4.3", "graphs", "recipe")
MB = 1_000_000


def record(key: BuildKey = KEY, **others: Any) -> dict[str, Any]:
    engine = {"file": "a.engine", "sha256": "0" * 64, "size_bytes": 1}
    return {"key": dataclasses.asdict(key), "precision": "int8", "engine": engine, **others}


def test_the_same_key_is_reused() -> None:
    assert judge_record(record(), KEY).use == "reuse"


@pytest.mark.parametrize(
    ("field", "use"),
    [
        ("gpu", "refuse"),
        ("sm", "refuse"),
        ("tensorrt", "refuse"),
        ("graphs", "refuse"),
        ("system", "serve"),
        ("recipe", "serve"),
    ],
)
def test_each_field_of_the_key_counts(field: str, use: str) -> None:
    verdict = judge_record(record(dataclasses.replace(KEY, **{field: "before"})), KEY)
    assert verdict.use == use
    assert verdict.reason == f"{field} was before, is {getattr(KEY, field)}"


def test_another_digest_for_each_field() -> None:
    keys = [KEY, *(dataclasses.replace(KEY, **{f: "x"}) for f in dataclasses.asdict(KEY))]
    assert len({key.digest for key in keys}) == 7


def test_no_record_is_no_engine() -> None:
    assert judge_record(None, KEY).use == "refuse"


@pytest.mark.parametrize(
    "damage",
    [
        {"key": None},
        {"key": {"gpu": "Orin"}},
        {"key": {**dataclasses.asdict(KEY), "more": 1}},
        {"engine": None},
        {"engine": {"file": 3, "sha256": "0"}},
        {"precision": None},
    ],
)
def test_a_damaged_record_is_refused(damage: dict[str, Any]) -> None:
    verdict = judge_record({**record(), **damage}, KEY)
    assert (verdict.use, verdict.reason) == ("refuse", "the engine's record is damaged")


def test_the_digest_of_graphs_depends_on_each_and_its_precision() -> None:
    one = combine_digests({"int8": "a", "float16": "b"})
    assert one == combine_digests({"float16": "b", "int8": "a"})
    assert one != combine_digests({"int8": "b", "float16": "a"})


def test_enough_memory_needs_no_word() -> None:
    need = memory_need(10 * MB, 256 * MB)
    plan = plan_memory(need, 0, 10 * MB, 256 * MB)
    assert (plan.fits, plan.reason) == (True, "")


def test_swap_helps_where_the_gpus_part_fits() -> None:
    need = memory_need(10 * MB, 256 * MB)
    plan = plan_memory(need - 100 * MB, 100 * MB, 10 * MB, 256 * MB)
    assert plan.fits
    assert plan.reason == "100 MB of swap will be used: it is slow"


def test_short_memory_is_refused_with_the_swap_that_would_do() -> None:
    need = memory_need(10 * MB, 256 * MB)
    plan = plan_memory(need - 2000 * MB + 1400 * MB, 0, 10 * MB, 256 * MB)
    assert not plan.fits
    assert "fallocate -l 1G /swapfile" in plan.reason
    assert f"needs about {need / 1e6:.0f} MB" in plan.reason


def test_swap_does_not_help_the_gpu() -> None:
    plan = plan_memory(200 * MB, 10_000 * MB, 10 * MB, 256 * MB)
    assert not plan.fits
    assert "can't be swapped" in plan.reason
    assert "fallocate" not in plan.reason


@given(*[st.integers(0, 1 << 36)] * 4)
def test_more_memory_never_forbids_a_build(free: int, swap: int, graph: int, space: int) -> None:
    if plan_memory(free, swap, graph, space).fits:
        assert plan_memory(free + 1, swap, graph, space).fits
        assert plan_memory(free, swap + 1, graph, space).fits


def trial(precision: str, ms: float | None, failure: str | None = None) -> Trial:
    return Trial(precision, failure, 1, ms, 0.5)


@pytest.mark.parametrize(
    ("int8_ms", "half_ms", "winner"),
    [(1.0, 2.0, "int8"), (2.0, 1.0, "float16"), (1.0, 1.0, "float16"), (0.99, 1.0, "float16")],
)
def test_int8_serves_only_where_it_is_clearly_faster(
    int8_ms: float, half_ms: float, winner: str
) -> None:
    choice = choose([trial("int8", int8_ms), trial("float16", half_ms)])
    assert choice.precision == winner
    assert f"int8 {int8_ms:.3f} ms" in choice.reason
    assert f"float16 {half_ms:.3f} ms" in choice.reason
    assert ("gains less than 2%" in choice.reason) == (0.98 < int8_ms / half_ms <= 1)


def test_wrong_answers_never_win() -> None:
    choice = choose([trial("int8", None, "its outputs are wrong"), trial("float16", None)])
    assert choice.precision == "float16"
    assert choice.reason == "the only one that can serve (int8: its outputs are wrong)"


def test_without_an_engine_each_reason_is_given() -> None:
    choice = choose([trial("int8", None, "a"), trial("float16", None, "b")])
    assert (choice.precision, choice.reason) == (None, "int8: a; float16: b")
    assert choose([]).precision is None


def test_one_graph_needs_no_comparison() -> None:
    assert choose([trial("float32", None)]) == choose([trial("float32", None)])
    assert choose([trial("float32", None)]).precision == "float32"


@given(
    st.lists(
        st.tuples(st.sampled_from(["int8", "float16", "float32"]), st.floats(0.01, 100)),
        min_size=2,
        max_size=3,
        unique_by=lambda pair: pair[0],
    )
)
def test_what_serves_is_never_slower_than_what_it_beats(pairs: list[tuple[str, float]]) -> None:
    choice = choose([trial(name, ms) for name, ms in pairs])
    times = dict(pairs)
    chosen = times[str(choice.precision)]
    slack = 1.0 if choice.precision == "int8" else 0.98
    assert all(chosen * slack <= ms * 1.0000001 for ms in times.values())


def test_medians_are_milliseconds() -> None:
    assert median_ms([1_000_000, 3_000_000, 2_000_000]) == 2.0


def test_killed_builds_are_tried_again_only_so_often() -> None:
    for deaths in range(MOST_DEATHS):
        assert may_try({"key": KEY.digest, "deaths": deaths, "failure": None}, KEY) is None
    objection = may_try({"key": KEY.digest, "deaths": MOST_DEATHS, "failure": None}, KEY)
    assert objection == f"{MOST_DEATHS} builds were killed, probably for want of memory"


def test_what_failed_for_good_is_not_tried_again() -> None:
    note = {"key": KEY.digest, "deaths": 0, "failure": "no Foo"}
    assert may_try(note, KEY) == "it failed before: no Foo"


@pytest.mark.parametrize("note", [None, {}, {"key": "other", "deaths": 9, "failure": "x"}])
def test_notes_about_another_key_do_not_count(note: dict[str, Any] | None) -> None:
    assert may_try(note, KEY) is None
    assert count_deaths(note, KEY) == 0


def test_deaths_are_counted_by_key() -> None:
    assert count_deaths({"key": KEY.digest, "deaths": 2}, KEY) == 2
    assert count_deaths({"key": KEY.digest, "deaths": "many"}, KEY) == 0


def test_the_best_program_takes_over() -> None:
    assert next_program(["cuda-int8", "cpu-int8"]) == "cuda-int8"
    assert next_program([]) is None

from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.backends.tvm.graph import Value
from deepseek_edge.backends.tvm.memory import ALIGNMENT, Lifetime, lifetimes, plan


def value(name: str, elements: int = 1) -> Value:
    return Value(name, "float32", (elements,))


@st.composite
def lives(draw: st.DrawFn) -> Lifetime:
    first = draw(st.integers(0, 12))
    return Lifetime(draw(st.integers(0, 500)), first, draw(st.integers(first, 14)))


@given(st.lists(lives(), max_size=25))
def test_no_two_buffers_that_live_together_overlap(all_lives: list[Lifetime]) -> None:
    table = {value(f"v{i}"): life for i, life in enumerate(all_lives)}
    arena = plan(table)
    placed = [(arena.offsets[v], life) for v, life in table.items()]
    for number, (start, life) in enumerate(placed):
        assert start % ALIGNMENT == 0
        assert start + life.size_bytes <= arena.size_bytes
        for other_start, other in placed[:number]:
            together = life.first <= other.last and other.first <= life.last
            apart = (
                start + life.size_bytes <= other_start or other_start + other.size_bytes <= start
            )
            assert apart or not together or life.size_bytes == 0 or other.size_bytes == 0
    assert arena.peak_live_bytes <= arena.size_bytes


def test_buffers_that_follow_each_other_share_memory() -> None:
    a, b, c = value("a"), value("b"), value("c")
    table = {a: Lifetime(100, 0, 1), b: Lifetime(60, 1, 2), c: Lifetime(128, 2, 3)}
    arena = plan(table)
    assert arena.offsets == {c: 0, a: 0, b: 128}
    assert arena.size_bytes == 192  # 100 takes 128, and 60 takes 64
    assert arena.peak_live_bytes == 192


def test_a_gap_between_living_buffers_is_used() -> None:
    a, b, c, d = (value(name) for name in "abcd")
    table = {
        a: Lifetime(256, 0, 9),
        b: Lifetime(192, 0, 1),
        c: Lifetime(128, 0, 9),
        d: Lifetime(64, 2, 9),
    }
    assert plan(table).offsets == {a: 0, b: 256, c: 448, d: 256}


def test_nothing_needs_no_arena() -> None:
    assert plan({}).size_bytes == 0


def test_a_value_lives_from_its_step_to_its_last_reader_and_a_view_with_its_root() -> None:
    x, a, view, y = value("x", 4), value("a", 4), value("view", 4), value("y", 4)
    table = lifetimes(
        [[x, a], [x], [view, y]],
        [[a], [], [y]],
        [x, y],
        {view: a},
    )
    assert table == {a: Lifetime(16, 0, 2), x: Lifetime(16, 0, 3), y: Lifetime(16, 0, 3)}

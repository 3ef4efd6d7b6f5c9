import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.training.schedule import learning_rate_at


def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine() -> None:
    rates = [learning_rate_at(step, 8, peak=0.4, warmup=4) for step in range(8)]
    # cos(0), cos(pi/4), cos(pi/2), cos(3 pi/4)
    expected = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3414214, 0.2, 0.0585786]
    assert rates == pytest.approx(expected, abs=1e-7)


def test_without_warm_up_the_peak_comes_first() -> None:
    assert learning_rate_at(0, 5, peak=0.4, warmup=0) == 0.4


@given(st.integers(1, 1000), st.data())
def test_the_rate_is_above_0_and_at_most_the_peak(total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total))
    step = data.draw(st.integers(0, total - 1))
    assert 0 < learning_rate_at(step, total, peak=1.0, warmup=warmup) <= 1.0

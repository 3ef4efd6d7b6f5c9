from typing import Any

import numpy as np
import pytest

from deepseek_edge.errors import UnsupportedError
from tests.backends.tvm.oracle import Array, Cases, Const, assert_equals_reference

pytestmark = pytest.mark.tvm

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SIZE, HIDDEN = 5, 6


def floats(*shape: int) -> Array:
    drawn: Array = np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)
    return drawn / 2


def add(cases: Cases, op: str, steps: int, batch: int, direction: str, **attrs: Any) -> None:
    directions = 2 if direction == "bidirectional" else 1
    rows = GATES[op] * HIDDEN
    states = [floats(directions, batch, HIDDEN) for _ in range(2 if op == "LSTM" else 1)]
    cases.add(
        op,
        floats(steps, batch, SIZE),
        Const(floats(directions, rows, SIZE)),
        Const(floats(directions, rows, HIDDEN)),
        Const(floats(directions, 2 * rows)),
        None,
        *states,
        count=1 + len(states),
        hidden_size=HIDDEN,
        direction=direction,
        **attrs,
    )


def test_lstm_in_every_direction() -> None:
    cases = Cases()
    add(cases, "LSTM", 1, 1, "forward")
    add(cases, "LSTM", 4, 3, "forward")
    add(cases, "LSTM", 4, 2, "reverse")
    add(cases, "LSTM", 5, 1, "bidirectional")
    assert_equals_reference(cases)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_gru_in_every_direction(linear_before_reset: int) -> None:
    cases = Cases()
    add(cases, "GRU", 1, 1, "forward", linear_before_reset=linear_before_reset)
    add(cases, "GRU", 4, 2, "reverse", linear_before_reset=linear_before_reset)
    add(cases, "GRU", 3, 1, "bidirectional", linear_before_reset=linear_before_reset)
    assert_equals_reference(cases)


def test_rnn_with_another_activation() -> None:
    cases = Cases()
    add(cases, "RNN", 4, 3, "forward", activations=["Relu"])
    add(cases, "RNN", 3, 1, "bidirectional", activations=["Tanh", "Sigmoid"])
    assert_equals_reference(cases)


def test_without_bias_and_state_and_with_peepholes() -> None:
    cases = Cases()
    weights = Const(floats(1, 24, SIZE)), Const(floats(1, 24, HIDDEN))
    cases.add("LSTM", floats(3, 2, SIZE), *weights, hidden_size=HIDDEN)
    rest = [Const(floats(1, 48)), None, None, None, Const(floats(1, 18))]
    cases.add("LSTM", floats(3, 2, SIZE), *weights, *rest, hidden_size=HIDDEN, count=3)
    assert_equals_reference(cases)


@pytest.mark.parametrize(
    ("steps", "attrs", "reason"),
    [
        (200, {}, "has 200 time steps"),
        (3, {"clip": 1.0}, "has the attribute clip"),
        (3, {"layout": 1}, "has the attribute layout"),
        (3, {"activations": ["Affine", "Tanh", "Tanh"]}, "has activations other than"),
    ],
)
def test_what_is_not_computed_is_refused(steps: int, attrs: dict[str, Any], reason: str) -> None:
    from deepseek_edge.backends.tvm.simplify import simplify

    cases = Cases()
    weights = Const(floats(1, 24, SIZE)), Const(floats(1, 24, HIDDEN))
    cases.add("LSTM", floats(steps, 2, SIZE), *weights, hidden_size=HIDDEN, **attrs)
    with pytest.raises(UnsupportedError, match=rf"LSTM \(node 'LSTM 0'\) {reason}"):
        simplify(cases.graph())

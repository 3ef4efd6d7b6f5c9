"""LSTM, GRU and RNN unrolled: one matrix product for all inputs, then a few nodes a time step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek_edge.backends.tvm.graph import Array, Graph, Node, Value
from deepseek_edge.backends.tvm.writer import Writer
from deepseek_edge.errors import UnsupportedError

MAX_STEPS = 128  # each time step has kernels of its own
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(graph: Graph, node: Node) -> list[Node] | None:
    """LSTM, GRU or RNN -> MatMul and elementwise operators for each time step."""
    if node.op not in _GATES:
        return None
    _check(node)
    write = Writer(node)
    x = node.value(0)
    directions = node.value(1).shape[0]
    reverse = node.attrs.get("direction", "forward") == "reverse"
    runs = [
        _Direction(write, node, x, number).run(reverse=reverse or number == 1)
        for number in range(directions)
    ]
    results = [_joined(write, [run.states for run in runs])]
    results.append(_last(write, [run.last for run in runs]))
    if node.op == "LSTM":
        results.append(_last(write, [run.cell for run in runs]))
    read = {*graph.consumers(), *graph.outputs}
    for value, out in zip(results, node.outputs, strict=False):
        if out in read:
            write.done(value, out)
    return write.nodes


def _check(node: Node) -> None:
    def refuse(why: str) -> UnsupportedError:
        return UnsupportedError(f"{node.op} (node {node.source!r}) {why}")

    steps = node.value(0).shape[0]
    if steps > MAX_STEPS:
        raise UnsupportedError(
            f"{node.op} (node {node.source!r}) has {steps} time steps",
            hint=f"up to {MAX_STEPS} are unrolled: compile the net for a shorter sequence, with "
            "the state as input and output",
        )
    lengths = node.optional(4)
    if lengths is not None and (lengths.data is None or np.any(lengths.data != steps)):
        raise refuse("has sequences of different lengths")
    places = (1, 2, 3, 7) if node.op == "LSTM" else (1, 2, 3)
    weights = [value for i in places if (value := node.optional(i)) is not None]
    if any(value.data is None for value in weights):
        raise refuse("has weights that aren't constant")
    for attribute in ("clip", "input_forget", "activation_alpha", "activation_beta", "layout"):
        if node.attrs.get(attribute):
            raise refuse(f"has the attribute {attribute}")
    known = {"Sigmoid", "Tanh", "Relu"}
    if not set(node.attrs.get("activations") or ()) <= known:
        raise refuse(f"has activations other than {', '.join(sorted(known))}")


@dataclass
class _Run:
    """What one direction makes: the state after each time step, and the last ones."""

    states: list[Value]
    last: Value
    cell: Value


@dataclass
class _Direction:
    """One direction: weights as ONNX lays them out, gates stacked along their first axis."""

    write: Writer
    node: Node
    x: Value
    number: int
    hidden: int = field(init=False)

    def __post_init__(self) -> None:
        gates = _GATES[self.node.op]
        self.w, self.r = (self._weights(i) for i in (1, 2))
        self.hidden = self.r.shape[1]
        bias = (
            self._weights(3)
            if self.node.optional(3) is not None
            else np.zeros(2 * gates * self.hidden, np.float32)
        )
        self.w_bias, self.r_bias = np.split(bias, 2)
        given = self.node.attrs.get("activations") or ()
        count = len(_ACTIVATIONS[self.node.op])
        own = given[self.number * count : (self.number + 1) * count]
        self.activations = own or _ACTIVATIONS[self.node.op]

    def _weights(self, place: int) -> Array:
        data = self.node.value(place).data
        assert data is not None
        return np.asarray(data[self.number])

    def _initial(self, place: int) -> Value:
        """The state before the first step: (batch, hidden)."""
        batch = self.x.shape[1]
        given = self.node.optional(place)
        if given is None:
            return self.write.constant(np.zeros((batch, self.hidden), np.float32))
        one = self.write.slice(given, 0, self.number, 1) if given.shape[0] > 1 else given
        return self.write.reshape(one, (batch, self.hidden))

    def run(self, *, reverse: bool) -> _Run:
        write, (steps, batch, size) = self.write, self.x.shape
        state = self._initial(5)
        cell = self._initial(6) if self.node.op == "LSTM" else state
        rows = write.reshape(self.x, (steps * batch, size))
        # One product for each gate: no slices along the last axis later.
        parts = [
            self._affine(rows, matrix, bias)
            for matrix, bias in zip(
                self._split(self.w), self._split(self._input_bias()), strict=True
            )
        ]
        states: dict[int, Value] = {}
        for step in reversed(range(steps)) if reverse else range(steps):
            gates = [
                write.slice(part, 0, step * batch, batch) if steps > 1 else part for part in parts
            ]
            state, cell = self._step(gates, state, cell)
            states[step] = state
        return _Run([states[step] for step in range(steps)], state, cell)

    def _split(self, weights: Array) -> list[Array]:
        return list(np.split(weights, _GATES[self.node.op]))

    def _input_bias(self) -> Array:
        """The bias that doesn't depend on the state; GRU's candidate keeps its own."""
        bias = self.w_bias + self.r_bias
        if self.node.op == "GRU" and self.node.attrs.get("linear_before_reset"):
            bias[2 * self.hidden :] = self.w_bias[2 * self.hidden :]
        return np.asarray(bias)

    def _affine(self, rows: Value, matrix: Array, bias: Array | None) -> Value:
        product = self.write.matmul(rows, self.write.constant(np.ascontiguousarray(matrix.T)))
        if bias is None:
            return product
        return self.write.elementwise("Add", product, self.write.constant(bias))

    def _step(self, gates: Sequence[Value], state: Value, cell: Value) -> tuple[Value, Value]:
        if self.node.op == "LSTM":
            return self._lstm(gates, state, cell)
        if self.node.op == "GRU":
            state = self._gru(gates, state)
        else:
            total = self._add(gates[0], self._affine(state, self.r, None))
            state = self._activate(0, total)
        return state, state

    def _add(self, a: Value, b: Value) -> Value:
        return self.write.elementwise("Add", a, b)

    def _multiply(self, a: Value, b: Value) -> Value:
        return self.write.elementwise("Mul", a, b)

    def _activate(self, which: int, x: Value) -> Value:
        return self.write.elementwise(self.activations[which], x)

    def _lstm(self, gates: Sequence[Value], state: Value, cell: Value) -> tuple[Value, Value]:
        sums = [
            self._add(gate, self._affine(state, matrix, None))
            for gate, matrix in zip(gates, self._split(self.r), strict=True)
        ]
        into, out, forget, candidate = sums  # ONNX's order
        peephole = self._weights(7) if self.node.optional(7) is not None else None
        if peephole is not None:
            p_in, p_out, p_forget = (self.write.constant(p) for p in np.split(peephole, 3))
            into = self._add(into, self._multiply(p_in, cell))
            forget = self._add(forget, self._multiply(p_forget, cell))
        kept = self._multiply(self._activate(0, forget), cell)
        added = self._multiply(self._activate(0, into), self._activate(1, candidate))
        cell = self._add(kept, added)
        if peephole is not None:
            out = self._add(out, self._multiply(p_out, cell))
        return self._multiply(self._activate(0, out), self._activate(2, cell)), cell

    def _gru(self, gates: Sequence[Value], state: Value) -> Value:
        update, reset, candidate = gates  # ONNX's order
        r_update, r_reset, r_candidate = self._split(self.r)
        update = self._activate(0, self._add(update, self._affine(state, r_update, None)))
        reset = self._activate(0, self._add(reset, self._affine(state, r_reset, None)))
        if self.node.attrs.get("linear_before_reset"):
            bias = self.r_bias[2 * self.hidden :]
            inner = self._multiply(reset, self._affine(state, r_candidate, bias))
        else:
            inner = self._affine(self._multiply(reset, state), r_candidate, None)
        new = self._activate(1, self._add(candidate, inner))
        # (1 - z) new + z state, as new + z (state - new)
        change = self.write.elementwise("Sub", state, new)
        return self._add(new, self._multiply(update, change))


def _joined(write: Writer, states: Sequence[Sequence[Value]]) -> Value:
    """(steps, directions, batch, hidden)."""
    batch, hidden = states[0][0].shape
    rows = [
        write.reshape(value, (1, batch, hidden))
        for step in zip(*states, strict=True)
        for value in step
    ]
    return write.reshape(write.concat(rows, 0), (len(states[0]), len(states), batch, hidden))


def _last(write: Writer, values: Sequence[Value]) -> Value:
    """(directions, batch, hidden)."""
    batch, hidden = values[0].shape
    return write.concat([write.reshape(value, (1, batch, hidden)) for value in values], 0)

import numpy as np

from deepseek_edge.backends.tvm.fuse import fuse
from deepseek_edge.backends.tvm.graph import Graph
from deepseek_edge.backends.tvm.simplify import own_outputs, simplify
from tests.backends.tvm.oracle import Cases, Const

X = np.zeros((4, 6), np.float32)
SQUARE = Const(np.ones((6, 6), np.float32))


def steps(cases: Cases) -> list[list[str]]:
    graph: Graph = cases.graph()
    simplify(graph)
    own_outputs(graph, cases.outputs)
    return [[node.op for node in step.nodes] for step in fuse(graph)]


def test_what_follows_a_product_is_computed_with_it() -> None:
    cases = Cases()
    y = cases.inner("MatMul", X, SQUARE)
    y = cases.inner("Add", y, Const(np.ones(6, np.float32)))
    cases.add("Relu", y)
    assert steps(cases) == [["MatMul", "Add", "Relu"]]


def test_a_residual_is_added_where_the_branch_ends() -> None:
    cases = Cases()
    first = cases.inner("MatMul", X, SQUARE)
    second = cases.inner("MatMul", cases.inner("Relu", first), SQUARE)
    cases.add("Add", second, first)
    assert steps(cases) == [["MatMul"], ["Relu"], ["MatMul", "Add"]]


def test_x_times_sigmoid_of_x_is_one_step() -> None:
    cases = Cases()
    y = cases.inner("MatMul", X, SQUARE)
    cases.add("Mul", y, cases.inner("Sigmoid", y))
    assert steps(cases) == [["MatMul", "Sigmoid", "Mul"]]


def test_a_value_that_is_an_output_too_stays() -> None:
    cases = Cases()
    y = cases.add("MatMul", X, SQUARE)
    cases.add("Relu", y)
    assert steps(cases) == [["MatMul"], ["Relu"]]


def test_a_follower_of_another_shape_starts_a_step() -> None:
    cases = Cases()
    row = cases.inner("ReduceMean", X, axes=[1], keepdims=1)
    cases.add("Sub", cases.inner("Neg", X), row)
    assert steps(cases) == [["ReduceMean"], ["Neg", "Sub"]]


def test_an_operand_that_needs_the_group_itself_is_waited_for() -> None:
    cases = Cases()
    y = cases.inner("MatMul", X, SQUARE)
    mean = cases.inner("ReduceMean", y, axes=[1], keepdims=1)
    cases.add("Sub", y, mean)
    assert steps(cases) == [["MatMul"], ["ReduceMean"], ["Sub"]]


def test_a_softmax_keeps_float_output_because_it_works_there() -> None:
    cases = Cases()
    y = cases.inner("Softmax", X)
    cases.add("Greater", y, Const(np.array([0.5], np.float32)))
    assert steps(cases) == [["Softmax"], ["Greater"]]


def test_a_long_chain_is_cut() -> None:
    cases = Cases()
    name = cases.inner("Neg", X)
    for _ in range(60):
        name = cases.inner("Neg", name)
    cases.add("Abs", name)
    lengths = [len(step) for step in steps(cases)]
    assert sum(lengths) == 62
    assert max(lengths) == 25

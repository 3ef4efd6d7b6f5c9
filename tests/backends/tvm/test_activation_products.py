"""Integer products of two activations equal the integer form of their Q/DQ graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_edge.target import load_target
from tests.backends.tvm.test_integer import (
    EMULATED,
    TARGETS,
    Graph,
    assert_equal,
    compiled,
    run,
)

pytestmark = pytest.mark.tvm

NAMES = [pytest.param(n, marks=pytest.mark.emulated if n in EMULATED else ()) for n in TARGETS]
# Heads, rows, depth, columns; both zero points.
CASE = st.fixed_dictionaries(
    {
        "shape": st.tuples(
            st.integers(1, 3), st.integers(1, 20), st.integers(1, 70), st.integers(1, 40)
        ),
        "zero_points": st.tuples(
            st.one_of(st.just(0), st.integers(-128, 127)),
            st.one_of(st.just(0), st.integers(-128, 127)),
        ),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def add_product(graph: Graph, shape: tuple[int, ...], zero_points: tuple[int, int]) -> str:
    """Slices of the input, (heads, rows, depth) and (heads, depth, columns), multiplied."""
    heads, rows, depth, columns = shape

    def part(start: int, end: int, sizes: list[int], zero_point: int) -> str:
        bounds = [graph.constant(np.array([v], np.int64)) for v in (start, end, 1)]
        flat = graph.node("Slice", ["x", *bounds])
        shaped = graph.node("Reshape", [flat, graph.constant(np.array(sizes, np.int64))])
        return graph.quantize(shaped, 0.05, zero_point)

    middle = heads * rows * depth
    first = part(0, middle, [heads, rows, depth], zero_points[0])
    second = part(middle, middle + heads * depth * columns, [heads, depth, columns], zero_points[1])
    return graph.node("MatMul", [first, second])


def graph_of(shapes: list[tuple[int, ...]], points: list[tuple[int, int]], scale: float) -> Graph:
    room = max(h * r * k + h * k * c for h, r, k, c in shapes)
    graph = Graph((1, room), 0)
    for shape, zero_points in zip(shapes, points, strict=True):
        graph.output(add_product(graph, shape, zero_points), scale)
    return graph


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cases=st.lists(CASE, min_size=3, max_size=5))
def test_products_equal_the_reference(
    name: str, cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    target = TARGETS[name]()
    shapes, points = [c["shape"] for c in cases], [c["zero_points"] for c in cases]
    graph = graph_of(shapes, points, 0.5)
    program = compiled(graph, target, tmp_path)
    assert program.layers.int8 == program.layers.total == len(cases)
    x = (np.random.default_rng(cases[0]["seed"]).standard_normal(graph.shape) * 3).astype(
        np.float32
    )
    assert_equal(graph, run(program, target, x, emulated=name in EMULATED), x)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_activations_do_not_saturate(name: str, tmp_path: Path) -> None:
    """All of both operands at -128, or at 127, with zero points at the other end."""
    target = TARGETS[name]()
    shape = (1, 5, 256, 9)
    graph = graph_of([shape] * 3, [(0, 0), (127, 127), (-128, 0)], 6.0)
    program = compiled(graph, target, tmp_path)
    for value in (-100.0, 100.0):
        x = np.full(graph.shape, value, np.float32)
        assert_equal(graph, run(program, target, x, emulated=name in EMULATED), x)


def test_a_long_product_stays_float_and_says_why(tmp_path: Path) -> None:
    graph = graph_of([(1, 2, 1025, 3)], [(0, 0)], 1.0)
    (kept,) = compiled(graph, load_target("host"), tmp_path).layers.kept_float
    assert kept.reason.endswith("sums of more than 1024 products")

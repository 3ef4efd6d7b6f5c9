from typing import Any

import pytest

pytestmark = pytest.mark.tvm


def function(elements: int, factor: float) -> Any:
    from deepseek_edge.backends.tvm.graph import Value
    from deepseek_edge.backends.tvm.schedules.functions import fconst
    from deepseek_edge.backends.tvm.schedules.kernel import build, load, store

    tensors = [Value("x", "float32", (elements,)), Value("y", "float32", (elements,))]
    return build(
        tensors,
        lambda buffers, task: store(
            buffers[1], task, 1, load(buffers[0], task, 1) * fconst(factor, 1)
        ),
    )


def test_equal_functions_share_a_name_and_others_do_not() -> None:
    from deepseek_edge.backends.tvm.kernels import KernelTable

    table = KernelTable()
    functions = [function(4, 2.0), function(4, 2.0), function(4, 3.0), function(5, 2.0)]
    assert [table.add(f) for f in functions] == ["k0", "k0", "k1", "k2"]
    assert list(table.functions) == ["k0", "k1", "k2"]


def test_vectors_cover_a_row_widest_first() -> None:
    from deepseek_edge.backends.tvm.schedules.kernel import pieces

    assert pieces(23, 8) == [(0, 8), (8, 8), (16, 4), (20, 2), (22, 1)]
    assert pieces(0, 8) == []
    assert pieces(1, 16) == [(0, 1)]

import numpy as np
import pytest
from hypothesis import given

from tests.backends.tvm.oracle import Array, Cases, Const, Input, assert_equals_reference
from tests.backends.tvm.strategies import FEW, Draw, drawers

pytestmark = pytest.mark.tvm


@FEW
@given(d=drawers())
def test_gemm_with_every_attribute(d: Draw) -> None:
    cases = Cases()
    for _ in range(5):
        m, k, n = d.between(1, 20), d.between(1, 40), d.between(1, 40)
        trans_a, trans_b = d.between(0, 1), d.between(0, 1)
        a = d.floats(*((k, m) if trans_a else (m, k)))
        b = d.floats(*((n, k) if trans_b else (k, n)))
        addend = d.floats(*d.one((), (n,), (1,), (m, 1), (1, n), (m, n)))
        inputs: list[Input] = [a, d.one(b, Const(b))]
        if d.between(0, 3):
            inputs.append(d.one(addend, Const(addend)))
        cases.add(
            "Gemm",
            *inputs,
            alpha=d.one(1.0, 0.5),
            beta=d.one(1.0, 2.0, 0.0),
            transA=trans_a,
            transB=trans_b,
        )
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_products_of_matrices_vectors_and_batches(d: Draw) -> None:
    cases = Cases()
    m, k, n = d.between(1, 33), d.between(1, 65), d.between(1, 47)
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((k,), (k,)),
        ((k,), (k, n)),
        ((m, k), (k,)),
        ((3, m, k), (k,)),
        ((k,), (3, k, n)),
        ((m, k), (k, n)),
        ((3, m, k), (k, n)),
        ((m, k), (3, k, n)),
        ((2, 1, m, k), (3, k, n)),
        ((2, 3, 1, m, k), (3, 2, k, n)),
    ]
    for a_shape, b_shape in shapes:
        a, b = d.floats(*a_shape), d.floats(*b_shape)
        constant = d.one("none", "left", "right")
        cases.add(
            "MatMul", Const(a) if constant == "left" else a, Const(b) if constant == "right" else b
        )
    assert_equals_reference(cases)


EQUATIONS: dict[str, list[tuple[int, ...]]] = {
    "ij,jk->ik": [(3, 4), (4, 5)],
    "bij,bkj->bik": [(2, 3, 4), (2, 5, 4)],
    "bihd,bjhd->bhij": [(2, 3, 4, 5), (2, 6, 4, 5)],
    "bij->bji": [(2, 3, 4)],
    "ij->i": [(3, 4)],
    "i,j->ij": [(3,), (4,)],
    "ij,jk": [(3, 4), (4, 5)],
    "i,i->": [(3,), (3,)],
    "ij,ij->j": [(3, 4), (3, 4)],
    "ijz,jk->ki": [(3, 4, 2), (4, 5)],
}


def test_einsum_of_one_and_two_operands() -> None:
    random = np.random.default_rng(0)
    cases = Cases()
    for equation, shapes in EQUATIONS.items():
        arrays: list[Array] = [random.standard_normal(s).astype(np.float32) for s in shapes]
        cases.add("Einsum", *arrays, equation=equation)
    assert_equals_reference(cases)


@FEW
@given(d=drawers())
def test_attention(d: Draw) -> None:
    cases = Cases()
    heads, size, tokens = d.between(1, 3), d.between(4, 9), d.between(2, 12)
    x = d.floats(1, tokens, heads * size)
    scale = Const(d.floats(heads * size))
    normal = cases.inner("LayerNormalization", x, scale, Const(d.floats(heads * size)), axis=-1)
    split = Const(np.array([1, tokens, heads, size]))
    perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    parts = []
    for perm in perms:
        y = cases.inner("MatMul", normal, Const(d.floats(heads * size, heads * size)))
        y = cases.inner("Reshape", cases.inner("Add", y, scale), split)
        parts.append(cases.inner("Transpose", y, perm=perm))
    query, key, value = parts
    score = cases.inner("MatMul", query, key)
    score = cases.inner("Div", score, Const(np.float32(size**0.5)))
    mask = Const(np.where(np.tri(tokens, dtype=bool), 0, -1e9).astype(np.float32))
    weights = cases.inner("Softmax", cases.inner("Add", score, mask), axis=-1)
    y = cases.inner("MatMul", weights, value)
    y = cases.inner("Transpose", y, perm=[0, 2, 1, 3])
    y = cases.inner("Reshape", y, Const(np.array([1, tokens, heads * size])))
    cases.add("Add", y, "x0_0")
    assert_equals_reference(cases)

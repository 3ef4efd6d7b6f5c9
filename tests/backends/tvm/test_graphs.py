"""Whole programs: unusual graphs, names, batches, and what the files look like."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from deepseek_edge.errors import UnsupportedError
from deepseek_edge.runtime.engine import Engine
from tests.backends.tvm.oracle import (
    Array,
    Cases,
    Const,
    assert_equals_reference,
    compiled,
    computed,
    host,
    reference,
)

pytestmark = pytest.mark.tvm


def floats(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def test_inputs_views_constants_and_copies_as_outputs() -> None:
    cases = Cases()
    x = floats(2, 6)
    cases.add("Identity", x)
    view = cases.add("Reshape", x, Const(np.array([3, 4])))
    cases.add("Identity", view)
    cases.add("Reshape", view, Const(np.array([12])))
    cases.add("Constant", value_floats=[1.0, 2.0])
    y = cases.add("Neg", x)
    cases.add("Identity", y)
    cases.add("Dropout", y)
    cases.add("Cast", x, to=1)
    cases.add("Transpose", x, perm=[0, 1])
    cases.add("Transpose", floats(1, 6), perm=[1, 0])
    assert_equals_reference(cases)


def test_an_input_may_be_an_output_under_its_own_name() -> None:
    cases = Cases()
    cases.add("Neg", floats(2, 3))
    model = cases.model()
    model.graph.output.append(model.graph.input[0])
    answers = computed(model, cases.feeds)
    assert np.array_equal(answers["x0_0"], cases.feeds["x0_0"])
    assert np.array_equal(answers["Neg_0"], -cases.feeds["x0_0"])


def test_inputs_that_nobody_reads_stay_inputs() -> None:
    cases = Cases()
    cases.add("Neg", floats(2, 3))
    cases.feeds["idle"] = np.arange(4)
    assert_equals_reference(cases)


def test_scalars_and_single_elements() -> None:
    cases = Cases()
    scalar = np.array(0.5, np.float32)
    y = cases.inner("Add", scalar, Const(scalar))
    cases.add("Mul", y, np.array([2], np.float32))
    cases.add("Exp", scalar)
    cases.add("ReduceMean", floats(1, 1, 1), keepdims=0)
    cases.add("Unsqueeze", scalar, Const(np.array([0, 1])))
    assert_equals_reference(cases)


def test_integer_inputs_choose_rows() -> None:
    cases = Cases()
    words = np.array([[3, 0, 7, 1]])
    rows = cases.inner("Gather", Const(floats(9, 16)), words)
    mask = cases.inner("Cast", np.array([[1, 1, 0, 1]]), to=1)
    mask = cases.inner("Unsqueeze", mask, Const(np.array([-1])))
    cases.add("ReduceSum", cases.inner("Mul", rows, mask), Const(np.array([1])))
    assert_equals_reference(cases)


def test_a_chain_of_a_thousand_operators() -> None:
    cases = Cases()
    name = cases.inner("Neg", floats(7))
    for number in range(1000):
        name = cases.inner(("Abs", "Neg", "Softsign")[number % 3], name)
    cases.add("Neg", name)
    assert_equals_reference(cases)


def test_a_value_that_many_read_and_diamonds() -> None:
    cases = Cases()
    x = cases.inner("Tanh", floats(3, 20))
    parts = [cases.inner("Mul", x, Const(floats(20) * n)) for n in range(20)]
    total = parts[0]
    for part in parts[1:]:
        total = cases.inner("Add", total, part)
    cases.add("Add", total, x)
    cases.add("Sub", parts[3], parts[4])
    assert_equals_reference(cases)


def test_names_survive_whatever_is_in_them(tmp_path: Path) -> None:
    names = ['a "quoted" \\ name?', "größe/日本", "line\nbreak\ttab", "??/", "%s %d \\x41"]
    nodes = [helper.make_node("Neg", [name], [f"{name} out"], name) for name in names]
    infos = [helper.make_tensor_value_info(name, 1, [2]) for name in names]
    outs = [helper.make_tensor_value_info(f"{name} out", 1, [2]) for name in names]
    model = helper.make_model(
        helper.make_graph(nodes, "names", infos, outs), opset_imports=[helper.make_opsetid("", 17)]
    )
    with Engine(compiled(model, tmp_path).library, threads=1) as engine:
        assert [spec.name for spec in engine.inputs(0)] == names
        assert [spec.name for spec in engine.outputs(0)] == [f"{name} out" for name in names]
        assert [name for name, _ in engine.steps(0)] == names


def test_equal_steps_share_a_kernel_and_equal_weights_their_bytes(tmp_path: Path) -> None:
    cases = Cases()
    weights = floats(64, 64)
    y = floats(4, 64)
    name = cases.inner("MatMul", y, Const(weights))
    for _ in range(7):
        name = cases.inner("MatMul", name, Const(weights))
    cases.add("Neg", name)
    program = compiled(cases.model(), tmp_path)
    source = (tmp_path / "program.c").read_text()
    assert len(program.entries[0].steps) == 8
    assert source.count("void k") == 2  # the product, and the product that is negated too
    assert program.weights_bytes == weights.nbytes


def test_batches_share_their_weights(tmp_path: Path) -> None:
    cases = Cases()
    x = floats(1, 8, 12, 12)
    y = cases.inner("Conv", x, Const(floats(64, 8, 3, 3)), Const(floats(64)))
    y = cases.inner("Conv", cases.inner("Relu", y), Const(floats(64, 64, 3, 3)))
    y = cases.inner("Flatten", cases.inner("GlobalAveragePool", y))
    cases.add("Gemm", y, Const(floats(64, 300)))
    model = cases.model()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    (tmp_path / "both").mkdir()
    (tmp_path / "one").mkdir()
    both = compiled(model, tmp_path / "both", host(), 1, 4)
    one = compiled(model, tmp_path / "one")
    assert both.weights_bytes <= 1.01 * one.weights_bytes
    four = np.random.default_rng(4).standard_normal((4, *x.shape[1:]), np.float32)
    with Engine(both.library, threads=2) as engine:
        (answers,) = engine.run({"x0_0": four}, entry=1).values()
        each = [engine.run({"x0_0": item[None]}, entry=0) for item in four]
    expected = np.concatenate([next(iter(one.values())) for one in each])
    assert np.allclose(answers, expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(answers[:1], reference(model, {"x0_0": four[:1]})["Gemm_5"], atol=1e-3)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    cases = Cases()
    y = cases.inner("Conv", floats(1, 5, 9, 9), Const(floats(7, 5, 3, 3)))
    y = cases.inner("Sigmoid", y)
    cases.add("Softmax", cases.inner("Flatten", y))
    cases.add("ReduceMean", y, axes=[0, 2])
    libraries = []
    for name in ("here", "a longer name/there"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        libraries.append(compiled(cases.model(), folder).library.read_bytes())
    assert libraries[0] == libraries[1]


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "reason"),
    [
        ("MatMul", [np.ones((2, 3), np.int32), np.ones((3, 2), np.int32)], {},
         r"MatMul \(node 'MatMul 0'\) of int32"),
        ("Conv", [floats(1, 2, 3, 3, 3), Const(floats(2, 2, 1, 1, 1))], {}, "3 spatial"),
        ("Conv", [floats(1, 2, 3, 3), floats(2, 2, 1, 1)], {}, "aren't constant"),
        ("MaxPool", [floats(1, 2, 3, 3)], {"kernel_shape": [2, 2], "count": 2}, "output 2"),
        ("Mod", [floats(3), floats(3)], {"fmod": 1}, "Mod .* of float32"),
        ("Exp", [floats(3).astype(np.float16)], {}, "Exp .* of float16"),
        ("Pad", [floats(2, 2), Const(np.array([1, 1, 1, 1])), np.array(1, np.float32)], {},
         "Pad .* depend on data"),
        ("TopK", [floats(3, 7), Const(np.array([3]))], {"count": 2}, "operator TopK"),
        ("Reshape", [floats(2, 6), np.array([3, 4])], {}, "depends on data"),
        ("Pow", [np.arange(4), np.arange(4)], {}, "Pow .* of int64"),
        ("CumSum", [floats(2, 2000), Const(np.array(1))], {}, "CumSum .* over 2000"),
    ],
)  # fmt: skip
def test_what_is_not_compiled_is_refused_by_node(
    op: str, inputs: list[Array | Const], attrs: dict[str, object], reason: str
) -> None:
    cases = Cases()
    cases.add(op, *inputs, **attrs)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=reason):
        computed(cases.model(), cases.feeds)

"""The same operators for other cores, compared with the same reference: ARM64 under QEMU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.device import qemu
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target
from tests.backends.tvm.oracle import (
    TOLERANCE,
    Array,
    Cases,
    Const,
    compiled,
    difference,
    reference,
)
from tests.backends.tvm.strategies import Draw
from tests.backends.tvm.test_convolutions import KINDS, add_convolution
from tests.backends.tvm.test_functions import EXPECTED, SPECIAL
from tests.backends.tvm.test_integer import TARGETS
from tests.backends.tvm.test_recurrent import add as add_recurrent

pytestmark = pytest.mark.tvm


def many_operators(d: Draw) -> Cases:
    cases = Cases(opset=19)
    for kind in KINDS:
        add_convolution(cases, d, kind, 2)
    x = d.floats(2, 9, 7, 6)
    cases.add("ConvTranspose", x, Const(d.floats(9, 5, 3, 3)), strides=[2, 2])
    for op in ("MaxPool", "AveragePool"):
        cases.add(op, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cases.add("Resize", x, None, None, Const(np.array([2, 9, 11, 9])), mode="linear")
    for axes in ([1], [0, 2], [3]):
        cases.add("ReduceSum", x, Const(np.array(axes)))
    for axis in (1, -1):
        cases.add("Softmax", x, axis=axis)
    cases.add("LayerNormalization", x, Const(d.floats(6)), Const(d.floats(6)))
    cases.add("MatMul", d.floats(3, 7, 33), Const(d.floats(33, 21)))
    cases.add("MatMul", d.floats(3, 7, 33), d.floats(3, 33, 21))
    for op in ("Sigmoid", "Tanh", "Erf", "Exp", "Mish", "Round", "Sin", "HardSwish"):
        cases.add(op, x)
    cases.add("Pow", np.abs(x), Const(d.floats(6)))
    cases.add("Where", x > 0, x, Const(np.array(-1, np.float32)))
    cases.add("Div", d.integers(3, 17), np.full(17, 7))
    cases.add("Cast", d.integers(3, 17), to=1)
    cases.add("Transpose", x, perm=[3, 1, 0, 2])
    cases.add("Concat", x, x, axis=3)
    cases.add("Slice", x, *(Const(np.array([v])) for v in (-1, -9, 2, -2)))
    cases.add("Pad", x, Const(np.array([0, 1, 2, 0, 0, 1, 1, 2])), mode="reflect")
    cases.add("Gather", x, np.array([1, -1]), axis=2)
    cases.add("ArgMax", x, axis=1)
    add_recurrent(cases, "GRU", 2, 2, "forward")
    return cases


def wrong_answers(expected: dict[str, Array], answers: dict[str, Array]) -> dict[str, str]:
    return {
        name: found
        for name in expected
        if (found := difference(expected[name], answers[name], TOLERANCE)) is not None
    }


@pytest.mark.parametrize("core", ["sse", "avx2"])
def test_many_operators_on_older_x86_cores(tmp_path: Path, core: str) -> None:
    cases = many_operators(Draw(8))
    model = cases.model()
    program = compiled(model, tmp_path, TARGETS[core]())
    with Engine(program.library, threads=2) as engine:
        assert wrong_answers(reference(model, cases.feeds), engine.run(cases.feeds)) == {}


@pytest.mark.emulated
@pytest.mark.parametrize("id", ["raspberry-pi-4", "android-arm64"])
def test_many_operators_equal_the_reference(tmp_path: Path, id: str) -> None:
    cases = many_operators(Draw(7))
    model, target = cases.model(), load_target(id)
    program = compiled(model, tmp_path, target)
    answers = qemu.run(
        program.library, target, cases.feeds, specs=program.entries[0], threads=2, timeout_s=100
    )
    assert wrong_answers(reference(model, cases.feeds), answers) == {}


@pytest.mark.emulated
def test_special_values_are_as_on_the_host(tmp_path: Path) -> None:
    cases, target = Cases(opset=20), load_target("raspberry-pi-4")
    names = {op: cases.add(op, SPECIAL) for op in EXPECTED}
    low = np.where(np.isnan(SPECIAL), 1, SPECIAL)
    cases.add("Max", SPECIAL, low)
    cases.add("Min", low, SPECIAL)
    program = compiled(cases.model(), tmp_path, target)
    answers = qemu.run(
        program.library, target, cases.feeds, specs=program.entries[0], timeout_s=100
    )
    wrong = {
        op: answers[name].tolist()
        for op, name in names.items()
        if not np.allclose(answers[name], EXPECTED[op], rtol=1e-5, atol=5e-7, equal_nan=True)
    }
    assert wrong == {}
    assert np.isnan(answers[cases.outputs[-1]][0])
    assert np.isnan(answers[cases.outputs[-2]][0])


@pytest.mark.emulated
def test_convolutions_of_an_image_equal_the_reference(tmp_path: Path) -> None:
    d, cases, target = Draw(9), Cases(opset=19), load_target("raspberry-pi-4")
    image = d.floats(2, 3, 15, 19)
    for size, stride, dilation, pad in (
        (7, 2, 1, 3),
        (3, 2, 1, 1),
        (3, 1, 1, 1),
        (2, 1, 3, 6),  # the first and last pixels read nothing but padding
        (11, 4, 1, 2),
        (12, 1, 1, 0),
    ):
        weights = Const(d.floats(20, 3, size, size))
        attributes: dict[str, Any] = {
            "strides": [stride] * 2,
            "dilations": [dilation] * 2,
            "pads": [pad] * 4,
        }
        cases.add("Conv", image, weights, Const(d.floats(20)), **attributes)
    model = cases.model()
    program = compiled(model, tmp_path, target)
    answers = qemu.run(
        program.library, target, cases.feeds, specs=program.entries[0], timeout_s=100
    )
    assert wrong_answers(reference(model, cases.feeds), answers) == {}

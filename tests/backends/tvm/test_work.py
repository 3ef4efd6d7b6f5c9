from dataclasses import replace

import numpy as np
import pytest

from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Node, Value, constant
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.backends.tvm.work import describe_step
from deepseek_edge.target import load_target

PI_4 = load_target("raspberry-pi-4")
X = Value("x", "float32", (1, 4, 4, 3))
Y, Z = (Value(name, "float32", (1, 4, 4, 8)) for name in "yz")
WEIGHTS = constant("w", np.ones((8, 3, 1, 1), np.float32))


def conv(op: str = "Conv", weights: Value = WEIGHTS) -> FusedStep:
    return FusedStep(Node(op, [X, weights], [Y], source="conv"), [Node("Relu", [Y], [Z])])


def test_a_layer_counts_two_operations_a_product_and_one_for_each_follower() -> None:
    found = describe_step(conv(), Lowering(None, (X, WEIGHTS, Z), 4, 384), PI_4)
    assert (found.name, found.op, found.macs, found.lane_macs) == ("conv", "Conv+Relu", 384, 1)
    assert found.operations == 2 * 384 + 128
    assert (found.bytes_read, found.bytes_written) == (4 * (48 + 24), 4 * 128)


def test_what_multiplies_nothing_has_operations_but_no_products() -> None:
    pool = FusedStep(Node("AveragePool", [X], [Y]))
    found = describe_step(pool, Lowering(None, (X, Y), 4, 500), PI_4)
    assert (found.macs, found.operations) == (0, 500)
    relu = FusedStep(None, [Node("Relu", [Y], [Z])])
    found = describe_step(relu, Lowering(None, (Y, Z), 4, 9999), PI_4)
    assert (found.name, found.macs, found.operations) == ("z", 0, 128)


@pytest.mark.parametrize(
    ("features", "deep", "depthwise"),
    [((), 2, 2), (("dotprod",), 4, 4), (("dotprod", "i8mm"), 8, 4)],
)
def test_an_integer_instruction_multiplies_as_much_as_its_unit_does(
    features: tuple[str, ...], deep: int, depthwise: int
) -> None:
    target = replace(PI_4, features=features)
    lowering = Lowering(None, (X, WEIGHTS, Z), 4, 384)
    assert describe_step(conv("IntegerConv"), lowering, target).lane_macs == deep
    single = conv("IntegerConv", constant("w", np.ones((8, 1, 3, 3), np.int8)))
    assert describe_step(single, lowering, target).lane_macs == depthwise

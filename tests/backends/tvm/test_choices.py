from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_edge.backends.tvm import compile_program, prepare
from deepseek_edge.backends.tvm.choice import BY_MODEL, Choice
from deepseek_edge.backends.tvm.schedules import lower
from deepseek_edge.backends.tvm.tuning import (
    describe,
    possible_moves,
    step_key,
    tunable_steps,
    with_choices,
)
from deepseek_edge.parity import Reference, sample_inputs
from deepseek_edge.runtime.engine import Engine
from deepseek_edge.target import load_target

pytestmark = pytest.mark.tvm


def net(width: int = 40) -> onnx.ModelProto:
    """Two equal 3x3 convolutions, a 1x1 one and a matrix product, on 13x13 pixels."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((width, width, 3, 3)) / 20,
        "p": rng.standard_normal((24, width, 1, 1)) / 5,
        "m": rng.standard_normal((13, 50)) / 4,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="one", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["b", "p"], ["c"], name="three"),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("MatMul", ["d", "m"], ["y"], name="four"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width, 13, 13])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24, 13, 50])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_steps_that_are_alike_share_a_key_and_others_do_not() -> None:
    target = load_target("host")
    found = tunable_steps(net(), target, 1)
    assert len({step.key for step in found}) == len(found) == 3
    assert sorted(len(step.places) for step in found) == [1, 1, 2]
    assert {step.key for step in tunable_steps(net(), target, 1)} == {s.key for s in found}
    assert not {step.key for step in tunable_steps(net(48), target, 1)} & {
        step.key for step in found if "Conv" in step.description
    }
    twice = next(step for step in found if len(step.places) == 2)
    assert "Conv(float32[1, 13, 13, 40], float32[40, 40, 3, 3] constant" in twice.description


def test_a_schedule_says_what_it_did_and_does_what_it_is_told() -> None:
    target = load_target("raspberry-pi-5")
    _, fused, _ = prepare(net(), target, 1)
    step = next(step for step in fused if step.nodes[0].source == "one")
    told = Choice("direct", 5, 3, blocks_outer=True, unroll=8)
    (changed,) = with_choices([step], {step_key(step): told})
    assert lower(changed, target).choice == told
    by_model = lower(step, target).choice
    assert by_model is not None
    assert by_model.filtering in ("F2", "F4")
    assert describe(changed) == describe(step)


def test_every_move_differs_from_what_the_model_chose() -> None:
    target = load_target("host")
    chosen = Choice("direct", 14, 2, blocks_outer=False, unroll=2)
    moves = list(possible_moves(chosen, target, 1000))
    assert len(set(moves)) == len(moves) > 8
    assert not any(move.over(chosen) in (chosen, BY_MODEL) for move in moves)
    narrow = possible_moves(chosen, target, 10)
    assert {move.vectors for move in narrow if move.vectors} <= {1, 2}


def test_other_choices_compute_the_same(tmp_path: Path) -> None:
    target, model = load_target("host"), net()
    steps = tunable_steps(model, target, 1)
    for number in range(0, 12, 4):
        folder = tmp_path / str(number)
        folder.mkdir()
        program = compile_program(
            model,
            target,
            batches=(1,),
            work_dir=folder,
            progress=lambda *_: None,
            choices={step.key: step.moves[number % len(step.moves)] for step in steps},
        )
        inputs = sample_inputs(model, program.entries[0].inputs, 0)
        with Engine(program.library) as engine:
            found = engine.run(inputs)["y"]
        expected = Reference(model).run(inputs)["y"]
        assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)

"""What a step has to do at least: the figures that rooflines and cost models are made of."""

from deepseek_edge.artifacts import Step
from deepseek_edge.backends.tvm.fuse import FusedStep
from deepseek_edge.backends.tvm.graph import Node, Scratch
from deepseek_edge.backends.tvm.operators import is_elementwise
from deepseek_edge.backends.tvm.schedules.dot import (
    LONGEST_SUM,
    NEON,
    contraction_unit,
    integer_unit,
)
from deepseek_edge.backends.tvm.schedules.lowering import Lowering
from deepseek_edge.target import Target

_INTEGER_LAYERS = ("IntegerConv", "IntegerMatMul")
_LAYERS = ("Conv", "ConvTranspose", "MatMul", *_INTEGER_LAYERS)


def describe_step(step: FusedStep, lowering: Lowering, target: Target) -> Step:
    """What the manifest says of a step."""
    anchor = step.anchor
    macs = lowering.macs if anchor is not None and anchor.op in _LAYERS else 0
    # Pooling, reductions and the like: the schedule says about how many operations they are.
    operations = 2 * macs or (lowering.macs if anchor is not None else 0)
    operations += sum(node.output.elements for node in step.nodes if is_elementwise(node))
    outputs = sum(value.spec.size_bytes for value in step.outputs)
    tensors = {value for value in lowering.tensors if not isinstance(value, Scratch)}
    moved = sum(value.spec.size_bytes for value in tensors)
    return Step(
        name=step.nodes[0].source or step.nodes[0].output.name,
        op="+".join(node.op for node in step.nodes),
        macs=macs,
        bytes_read=moved - outputs,
        bytes_written=outputs,
        tasks=lowering.tasks,
        operations=operations,
        lane_macs=1 if anchor is None else _lane_macs(anchor, target),
    )


def _lane_macs(anchor: Node, target: Target) -> int:
    """Multiply-accumulates that one multiplication does in each 32 bits of a register, at most."""
    if anchor.op not in _INTEGER_LAYERS:
        return 1
    is_depthwise = anchor.op == "IntegerConv" and anchor.value(1).shape[1] == 1
    unit = integer_unit(target) if is_depthwise else contraction_unit(target, LONGEST_SUM, rows=2)
    return unit.group // 2 if unit is NEON else unit.group  # a group takes NEON smull and smlal

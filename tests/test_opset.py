import onnx
import pytest
from onnx import TensorProto, helper

from deepseek_edge.errors import UnsupportedError
from deepseek_edge.opset import convert_opset, opset_of


def graph(*opsets: onnx.OperatorSetIdProto) -> onnx.ModelProto:
    """y = ReduceSum(x), whose axes are an attribute up to opset 12 and an input from 13 on."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    node = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0)
    return helper.make_model(helper.make_graph([node], "sum", [x], [y]), opset_imports=opsets)


def test_the_opset_is_that_of_onnxs_own_operators() -> None:
    other = helper.make_opsetid("com.example", 3)
    assert opset_of(graph(other, helper.make_opsetid("", 12))) == 12
    assert opset_of(graph(other, helper.make_opsetid("ai.onnx", 13))) == 13
    assert opset_of(graph(other)) == 1


def test_operators_are_rewritten_in_a_copy() -> None:
    given = graph(helper.make_opsetid("", 12))
    before = given.SerializeToString()
    found = convert_opset(given, 17, hint="")
    assert opset_of(found) == 17
    assert [len(node.input) for node in found.graph.node if node.op_type == "ReduceSum"] == [2]
    assert given.SerializeToString() == before


def test_a_graph_of_that_opset_is_copied_as_it_is() -> None:
    given = graph(helper.make_opsetid("", 12))
    found = convert_opset(given, 12, hint="")
    assert found == given
    assert found is not given


def test_what_cannot_be_converted_is_refused_with_the_way_out() -> None:
    given = graph(helper.make_opsetid("", 999))
    with pytest.raises(UnsupportedError, match="opset 999 can't be converted to 17") as refused:
        convert_opset(given, 17, hint="export it anew")
    assert refused.value.hint == "export it anew"

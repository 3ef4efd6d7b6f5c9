import re
from pathlib import Path

import pytest

from deepseek_edge.backends.tvm.operators import ANCHORS, ELEMENTWISE, ONNX, REWRITTEN
from deepseek_edge.backends.tvm.simplify import RULES

DOCUMENT = Path(__file__).parents[3] / "docs" / "operators.md"


def documented() -> list[str]:
    tables = DOCUMENT.read_text("utf-8").split("## Accuracy")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", tables, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_the_document_lists_what_the_importer_lets_in() -> None:
    names = documented()
    assert sorted(names) == sorted(set(names))
    assert set(names) == ONNX


def test_every_operator_is_one_of_onnx() -> None:
    import onnx.defs

    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert known >= ONNX


def test_an_operator_is_scheduled_one_way() -> None:
    assert not set(ELEMENTWISE) & set(ANCHORS)
    assert not REWRITTEN & (set(ELEMENTWISE) | set(ANCHORS))
    assert len(RULES) == len(set(RULES))


@pytest.mark.tvm
def test_whatever_is_let_in_has_a_rule_or_a_schedule() -> None:
    from deepseek_edge.backends.tvm import schedules
    from deepseek_edge.backends.tvm.schedules import arithmetic

    # requantize.py stores what a QuantizeLinear makes.
    assert set(ELEMENTWISE) == {*arithmetic._RULES, "QuantizeLinear"}
    reductions = {op for op in ANCHORS if op.startswith("Reduce")}
    assert set(ANCHORS) == set(schedules._FUSING) | set(schedules._PLAIN) | reductions

import dataclasses
import math

import numpy as np
import onnx
import pytest

from deepseek_edge.distance import compare_float
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.quantization.calibrate import session, with_outputs
from deepseek_edge.quantization.graph import GraphIndex
from deepseek_edge.quantization.insert import insert
from deepseek_edge.quantization.layer_errors import SAMPLES, layer_errors
from deepseek_edge.quantization.placement import place
from deepseek_edge.quantization.quantizer import QuantizedModel
from deepseek_edge.quantization.reconstruct import Rounding
from tests.quantization.graphs import residual, samples


def quantized(rounding: Rounding = "gptq") -> QuantizedModel:
    config = dataclasses.replace(QuantConfig(), rounding=rounding)
    return Quantizer(residual(), config).calibrate(samples(16)).quantize()


def outputs(graph: onnx.ModelProto, name: str) -> list[dict[str, np.ndarray]]:
    run = session(with_outputs(graph, [name]), optimize=False)
    return [{"y": run.run(None, one)[0]} for one in samples(16)[:SAMPLES]]


def sqnr_db(exact: onnx.ModelProto, other: onnx.ModelProto, name: str) -> float:
    return compare_float(outputs(exact, name), outputs(other, name)).sqnr_db


def test_each_layer_is_compared_in_the_whole_graph_and_alone() -> None:
    found = quantized()
    errors = layer_errors(found, samples(16))
    assert [error.name for error in errors] == ["a_node", "b_node", "c_node", "y_node"]
    parts = found.parts
    nodes = {node.name: node for node in parts.model.graph.node}
    placement = place(GraphIndex(parts.model))
    for error in errors:
        node = nodes[error.name]
        assert error.sqnr_db == pytest.approx(
            sqnr_db(parts.model, found.model, node.output[0]), abs=1e-3
        )
        x = node.input[0]
        edges = {x: frozenset({(node.name, 0)})}
        alone = dataclasses.replace(placement, edges=edges, tensors=(x,))
        weights = {node.name: parts.rounded.weights[node.name]}
        graph = insert(parts.model, alone, parts.activations, weights)
        assert error.added_sqnr_db == pytest.approx(
            sqnr_db(parts.model, graph, node.output[0]), abs=1e-3
        )


def test_the_first_layer_has_no_error_but_its_own() -> None:
    first, *_ = layer_errors(quantized("nearest"), samples(16))
    # Bias correction is all that tells them apart.
    assert first.sqnr_db == pytest.approx(first.added_sqnr_db, abs=1.0)
    assert math.isfinite(first.sqnr_db)


def test_layers_that_stay_float_add_nothing() -> None:
    found = quantized().keep_float({"a_node": "asked for"})
    assert [error.name for error in layer_errors(found, samples(4))] == [
        "b_node", "c_node", "y_node",
    ]  # fmt: skip
    nothing = found.keep_float(dict.fromkeys(["b_node", "c_node", "y_node"], "asked for"))
    assert layer_errors(nothing, samples(4)) == ()

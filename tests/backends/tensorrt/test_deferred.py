import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_edge.backends.tensorrt.deferred import Candidate, Deferred, defer_build
from deepseek_edge.errors import InputError, UnsupportedError
from deepseek_edge.quantization import QuantConfig, Quantizer
from deepseek_edge.runtime.board_build.build_recipe import read_recipe
from deepseek_edge.runtime.board_build.flow import DeferredBuild
from deepseek_edge.runtime.board_build.store import EngineStore
from tests.quantization.graphs import residual, samples
from tests.runtime.board_build.stand_in import StandIn, execute

(X,) = samples(1, seed=9)


def quantized(scheme: Any = "symmetric") -> Any:
    quantizer = Quantizer(residual(), QuantConfig(quant_scheme=scheme, rounding="nearest"))
    return quantizer.calibrate(samples(16)).quantize().model


def candidate(model: Any, tolerance: float) -> Candidate:
    raw = execute(model.SerializeToString(), {"x": X["x"].tobytes()})["y"]
    output = np.frombuffer(raw, np.float32).reshape(1, 5)
    return Candidate(model, {"y": output}, {"y": tolerance})


def deferred(model: Any, **changes: Any) -> Deferred:
    candidates = {"int8": candidate(model, 0.05), "float16": candidate(residual(), 0.02)}
    arguments: dict[str, Any] = {"fallback": ["cuda-int8", "cpu-int8"], **changes}
    return defer_build("residual", candidates, X, **arguments)


def files_of(model: Any, **changes: Any) -> Mapping[str, bytes]:
    return deferred(model, **changes).files


def test_a_board_can_build_from_the_files(tmp_path: Path) -> None:
    for name, data in files_of(quantized()).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    recipe = read_recipe(tmp_path)
    assert recipe.model == "residual"
    assert recipe.fallback == ("cuda-int8", "cpu-int8")
    board = StandIn(tmp_path / "gpu")
    outcome = DeferredBuild(recipe, EngineStore(tmp_path / "engines"), lambda: board).ensure()
    assert (outcome.action, outcome.program) == ("built", "tensorrt-int8")
    assert board.builds == ["int8", "float16"]


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert files_of(quantized()) == files_of(quantized())


def test_files_have_fixed_names() -> None:
    files = files_of(quantized())
    assert set(files) == {
        "graph.onnx",
        "graph-fp16.onnx",
        "recipe.json",
        "input.0.bin",
        "int8-output.0.bin",
        "float16-output.0.bin",
    }


def test_a_graph_that_tensorrt_cannot_take_leaves_the_other_one() -> None:
    found = deferred(quantized("asymmetric"))
    assert found.precisions == ("float16",)
    assert list(found.refused) == ["int8"]
    assert "zero point 0" in str(found.refused["int8"])
    assert set(found.files) == {
        "graph-fp16.onnx",
        "recipe.json",
        "input.0.bin",
        "float16-output.0.bin",
    }
    assert list(json.loads(found.files["recipe.json"])["graphs"]) == ["float16"]


def test_a_float_graph_that_cannot_be_halved_leaves_int8() -> None:
    whole = residual()
    whole.functions.add()
    candidates = {
        "int8": candidate(quantized(), 0.05),
        "float16": dataclasses.replace(candidate(residual(), 0.02), model=whole),
    }
    found = defer_build("residual", candidates, X, fallback=[])
    assert found.precisions == ("int8",)
    assert "functions" in str(found.refused["float16"])


def test_without_any_graph_all_reasons_are_named() -> None:
    whole = residual()
    whole.functions.add()
    candidates = {
        "int8": candidate(quantized("asymmetric"), 0.05),
        "float16": dataclasses.replace(candidate(residual(), 0.02), model=whole),
    }
    with pytest.raises(UnsupportedError, match=r"int8: .*zero point 0.*; float16: .*functions"):
        defer_build("residual", candidates, X, fallback=[])


@pytest.mark.parametrize("part", ["outputs", "tolerances"])
def test_outputs_and_tolerances_go_together(part: str) -> None:
    nothing: dict[str, Any] = {part: {}}
    incomplete = dataclasses.replace(candidate(quantized(), 1.0), **nothing)
    with pytest.raises(InputError, match="tolerances of int8"):
        defer_build("residual", {"int8": incomplete}, X, fallback=[])


def test_the_rest_of_int8_may_be_half() -> None:
    whole, mixed = files_of(quantized()), files_of(quantized(), rest="float16")
    assert whole["graph.onnx"] != mixed["graph.onnx"]
    assert whole["graph-fp16.onnx"] == mixed["graph-fp16.onnx"]

"""Each layer, fed the same integers, makes the same integers in fake-quant and artifact.

Except where a number lies exactly between two: float32 sums in another order may round it there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepseek_edge.artifacts import Program
from deepseek_edge.integer_form import integer_form
from deepseek_edge.pipeline.layer_parity import observable
from deepseek_edge.quantization import QuantConfig, QuantizedModel, Quantizer
from deepseek_edge.quantization.affine import Affine, dequantize
from deepseek_edge.quantization.calibrate import session
from deepseek_edge.quantization.graph import set_initializer
from tests.quantization.graphs import conv, conv_constants, model, node, samples

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]
# A number this near to the middle between two integers may become either.
TIE_STEPS = 1e-3


def small() -> onnx.ModelProto:
    """Convolution, hard-swish, depthwise, squeeze-excite, addition, transposed, pooling, Gemm."""
    nodes = [
        conv("x", "a", pads=[1, 1, 1, 1]),
        node("HardSwish", ["a"], "a_act"),
        conv("a_act", "b", group=8, pads=[1, 1, 1, 1]),
        node("Relu", ["b"], "b_act"),
        node("ReduceMean", ["b_act", "spatial"], "mean"),
        conv("mean", "squeeze"),
        node("Relu", ["squeeze"], "squeeze_act"),
        conv("squeeze_act", "excite"),
        node("HardSigmoid", ["excite"], "gate", alpha=1 / 6, beta=0.5),
        node("Mul", ["b_act", "gate"], "gated"),
        conv("gated", "c"),
        node("Add", ["a_act", "c"], "sum"),
        node("MaxPool", ["sum"], "half", kernel_shape=[2, 2], strides=[2, 2]),
        conv("half", "d", strides=[2, 2], pads=[1, 1, 0, 0]),
        node("Clip", ["d", "zero", "six"], "d_act"),
        node("GlobalAveragePool", ["d_act"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "fc_w", "fc_b"], "hidden", transB=1),
        node("HardSwish", ["hidden"], "hidden_act"),
        node("MatMul", ["hidden_act", "out_w"], "product"),
        node("Add", ["product", "out_b"], "y"),
    ]
    constants = {
        **conv_constants("a", (8, 3, 3, 3)),
        **conv_constants("b", (8, 1, 3, 3)),
        **conv_constants("squeeze", (4, 8, 1, 1)),
        **conv_constants("excite", (8, 4, 1, 1)),
        **conv_constants("c", (8, 8, 1, 1)),
        **conv_constants("d", (12, 8, 3, 3)),
        **conv_constants("fc", (10, 12)),
        "out_w": conv_constants("out", (5, 10))["out_w"].T.copy(),
        "out_b": conv_constants("out", (5, 10))["out_b"],
        "spatial": np.array([2, 3], np.int64),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    return model(nodes, {"x": (1, 3, 12, 12)}, ("y",), constants, opset=18)


@pytest.fixture(scope="module", params=["symmetric", "asymmetric"])
def trained(request: pytest.FixtureRequest) -> QuantizedModel:
    from deepseek_edge.quantization.qat import fine_tune
    from deepseek_edge.training import TrainConfig, TrainingData

    before = Quantizer(small(), QuantConfig(quant_scheme=request.param)).calibrate(samples(16))
    inputs = torch.from_numpy(np.concatenate([one["x"] for one in samples(256, seed=5)]))
    data = TrainingData(inputs, torch.arange(256) % 5)
    config = TrainConfig(
        epochs=2, batch_size=32, learning_rate=1e-3, optimizer="adamw", device="cpu"
    )
    return fine_tune(before.quantize(), data, config)


def integers_of_the_graph(quantized: QuantizedModel, x: Array) -> dict[str, Array]:
    """What every quantized tensor holds when the graph's integer form runs."""
    seen = observable(quantized.model)
    names = [value.name for value in seen.graph.output if value.name.startswith("observed/")]
    run = session(integer_form(seen), optimize=False)
    quantizations = [n for n in quantized.model.graph.node if n.op_type == "QuantizeLinear"]
    found = {}
    for one, values in zip(quantizations, run.run(names, {"x": x}), strict=True):
        affine = quantized.parts.activations[one.input[0]]
        steps = np.rint(values.astype(np.float64) / affine.scale)
        found[one.input[0]] = (steps + affine.zero_point).astype(np.int8)
    return found


class Probe:
    """In the place of an activation's fake-quant: notes its input, and gives what it is told."""

    def __init__(
        self, name: str, affine: Affine, integers: Array, numbers: dict[str, Array]
    ) -> None:
        self.name, self.affine, self.numbers = name, affine, numbers
        self.given = torch.from_numpy(dequantize(integers, affine))

    def __call__(self, values: Any) -> Any:
        steps = (values / self.affine.scale).double().numpy()
        self.numbers[self.name] = steps + self.affine.zero_point
        return self.given


def numbers_of_fake_quant(
    quantized: QuantizedModel, x: Array, integers: dict[str, Array]
) -> dict[str, Array]:
    """What each layer makes of given integers in fake-quant, in steps, before it is rounded."""
    from deepseek_edge.quantization.qat import to_module

    module = to_module(quantized).eval()
    numbers: dict[str, Array] = {}
    quantizers: dict[str, Any] = module.activation_quantizers
    for name, quantizer in quantizers.items():
        quantizers[name] = Probe(name, quantizer.affine, integers[name], numbers)
    with torch.no_grad():
        module(torch.from_numpy(x))
    return numbers


def disagreements(
    numbers: dict[str, Array], integers: dict[str, Array]
) -> tuple[int, list[tuple[str, float]]]:
    """How many integers differ, and those that do although the number is beside no tie."""
    assert numbers.keys() == integers.keys()
    count, wrong = 0, []
    for name, value in numbers.items():
        differs = np.clip(np.rint(value), -128, 127) != integers[name]
        count += int(differs.sum())
        distance = np.abs(value - np.floor(value) - 0.5)
        wrong += [(name, float(d)) for d in distance[differs] if d > TIE_STEPS]
    return count, wrong


def test_every_layer_makes_the_graphs_integers(trained: QuantizedModel) -> None:
    assert len(trained.layers) == 8
    total = differing = 0
    for sample in samples(8, seed=11):
        integers = integers_of_the_graph(trained, sample["x"])
        numbers = numbers_of_fake_quant(trained, sample["x"], integers)
        count, wrong = disagreements(numbers, integers)
        assert wrong == []
        differing += count
        total += sum(value.size for value in integers.values())
    assert total > 30_000 and differing < 1e-3 * total


def test_a_step_that_is_not_the_trained_one_shows(trained: QuantizedModel) -> None:
    x = samples(1, seed=11)[0]["x"]
    name = f"{trained.layers[1]}/weights/scale"
    shifted = onnx.ModelProto()
    shifted.CopyFrom(trained.model)
    old = next(t for t in trained.model.graph.initializer if t.name == name)
    set_initializer(shifted, name, numpy_helper.to_array(old) * np.float32(1.01))
    integers = integers_of_the_graph(replace(trained, model=shifted), x)
    numbers = numbers_of_fake_quant(trained, x, integers)
    assert len(disagreements(numbers, integers)[1]) > 10


@pytest.mark.tvm
def test_the_compiled_artifact_computes_the_trained_graph(
    trained: QuantizedModel, tmp_path: Path
) -> None:
    from deepseek_edge.backends.tvm import compile_program
    from deepseek_edge.pipeline.placement import open_program
    from deepseek_edge.target import load_target

    target = load_target("host")
    seen = observable(trained.model)
    program: Program = compile_program(
        seen, target, batches=(1,), work_dir=tmp_path, progress=lambda *_: None
    )
    run_graph = session(integer_form(seen), optimize=False)
    names = [value.name for value in seen.graph.output]
    with open_program(program, target, "host") as run:
        for sample in samples(4, seed=12):
            found = run(sample, 0)
            expected = dict(zip(names, run_graph.run(names, sample), strict=True))
            for name in names:
                assert np.allclose(found[name], expected[name], rtol=1e-6, atol=1e-6), name
